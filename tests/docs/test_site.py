"""`make docs`: the pages as a site that asks no other host for anything, and a build that ends at what is broken."""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def build(root):
    """MkDocs as the Makefile calls it."""
    command = re.search(r"mkdocs build.*", (ROOT / "Makefile").read_text())[0].split()
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def copied(folder):
    """The pages and what they are built with, without what is only linked."""
    for part in ("docs", "deploy", "tests/test_promises.py", "Makefile", "dicom_node/bundles/default/model_card.md"):
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, target)
    return folder


def test_every_page_has_one_place_in_the_navigation():
    text = (ROOT / "deploy" / "docs" / "mkdocs.yml").read_text().split("\nnav:")[1]
    docs = ROOT / "docs"
    placed = [page for entry in re.findall(r": (\S+\.md)$", text, re.MULTILINE) for page in docs.glob(entry)]
    missing = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - {
        page.relative_to(docs).as_posix() for page in placed
    }
    assert missing == set(), "give it a place in nav of deploy/docs/mkdocs.yml"
    assert len(placed) == len(set(placed))
    kinds = [line.strip(" -:") for line in text.splitlines() if re.match(r"  - [\w-]+:$", line)]
    assert kinds == ["Tutorial", "How-to", "Reference", "Explanation"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("site"))
    status, said = build(folder)
    assert status == 0, said
    return folder / "build" / "site"


@pytest.fixture
def served(site):
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("docs/tutorial.md", "\n[there](nowhere.md)\n", "nowhere.md"),
        ("docs/tutorial.md", "\n[there](install.md#nothing)\n", "#nothing"),
        ("docs/tutorial.md", "\n[there](../deploy/nothing.toml)\n", "nothing.toml"),
        ("docs/tutorial.md", "\n![picture](https://example.org/picture.png)\n", "example.org"),
        ("docs/orphan.md", "# Orphan\n", "orphan.md"),
    ],
)
def test_what_is_broken_ends_the_build(tmp_path, file, text, said):
    with (copied(tmp_path) / file).open("a") as page:
        page.write(text)
    status, log = build(tmp_path)
    assert status == 1
    assert said in log, log


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_pages_are_whole_and_ask_no_other_host(browser, served, scheme, size, tmp_path):
    context = browser.new_context(viewport=size, color_scheme=scheme)
    tab, asked, errors = context.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    for page in (
        "index",
        "tutorial",
        "install",
        "risk",
        "configuration",
        "reading-a-heatmap",
        "adr/0001-packages-and-imports",
    ):
        tab.goto(f"{served}/{page}.html")
        assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"], page
        assert tab.eval_on_selector_all("img", "found => found.every(one => one.naturalWidth > 0)"), page
        assert tab.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
        tab.screenshot(path=tmp_path / f"{page.replace('/', '-')}.png")
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    assert errors == []
    context.close()


@pytest.mark.slow
@pytest.mark.external
def test_the_search_finds_with_a_server_and_from_a_folder(browser, served, site):
    for start in (served, site.as_uri()):
        tab, asked = browser.new_page(), []
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.goto(f"{start}/index.html")
        tab.locator("input.md-search__input").click()
        tab.keyboard.type("commitment")
        tab.locator(".md-search-result__item a").first.wait_for(state="attached", timeout=60_000)
        assert [url for url in asked if not url.startswith((start, "data:", "blob:"))] == []
        tab.close()
