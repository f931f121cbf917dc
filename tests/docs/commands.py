"""The commands that README and docs tell people to type, and whether the programs of this project take them."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import typer

from dicom_node.cli import app
from training import __main__ as training_program

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
OURS = ("dicom-node", "python", "make", "pytest", "pip", "mkdocs")
_STANDS_FOR = {"N": "1", "SECONDS": "1", "DAYS": "1", "NUMBER": "1", "VERSION": "1", "S": "1"}
"""What a reader puts in the place of a number; other words in capitals stand for text, which any text will do for."""
_SYNTAX = {"for", "done", "do", "then", "fi", "if"}


@dataclass(frozen=True, slots=True)
class Command:
    """One command as a page has it.

    Attributes:
        page: its path from the root.
        words: as a shell splits them, the program without its folder first.
        whole: whether it is to be typed as it stands, and not named in a sentence.
    """

    page: str
    words: tuple[str, ...]
    whole: bool

    @property
    def text(self) -> str:
        """The words again."""
        return " ".join(self.words)


def commands(pages: Sequence[Path] = PAGES) -> list[Command]:
    """Every command of these pages: of blocks, fenced as `sh` or indented, and named between backticks."""
    return [command for page in pages for command in _of_text(page.relative_to(ROOT).as_posix(), page.read_text())]


def _of_text(page: str, text: str) -> Iterator[Command]:
    for block in re.findall(r"(?ms)^( *)```sh\n(.*?)^ *```", text):
        yield from _of_block(page, block[1])
    rest = re.sub(r"(?ms)^ *```.*?^ *```\n", "", text)
    for block in re.findall(r"(?m)(?:^    \S.*\n(?:^ {5,}.*\n)*)+", rest):
        if _program(block.split()[0]) in OURS:
            yield from _of_block(page, block)
    for named in re.findall(r"`([^`\n]+)`", rest):
        if _program(named.split()[0] if named.split() else "") in OURS and len(named.split()) > 1:
            yield from (Command(page, words, whole=False) for words in _split(named)[:1])


def _of_block(page: str, block: str) -> Iterator[Command]:
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"\n {5,}(?=\[)", " ", block))
    for line in joined.splitlines():
        for words in _split(line):
            yield Command(page, words, whole=True)


def _split(line: str) -> list[tuple[str, ...]]:
    """The commands of a line, without comments, redirections and what surrounds a choice.

    `[--json]` counts as `--json`, and of `a|b` the first.
    """
    line = re.sub(r"\[((?:-|[A-Z])[^\[\]\n]*)\]", r"\1", line)
    line = re.sub(r"(?<=[a-z])\|[a-z|]+", "", line)
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, "#"
    found: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("();<>|&"):
            found.append([">"] if set(word) <= {"<", ">"} else [])
        else:
            found[-1].append(word)
    return [cleaned for words in found if words[:1] != [">"] and (cleaned := _cleaned(words))]


def _cleaned(words: list[str]) -> tuple[str, ...]:
    while words and (words[0] in _SYNTAX or re.match(r"[A-Za-z_]+=", words[0])):
        words = [] if words[0] == "for" else words[1:]
    return (_program(words[0]), *words[1:]) if words else ()


def _program(word: str) -> str:
    name = word.rpartition("/")[2]
    return "python" if re.fullmatch(r"python3?", name) else name


def problem(command: Command) -> str | None:
    """What is wrong with a command of this project's programs; None where nothing is, or it is another's program."""
    program, *rest = command.words
    check = {"dicom-node": _node, "make": _make, "pytest": _pytest, "pip": _pip, "python": _python}.get(program)
    return check(rest, whole=command.whole) if check else None


def _node(words: Sequence[str], *, whole: bool) -> str | None:
    command: Any = typer.main.get_command(app)
    rest, path = [_STANDS_FOR.get(word, word) for word in words], "dicom-node"
    context = command.make_context("dicom-node", [], resilient_parsing=True)
    while hasattr(command, "commands") and rest:
        name, *rest = rest
        if name.startswith("-"):
            known = {option for one in command.params for option in one.opts}
            return None if name in known else f"{path} has no option {name}"
        if (found := command.get_command(context, name)) is None:
            return f"{path} has no command {name}"
        command, path = found, f"{path} {name}"
    if hasattr(command, "commands"):
        return f"{path} needs a command" if whole else None
    try:
        if whole:
            command.make_context(path, [*rest])
        else:
            command.make_parser(context).parse_args([*rest])
    except Exception as error:  # noqa: BLE001 - Click's errors of usage, of the Click that Typer brings
        return None if _only_incomplete(error, whole=whole) else f"{path}: {getattr(error, 'message', None) or error}"
    return None


def _only_incomplete(error: Exception, *, whole: bool) -> bool:
    """Whether a command named in a sentence merely leaves out a value, as in `retrain submit --labels`."""
    return not whole and "requires an argument" in str(getattr(error, "message", error))


def _python(words: Sequence[str], *, whole: bool) -> str | None:
    if words[:1] == ["-m"] and len(words) > 1:
        module, rest = words[1], words[2:]
        if module == "training":
            return _training(rest, whole=whole)
        if module == "venv":
            return None
        return _module(module, rest)
    script = ROOT / words[0]
    return None if script.is_file() or words[0].startswith("-") else f"{words[0]}: no such file"


def _training(words: Sequence[str], *, whole: bool) -> str | None:
    parser = training_program._parser()
    rest, path = [_STANDS_FOR.get(word, word) for word in words], "python -m training"
    given = [*rest]
    while (below := _below(parser)) is not None:
        if not rest:
            return f"{path} needs a command" if whole else None
        name, *rest = rest
        if name not in below:
            return f"{path} has no command {name}"
        parser, path = below[name], f"{path} {name}"
    known = {option for action in parser._actions for option in action.option_strings}
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            return f"{path} has no option {word}"
    if whole:
        said = StringIO()
        try:
            with redirect_stderr(said):
                training_program._parser().parse_args(given)
        except SystemExit:
            return said.getvalue().splitlines()[-1]
    return None


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser] | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return None


def _module(module: str, words: Sequence[str]) -> str | None:
    """A module of this repository whose text names each option."""
    path = ROOT.joinpath(*module.split("."))
    if module.split(".", maxsplit=1)[0] not in {"dicom_node", "tests", "training"}:
        return None
    file = next((one for one in (path / "__main__.py", path.with_suffix(".py")) if one.is_file()), None)
    if file is None:
        return f"python -m {module}: no such module"
    text = file.read_text()
    roles = {f"--{role}s" for role in ("listener", "worker", "sender")} if 'f"--{role}s"' in text else set()
    for word in words:
        if word.startswith("--") and f'"{word}"' not in text and word not in roles:
            return f"python -m {module} has no option {word}"
    return None


def _make(words: Sequence[str], *, whole: bool) -> str | None:
    del whole
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"(?m)^\.PHONY: (.*)$", text)[1].split())
    for word in words:
        name, assigned, value = word.partition("=")
        if assigned and not re.search(rf"(?m)^(?:export )?{name} \?=", text):
            return f"make: no variable {name}"
        if not assigned and name not in targets:
            return f"make: no target {name}"
        if assigned and name == "ARGS":
            program = {"demo": ("dicom-node", "demo"), "faults": ("python", "-m", "tests.faults")}.get(words[0])
            if program is None:
                return f"make {words[0]} takes no ARGS"
            wrong = problem(Command("", (*program, *shlex.split(value)), whole=True))
            if wrong:
                return wrong
    return None


def _pytest(words: Sequence[str], *, whole: bool) -> str | None:
    del whole
    for word in words:
        if word.startswith("tests/") and not (ROOT / word.partition("::")[0]).exists():
            return f"pytest: {word}: no such file or folder"
    return None


def _pip(words: Sequence[str], *, whole: bool) -> str | None:
    del whole
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        if named := re.fullmatch(r"(?:\.|dicom-explanation-node)\[(.+)\]", word):
            for extra in named[1].split(","):
                if extra not in extras:
                    return f"pip: there is no extra {extra}"
    return None
