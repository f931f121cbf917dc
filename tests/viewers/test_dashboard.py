"""The dashboard in a browser, over a running demo with a real radiograph: what people see and do, by mouse and by keys.

With UPDATE_SCREENSHOTS set, the pictures of docs/dashboard are made anew.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from screen import save_small
from viewing import pixels_of

pytestmark = [pytest.mark.external, pytest.mark.slow]

DOCUMENTED = frozenset({"studies", "study"})
PAGES = ("/", "/queues", "/models", "/jobs", "/destinations", "/system", "/settings")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Address, user and password of the dashboard of a demo whose study is delivered."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "dicom_node", "demo", "--out", str(folder)]
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in demo.stderr:
            if found := re.search(r"dashboard: (\S+)/ \(user (\S+), password (\S+)\)", line):
                yield found.groups()
                break
        else:
            pytest.fail(f"the demo ended, see {folder}")
    finally:
        demo.terminate()  # SIGINT is ignored below a `make &`
        demo.wait(60)
        demo.stderr.close()


@pytest.fixture
def open_page(browser, site):
    """A page of its own session; every message of the console, failure and request elsewhere is an error at its end."""
    wrong, contexts = [], []

    def make(*, login=True, **options):
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(site[0]) else wrong.append(asked.url))
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        if login:
            page.goto(f"{site[0]}/login")
            page.get_by_label("Name").fill(site[1])
            page.get_by_label("Password").fill(site[2])
            page.get_by_role("main").get_by_role("button", name="Log in").click()
            page.wait_for_url(f"{site[0]}/")
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def keep(root, tmp_path):
    def write(page, name):
        documented = os.environ.get("UPDATE_SCREENSHOTS") and name in DOCUMENTED
        folder = root / "docs" / "dashboard" if documented else tmp_path
        save_small(pixels_of(page.screenshot()), folder / f"{name}.png")

    return write


def difference(one, other):
    """Mean difference of two screenshots; a box that has moved by a fraction of a pixel may be a row larger."""
    rows, columns = np.minimum(one.shape, other.shape)[:2]
    return np.abs(one[:rows, :columns].astype(int) - other[:rows, :columns]).mean()


def study_of(page, site):
    page.goto(f"{site[0]}/")
    page.locator("td a.uid").first.click()
    page.wait_for_url("**/studies/*")
    page.locator(".viewer .controls").wait_for()


def test_the_study_is_there_with_its_decision_and_found_by_its_number(open_page, keep):
    page = open_page()
    row = page.locator("tbody tr").first
    assert "explained" in row.inner_text()
    assert re.search(r"(present|absent), \d+\.\d %", row.inner_text())
    assert "pacs" in row.inner_text()
    keep(page, "studies")
    page.keyboard.press("/")
    page.keyboard.type(row.locator("a.uid").inner_text()[-12:])
    page.keyboard.press("Enter")
    page.wait_for_url("**/studies/*")
    assert page.get_by_role("heading", level=1).inner_text().startswith("Study")
    assert "delivered" in page.locator(".steps li.done").last.inner_text()


def test_the_picture_shows_the_radiograph_the_layer_and_what_was_generated(open_page, site, keep):
    page = open_page()
    study_of(page, site)
    for image in page.locator(".stack img[src]").all():
        assert image.evaluate("(one) => one.decode().then(() => one.naturalWidth)") > 0
    keep(page, "study")
    box = page.locator(".stack").first
    with_layer = pixels_of(box.screenshot())
    page.locator("input[name=opacity]").first.fill("0")
    page.locator("input[name=outline]").first.uncheck()
    plain = pixels_of(box.screenshot())
    assert np.ptp(plain.astype(int), axis=2).max() <= 8, "a radiograph is grey"
    assert np.ptp(with_layer.astype(int), axis=2).max() > 60, "and the layer is not"
    shown = {}
    for kind in ("similar", "adversarial", "difference"):
        page.get_by_label(kind, exact=True).first.check()
        over = page.locator("img.over").first
        over.evaluate("(one) => one.decode()")
        shown[kind] = pixels_of(box.screenshot())
        assert "synthetic" in page.locator("p.synthetic").first.inner_text().lower()
    assert all(difference(one, plain) > 1 for one in shown.values())
    page.get_by_label("adversarial", exact=True).first.check()
    page.locator("input[name=blend]").first.fill("0")
    original = pixels_of(box.screenshot())
    assert difference(original, shown["adversarial"]) > 1


def test_a_destination_is_tried_and_says_so(open_page, site):
    page = open_page()
    page.goto(f"{site[0]}/destinations")
    page.get_by_role("button", name="C-ECHO").click()
    page.get_by_text("answers C-ECHO").wait_for()


def test_a_study_is_explained_again_and_the_page_follows(open_page, site):
    page = open_page()
    study_of(page, site)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Explain and send everything again").click()
    page.get_by_text("will be tried again").wait_for()
    page.locator("h2", has_text="Revision 1 explained").wait_for(timeout=240_000)
    page.locator(".steps li.done", has_text="delivered").wait_for(timeout=120_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader_or_of_weak_eyes(open_page, site, scheme):
    page = open_page(color_scheme=scheme)
    found = {}
    for path in (*PAGES, "study", "/login"):
        study_of(page, site) if path == "study" else page.goto(f"{site[0]}{path}")
        page.wait_for_timeout(300)
        problems = Axe().run(page).response["violations"]
        found |= {f"{path} {one['id']}": [node["html"][:200] for node in one["nodes"]] for one in problems}
    assert found == {}


def test_on_a_phone_only_tables_are_wider_than_the_screen(open_page, site, keep):
    page = open_page(viewport={"width": 360, "height": 740})
    for path in (*PAGES, "study"):
        study_of(page, site) if path == "study" else page.goto(f"{site[0]}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    keep(page, "phone")


def test_every_page_can_be_used_by_keys_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.innerText"))
    assert {"Queues", "Settings", "Log out", "what", "Find", "state"} <= reached


def test_without_programs_in_the_browser_the_node_is_still_seen(open_page):
    page = open_page(java_script_enabled=False)
    study_text = page.locator("tbody tr").first.inner_text()
    assert "explained" in study_text
    page.locator("td a.uid").first.click()
    assert page.locator("img.base").first.get_attribute("src").endswith("/radiograph.jpg")


def test_without_login_there_is_neither_picture_nor_name(open_page, site):
    page = open_page(login=False)
    page.goto(f"{site[0]}/")
    page.locator("td a.uid").first.click()
    page.wait_for_url("**/studies/*")
    assert page.locator("img").count() == 0
    assert "Log in to see patient and pictures" in page.get_by_role("main").inner_text()
    assert page.get_by_role("button", name="Explain and send everything again").is_disabled()
