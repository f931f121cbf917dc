"""What MkDocs does not do by itself: patterns in the navigation, links to files outside of docs/, lists without a gap.

The pages are read in the repository, too, where a link may lead to any file of it and a list or a heading may follow a
line of text. The site takes such a file along, and puts the blank line that its own Markdown wants.
"""

import re
from pathlib import Path
from posixpath import dirname, normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TAKEN = "project"
"""Folder of the site for files of the project that pages link to."""

_ITEM = re.compile(r"([-*]|1\.) ")
_LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that a pattern of the navigation means in its place, by name."""
    config.nav = [_expanded(entry) for entry in config.nav or ()]
    return config


def _expanded(entry: object) -> object:
    if isinstance(entry, dict):
        return {title: _expanded(below) for title, below in entry.items()}
    if isinstance(entry, list):
        return [_expanded(one) for one in entry]
    if isinstance(entry, str) and "*" in entry:
        found = sorted(DOCS.glob(entry), key=lambda path: (path.name != "README.md", path.name))
        return [path.relative_to(DOCS).as_posix() for path in found]
    return entry


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along the files outside of docs/ that a page links to; one that is not there stays a broken link."""
    for page in [file for file in files.documentation_pages() if file.abs_src_path]:
        for link in _LINK.findall(page.content_string):
            if (inside := _inside(page, link)) is not None and files.get_file_from_path(f"{TAKEN}/{inside}") is None:
                taken = File.generated(config, f"{TAKEN}/{inside}", abs_src_path=str(ROOT / inside))
                taken.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(taken)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to such files lead to where they lie in the site."""
    del config, files
    up = "../" * page.file.src_uri.count("/")

    def moved(match: re.Match[str]) -> str:
        inside = _inside(page.file, match[1])
        return match[1] if inside is None else f"{up}{TAKEN}/{inside}"

    return _LINK.sub(moved, _with_gaps(markdown))


def _with_gaps(markdown: str) -> str:
    """A blank line between a line of text and the list, or a row of a table and the heading, that follows it."""
    lines: list[str] = []
    fenced, before = False, ""
    for line in markdown.splitlines():
        if re.match(r"\s*```", line):
            fenced = not fenced
        text = re.match(r"[^\s#|>-]", before) is not None and not _ITEM.match(before)
        if not fenced and ((text and _ITEM.match(line)) or (before.startswith("|") and line.startswith("#"))):
            lines.append("")
        lines.append(line)
        before = line
    return "\n".join(lines)


def _inside(page: File, link: str) -> str | None:
    """A linked file's path in the repository where it is a file outside of docs/, else None."""
    target = normpath(f"docs/{dirname(page.src_uri)}/{link}")
    outside = not target.startswith(("docs/", "../"))
    return target if outside and (ROOT / target).is_file() else None
