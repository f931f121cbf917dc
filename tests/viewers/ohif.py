"""OHIF in a headless Chromium, used as a person would use it: open a study, double-click a series, look."""

import io
import time
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page
from screen import Placement

WORKSTATION = {"width": 1920, "height": 1080}
SECONDS = 180
FRAME = 3

_SERIES = "() => (window.services?.displaySetService.getActiveDisplaySets() ?? []).map(one => one.SeriesInstanceUID)"
_SHOWN = """() => {
  const viewport = window.cornerstone?.getEnabledElements()[0]?.viewport;
  return viewport?.viewportStatus === "rendered" ? viewport.getCurrentImageId() : "";
}"""
_BESIDE = """() => (window.cornerstone?.getEnabledElements() ?? []).map(one => one.viewport)
  .sort((one, other) => one.element.getBoundingClientRect().x - other.element.getBoundingClientRect().x)
  .map(one => one.viewportStatus === "rendered" ? one.getCurrentImageId() : "")"""
_PLACEMENT = """() => {
  const viewport = window.cornerstone.getEnabledElements()[0].viewport;
  const place = viewport.element.getBoundingClientRect();
  const image = viewport.getCurrentImageId();
  return [[0, 0], [100, 100]].map(point => {
    const [x, y] = viewport.worldToCanvas(window.cornerstone.utilities.imageToWorldCoords(image, point));
    return [x + place.x, y + place.y];
  });
}"""
_VIEWPORT = """() => {
  const place = window.cornerstone.getEnabledElements()[0].viewport.element.getBoundingClientRect();
  return [place.left, place.top, place.right, place.bottom];
}"""
_LABELS = """() => {
  const viewport = window.cornerstone.getEnabledElements()[0].viewport.element.getBoundingClientRect();
  return [...document.querySelectorAll("svg.svg-layer tspan")].map(one => {
    const box = one.getBoundingClientRect();
    const inside = box.left >= viewport.left && box.right <= viewport.right
      && box.top >= viewport.top && box.bottom <= viewport.bottom;
    return [one.textContent, inside];
  });
}"""

_LABEL_BOXES = """() => {
  const blocks = [...document.querySelectorAll("svg.svg-layer text")].filter(one => one.textContent.trim());
  return blocks.map(one => one.getBoundingClientRect()).map(box => [box.left, box.top, box.right, box.bottom]);
}"""


@dataclass
class Ohif:
    """One study open in a tab.

    Attributes:
        page: the tab.
        errors: what its scripts did not catch.
    """

    page: Page
    errors: list[str] = field(default_factory=list)

    @classmethod
    def opened(cls, browser: Browser, url: str, study: str, series: int) -> "Ohif":
        """Open a study and wait until its `series` series are listed and the first image is shown."""
        page = browser.new_page(viewport=WORKSTATION)
        page.set_default_timeout(SECONDS * 1000)
        here = cls(page)
        page.on("pageerror", lambda error: here.errors.append(str(error)))
        page.goto(f"{url}/viewer?StudyInstanceUIDs={study}")
        here.wait_until(lambda: len(set(page.evaluate(_SERIES))) >= series, f"{series} series are listed")
        here.wait_until(lambda: page.evaluate(_SHOWN), "an image is shown")
        here.page.get_by_text("Skip all").click()  # the tour for newcomers
        return here

    def double_click(self, series_number: int) -> None:
        """Show a series."""
        self.page.locator(f"[data-cy^=study-browser-thumbnail][data-series='{series_number}']").first.dblclick()

    def answer_no(self) -> None:
        """Whether to edit what is shown."""
        self.page.locator("[data-cy=no-hydrate-btn]").click()

    def wait_for_image(self, sop_instance_uid: str) -> None:
        """Wait until this image is shown."""
        self.wait_until(lambda: sop_instance_uid in self.shown(), f"{sop_instance_uid} is shown")

    def shown(self) -> str:
        """The viewer's name of the image that it shows, which holds the SOP Instance UID; empty while it draws."""
        return self.page.evaluate(_SHOWN)

    def wait_for_notices(self) -> None:
        """Wait until the notices that lie over the image have gone."""
        self.wait_until(lambda: self.page.locator("[data-sonner-toast]").count() == 0, "notices go")

    def beside(self) -> list[str]:
        """Of each viewport, from left to right, the viewer's name of the image that it shows."""
        return self.page.evaluate(_BESIDE)

    def kind(self) -> str:
        """The kind of viewport: "stack" for radiographs, also while there is none."""
        return self.page.evaluate("() => window.cornerstone.getEnabledElements()[0]?.viewport.type ?? 'stack'")

    def drawn_labels(self) -> list[tuple[str, bool]]:
        """`labels`, drawn anew: a slow OHIF 3.13 adds annotations without drawing them, until the view changes."""
        self.page.evaluate("() => window.cornerstone.getEnabledElements().forEach(one => one.viewport.render())")
        return self.labels()

    def wait_until(self, condition, what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}; scripts said {self.errors}"
            self.page.wait_for_timeout(200)

    def placement(self) -> Placement:
        """Where the viewer says it puts the image that it shows."""
        first, hundredth = np.array(self.page.evaluate(_PLACEMENT))
        zoom = (hundredth - first) / 100
        return Placement((float(first[0]), float(first[1])), (float(zoom[0]), float(zoom[1])))

    def viewport(self) -> np.ndarray:
        """A screenshot that is black outside the viewport and on its blue frame: thumbnails are pictures, too."""
        screen, whole = np.zeros((WORKSTATION["height"], WORKSTATION["width"], 3), np.uint8), self.screenshot()
        left, top, right, bottom = self.page.evaluate(_VIEWPORT)
        shown = slice(round(top) + FRAME, round(bottom) - FRAME), slice(round(left) + FRAME, round(right) - FRAME)
        screen[shown] = whole[shown]
        return screen

    def labels(self) -> list[tuple[str, bool]]:
        """The lines of text drawn at annotations, each with whether it is wholly within the viewport."""
        return [(text, inside) for text, inside in self.page.evaluate(_LABELS)]

    def label_boxes(self) -> np.ndarray:
        """Left, top, right and bottom on the screen of each block of text drawn at an annotation, (n, 4)."""
        return np.array(self.page.evaluate(_LABEL_BOXES), float).reshape(-1, 4)

    def without_labels(self) -> None:
        """Hide the text at annotations and the lines that lead to it: what stays are the contours."""
        self.page.add_style_tag(content="svg.svg-layer text, svg.svg-layer line { visibility: hidden }")

    def screenshot(self) -> np.ndarray:
        """What is on the screen once it no longer changes; uint8, (rows, columns, 3)."""
        before = None
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            now = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
            if before is not None and np.array_equal(now, before):
                return now
            before = now
            self.page.wait_for_timeout(300)
        raise AssertionError(f"the screen still changes after {SECONDS} s")
