"""The page of a classifier's attributes, in a browser: everything is in the file, and is seen."""

import numpy as np
import pytest

from training.report import attributes

pytestmark = [pytest.mark.external, pytest.mark.slow]


@pytest.fixture
def page(tmp_path):
    generator = np.random.default_rng(0)

    def grey():
        return attributes.picture(generator.integers(0, 255, (32, 32), np.uint8))

    strip = {
        "frames": [{"picture": grey(), "part": f"{n - 1}", "score": f"0.{n}", "turned": n > 2} for n in range(5)],
        "change": attributes.picture(generator.integers(0, 255, (32, 32, 3), np.uint8)),
    }
    question = {
        "name": "<opacity> & more",
        "attributes": [{"name": "opacity 1", "facts": ["Moves it.", "Lies lower left."], "strips": [strip, strip]}],
        "table": {"columns": ["probability"], "rows": [("random directions", ["+0.01"])]},
        "notes": ["The order holds."],
    }
    empty = question | {"name": "no opacity", "attributes": []}
    path = tmp_path / "report.html"
    path.write_text(attributes.html("What decides about opacity", ["made it"], [question, empty], ["How."]))
    return path


def test_every_picture_is_shown_and_nothing_is_asked_for_from_elsewhere(browser, page, tmp_path):
    tab = browser.new_page()
    asked, errors = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.goto(page.as_uri())
    widths = tab.eval_on_selector_all("img", "found => found.map(one => one.naturalWidth)")
    assert widths == [96] * 12
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert errors == []
    assert tab.locator("h2").all_text_contents() == [
        "What makes it say <opacity> & more", "What makes it say no opacity", "How to read it",
    ]  # fmt: skip
    assert tab.get_by_text("No direction moves the answer.").is_visible()
    assert tab.locator("figcaption.turned").count() == 4
    assert all(tab.locator("img").evaluate_all("found => found.map(one => one.alt.length > 10)"))
    tab.set_viewport_size({"width": 500, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 500
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    tab.close()
