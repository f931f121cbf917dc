"""The marked region of a result object on the source's grid, read with pydicom alone: a second reader beside ours."""

from itertools import pairwise

import numpy as np
from pydicom.uid import (
    ComprehensiveSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

REGION_GROUP = 0x6002


def region_of(ds, shape, least=None):
    """Which pixels of the source, of `shape` (rows, columns), the object marks: a bool array of that shape.

    Of a Secondary Capture its ROI overlay plane if it has one, of a presentation state its closed polylines (those
    within others are holes), of a report the regions of the groups after the whole image's, of a segmentation any
    segment, of a parametric map the values of `least` and more. An object on another grid fails.
    """
    marked = _READERS[ds.SOPClassUID](ds, shape, least)
    assert marked.shape == tuple(shape)
    return marked


def polygon(points, shape):
    """The pixels whose centres lie within a closed line; points are x, y from the top left corner of the image."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    assert np.array_equal(points[0], points[-1]), "the line is not closed"
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int64)
    for (x, y), (x_next, y_next) in pairwise(points):
        for row in range(*sorted((_first_centre(y), _first_centre(y_next)))):
            if 0 <= row < rows:
                at = x + (row + 0.5 - y) * (x_next - x) / (y_next - y)
                crossings[row, np.clip(_first_centre(at), 0, columns)] += 1
    return np.cumsum(crossings, axis=1)[:, :columns] % 2 == 1


def polylines(ds):
    """The points of every POLYLINE of a presentation state, which are given in pixels."""
    lines = []
    for annotation in ds.get("GraphicAnnotationSequence", ()):
        for graphic in annotation.get("GraphicObjectSequence", ()):
            assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
            line = np.reshape(graphic.GraphicData, (-1, 2))
            assert len(line) == graphic.NumberOfGraphicPoints
            lines.append(line)
    return lines


def scoords(ds):
    """The points of the SCOORD of each measurement group of a report, in the order of the groups."""
    return [
        np.reshape(item.GraphicData, (-1, 2))
        for group in _containers(ds, "125007")
        for item in group.ContentSequence
        if item.ValueType == "SCOORD"
    ]


def _containers(item, code):
    for child in item.get("ContentSequence", ()):
        name = child.get("ConceptNameCodeSequence")
        if child.ValueType == "CONTAINER" and name and name[0].get("CodeValue") == code:
            yield child
        else:
            yield from _containers(child, code)


def _first_centre(coordinate):
    """The number of the first pixel whose centre is at or after `coordinate`."""
    return int(np.ceil(coordinate - 0.5))


def _overlay(ds, shape, _least):
    assert (ds.Rows, ds.Columns) == tuple(shape)
    if (REGION_GROUP, 0x3000) not in ds:
        return np.zeros(shape, np.bool_)
    assert ds[REGION_GROUP, 0x0040].value == "R"
    assert list(ds[REGION_GROUP, 0x0050].value) == [1, 1]
    return ds.overlay_array(REGION_GROUP) > 0


def _presentation_state(ds, shape, _least):
    marked = np.zeros(shape, np.bool_)
    for line in polylines(ds):
        marked ^= polygon(line, shape)
    return marked


def _report(ds, shape, _least):
    marked = np.zeros(shape, np.bool_)
    for line in scoords(ds)[1:]:
        marked |= polygon(line, shape)
    return marked


def _segmentation(ds, shape, _least):
    frames = ds.pixel_array
    return (frames > 0).reshape(-1, *frames.shape[-2:]).any(axis=0).reshape(shape)


def _map(ds, shape, least):
    assert least is not None, "from which value on a pixel belongs to the region"
    return np.squeeze(ds.pixel_array).reshape(shape) >= least


_READERS = {
    SecondaryCaptureImageStorage: _overlay,
    GrayscaleSoftcopyPresentationStateStorage: _presentation_state,
    ComprehensiveSRStorage: _report,
    SegmentationStorage: _segmentation,
    ParametricMapStorage: _map,
}
