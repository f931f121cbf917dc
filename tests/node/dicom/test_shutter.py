"""What a Display Shutter hides is not seen by the model: three shapes, together, and without usable numbers."""

import numpy as np
import pytest
from radiographs import synthetic

from dicom_node.dicom import pixels, shutter
from dicom_node.errors import StudyUnsuitable

RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 11,
    "ShutterRightVerticalEdge": 190,
    "ShutterUpperHorizontalEdge": 21,
    "ShutterLowerHorizontalEdge": 220,
}
CIRCLE = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [120, 100], "RadiusOfCircularShutter": 80}
DIAMOND = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [20, 100, 120, 180, 220, 100, 120, 20]}
ROWS, COLUMNS = 240, 200


def seen(**changes):
    found = shutter.hidden(synthetic(**changes), (ROWS, COLUMNS))
    return None if found is None else ~found


def test_a_rectangle_is_seen_with_its_edges():
    expected = np.zeros((ROWS, COLUMNS), bool)
    expected[20:220, 10:190] = True
    np.testing.assert_array_equal(seen(**RECTANGLE), expected)


def test_a_circle_is_seen_to_its_radius():
    found = seen(**CIRCLE)
    assert found[119, 99 + 80]
    assert not found[119, 99 + 81]
    assert found[119 - 80, 99]
    assert found.sum() == pytest.approx(np.pi * 80**2, rel=0.01)


def test_a_polygon_is_seen_between_its_vertices():
    found = seen(**DIAMOND)
    assert [bool(found[row, column]) for row, column in ((19, 99), (119, 179), (119, 99), (30, 30), (210, 170))] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert found.sum() == pytest.approx(200 * 160 / 2, rel=0.02)


def test_of_several_shapes_what_all_let_through_is_seen():
    both = RECTANGLE | CIRCLE | {"ShutterShape": ["RECTANGULAR", "CIRCULAR"]}
    np.testing.assert_array_equal(seen(**both), seen(**RECTANGLE) & seen(**CIRCLE))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ShutterShape": "RECTANGULAR"},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [120, 100]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 2, 2]},
        {name: value for name, value in RECTANGLE.items() if name != "ShutterShape"},
        RECTANGLE | dict.fromkeys(("ShutterLeftVerticalEdge", "ShutterUpperHorizontalEdge"), 1)
        | {"ShutterRightVerticalEdge": COLUMNS, "ShutterLowerHorizontalEdge": ROWS},
    ],
)  # fmt: skip
def test_without_a_shutter_or_its_numbers_all_is_seen(changes):
    assert seen(**changes) is None


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_glare_behind_the_shutter_is_black_and_moves_no_grey(photometric):
    """No window is given, so that the greys come from the values that are left."""
    values = np.random.default_rng(0).integers(1000, 2000, (ROWS, COLUMNS))
    glare = values.copy()
    glare[~seen(**RECTANGLE)] = 4095
    shown = [
        pixels.radiograph(synthetic(one, PhotometricInterpretation=photometric, **RECTANGLE)).pixels
        for one in (values, glare)
    ]
    np.testing.assert_array_equal(*shown)
    assert (shown[0][~seen(**RECTANGLE)] == 0).all()
    assert np.ptp(shown[0][seen(**RECTANGLE)]) > 0.5


def test_a_film_that_is_hidden_as_a_whole_is_blank():
    nothing = RECTANGLE | {"ShutterRightVerticalEdge": 5}
    with pytest.raises(StudyUnsuitable, match="every pixel is padding or behind its shutter"):
        pixels.radiograph(synthetic(**nothing))
