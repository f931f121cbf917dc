"""Where evidence lies, in words: sides and zones, whichever way the film is stored; how far the lungs' box is off."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explain_core import zones
from explain_core.zones import OUTSIDE, Place, in_words, lungs_box, places_of, upright

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SHAPE = (300, 260)


def chest(shape=SHAPE):
    """Two dark lungs on a bright body, in a box of rows 14 % to 74 % and columns 16 % to 84 %."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = (y + 0.5) / shape[0], (x + 0.5) / shape[1]
    image = np.full(shape, 0.7, np.float32)
    for middle in (0.29, 0.71):
        image[((x - middle) / 0.13) ** 2 + ((y - 0.44) / 0.3) ** 2 < 1] = 0.2
    return image


def spot(*at, shape=SHAPE):
    """Evidence of 1 in small squares around places (y, x), as shares of the image."""
    values = np.zeros(shape, np.float32)
    for y, x in at:
        row, column = round(y * shape[0]), round(x * shape[1])
        values[row - 4 : row + 4, column - 4 : column + 4] = 1
    return values


def places(evidence, luminance, orientation):
    rows, columns = np.nonzero(evidence)
    lungs = lungs_box(upright(luminance, orientation))
    return places_of(rows, columns, evidence[rows, columns], evidence.shape, lungs, orientation)


def said(*at, orientation=("L", "F")):
    return in_words(places(spot(*at), chest(), orientation))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ([(0.22, 0.3)], "right upper zone"),
        ([(0.44, 0.3)], "right middle zone"),
        ([(0.66, 0.7)], "left lower zone"),
        ([(0.66, 0.7), (0.44, 0.7)], "left middle and lower zones"),
        ([(0.22, 0.3), (0.44, 0.3), (0.66, 0.3)], "right lung"),
        ([(0.66, 0.3), (0.66, 0.7)], "both lower zones"),
        ([(0.66, 0.3), (0.66, 0.7), (0.44, 0.3), (0.44, 0.7)], "both middle and lower zones"),
        ([(0.66, 0.3), (0.22, 0.7)], "right lower zone and left upper zone"),
        ([(0.66, 0.3), (0.22, 0.7), (0.44, 0.3)], "both lungs"),
        ([(0.95, 0.3)], "outside the lungs"),
        ([(0.03, 0.98), (0.66, 0.3)], "right lower zone and outside the lungs"),
        ([], ""),
    ],
)
def test_in_words(at, words):
    assert said(*at) == words


def test_without_sides_they_are_those_of_the_picture():
    assert said((0.66, 0.3), orientation=None) == "lower zone at image left"
    assert said((0.66, 0.7), (0.44, 0.7), orientation=None) == "middle and lower zones at image right"
    assert said((0.22, 0.3), (0.44, 0.3), (0.66, 0.3), orientation=("", "")) == "lung at image left"
    assert said((0.66, 0.3), (0.66, 0.7), orientation=None) == "both lower zones"


TURNS = {
    ("L", "F"): lambda plane: plane,
    ("R", "F"): lambda plane: plane[:, ::-1],
    ("L", "H"): lambda plane: plane[::-1],
    ("R", "H"): lambda plane: plane[::-1, ::-1],
    ("F", "L"): lambda plane: plane.T,
    ("H", "L"): lambda plane: plane.T[:, ::-1],
    ("F", "R"): lambda plane: plane.T[::-1],
    ("lf", "Fa"): lambda plane: plane,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_the_patients_side_is_the_same_however_the_film_is_stored(orientation):
    turned = TURNS[orientation]
    found = places(turned(spot((0.66, 0.3))), turned(chest()), orientation)
    assert found == (Place(side="right", zone="lower"),)


def test_zones_are_named_until_they_carry_four_fifths():
    evidence = spot((0.66, 0.3), (0.44, 0.3))
    evidence[: round(0.55 * SHAPE[0])] *= 0.2  # a sixth of the whole in the middle zone
    assert in_words(places(evidence, chest(), ("L", "F"))) == "right lower zone"
    evidence[: round(0.55 * SHAPE[0])] *= 2  # two sevenths
    assert in_words(places(evidence, chest(), ("L", "F"))) == "right middle and lower zones"


def test_the_strongest_zone_comes_first():
    evidence = spot((0.66, 0.3), (0.22, 0.7)) * np.linspace(0.5, 1, SHAPE[0])[:, np.newaxis]
    assert [one.zone for one in places(evidence, chest(), ("L", "F"))] == ["lower", "upper"]
    assert places(spot((0.95, 0.3)), chest(), ("L", "F")) == (Place(side="", zone=OUTSIDE),)


@pytest.mark.parametrize("moved", [(0, 0), (20, 0), (-20, 0), (0, 15), (0, -15)])
def test_the_box_follows_the_lungs(moved):
    box = lungs_box(np.roll(chest(), moved, axis=(0, 1)))
    y, x = moved[0] / SHAPE[0], moved[1] / SHAPE[1]
    off = np.abs(np.subtract((box.top, box.bottom, box.left, box.right), (0.14 + y, 0.74 + y, 0.16 + x, 0.84 + x)))
    assert off.max() < 0.06


@pytest.mark.parametrize("image", [np.zeros((40, 30)), np.ones((1, 1)), np.random.default_rng(0).random((64, 64))])
def test_without_lungs_the_box_is_about_the_usual_one(image):
    box = lungs_box(image.astype(np.float32))
    usual = (0.14, 0.75, 0.14, 0.85)
    assert np.abs(np.subtract((box.top, box.bottom, box.left, box.right), usual)).max() < 0.1


@pytest.mark.slow
def test_how_far_the_box_of_real_lungs_is_off():
    """What docs/results.md says of 310 films, on every fourth of them: zones of the estimate and those of the mask."""
    folder = DATA / "lung_masks" / "nih_lungmasks"
    if not folder.is_dir():
        pytest.skip("needs the lung masks of ../shared/data")
    agree, off = [], []
    with zipfile.ZipFile(folder / "masks_448.zip") as masks, (folder / "labels.csv").open() as table:
        for row in list(csv.DictReader(table))[::4]:
            mask = np.asarray(Image.open(io.BytesIO(masks.read(row["mask"]))).convert("L")) > 127
            y, x = (np.quantile(axis, (0.002, 0.998)) / 448 for axis in np.nonzero(mask))  # without stray blobs
            film = DATA / "nih_cxr14_subset" / "images" / row["nih_image"].replace(".png", ".jpg")
            found = lungs_box(np.asarray(Image.open(film).convert("L"), np.float32) / 255)
            off.append(np.abs(np.subtract((found.top, found.bottom, found.left, found.right), (*y, *x))))
            rows, columns = ((axis + 0.5) / 448 for axis in np.nonzero(mask))
            truth = zones._cells(rows, columns, zones.Box(*y, *x))
            agree.append(float((truth == zones._cells(rows, columns, found)).mean()))
    assert np.mean(agree) > 0.82
    assert np.mean(off, axis=0).max() < 0.08
