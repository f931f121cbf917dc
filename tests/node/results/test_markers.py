"""Placement: a bright disc at a known place of the original is found at that place in every object, in every geometry.

The explainer of this test marks what is bright on a network grid of 224 x 224, through the bundle's own geometry; how
the disc got to that grid and back, and how each object says where it is, is the product's. One pixel of the network
is side / 224 pixels of the source, and nothing may be off by more.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from contexts import every
from pydicom import Dataset
from radiographs import synthetic
from readers import region_of
from toy_explainer import ToyExplainer

from explain_core.explanation import Attribution, HeatmapScale
from explain_core.geometry import InputSpec, Preprocessing

GRID = 224
KINDS = ("overlay", "structured_report", "presentation_state", "segmentation", "parametric_map")
SCALE = HeatmapScale(floor=0.1, full_scale=1.0, unit="marker")
GEOMETRY = {
    "FrameOfReferenceUID": "1.2.3.4.77",
    "PositionReferenceIndicator": "",
    "ImagePositionPatient": [0.0, 0.0, 0.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
}


@dataclass(frozen=True)
class MarkerExplainer:
    """The toy, with a heatmap that is 1 where the network's input is bright."""

    toy: ToyExplainer = field(default_factory=ToyExplainer)

    @property
    def identity(self):
        return self.toy.identity

    def classify(self, radiograph):
        return self.toy.classify(radiograph)

    def explain(self, radiograph, methods, assessment=None):
        steps = Preprocessing.of(radiograph.pixels, InputSpec(size=GRID, percentiles=(0.0, 100.0)))
        values = steps.restore((steps.apply(radiograph.pixels) > 0.6).astype(np.float32))
        attribution = Attribution(values=values, covered=np.ones(values.shape, np.bool_), scale=SCALE)
        return tuple(replace(one, attribution=attribution) for one in self.toy.explain(radiograph, methods, assessment))


def disc(rows, columns, place):
    """Luminance with a disc at `place` (parts of the height and width), and the disc's centre and radius in pixels."""
    y, x = place[0] * rows, place[1] * columns
    radius = max(rows, columns) / 20
    row, column = np.mgrid[0:rows, 0:columns] + 0.5
    inside = (row - y) ** 2 + (column - x) ** 2 < radius**2
    return np.where(inside, 0.95, 0.1 + 0.2 * row / rows), (y, x), radius


def film(luminance, *, bits=12, signed=False, **changes):
    """`luminance` as it is stored by all kinds of equipment."""
    top = (1 << bits) - 1
    inverted = changes.get("PhotometricInterpretation") == "MONOCHROME1"
    stored = np.rint((1 - luminance if inverted else luminance) * top).astype(np.int64)
    offset = 1 << (bits - 1) if signed else 0
    window = {"WindowCenter": str((top + 1) / 2 - offset), "WindowWidth": str(top + 1)}
    return synthetic(stored - offset, bits=bits, signed=signed, **window | GEOMETRY | changes)


def table():
    """A VOI LUT that shows every value of 12 bits."""
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    item.add_new("LUTData", "US", list(range(4096)))
    return item


GEOMETRIES = {
    "square": ((400, 400), {}),
    "portrait 1:3": ((900, 300), {}),
    "landscape 3:1": ((300, 900), {}),
    "odd sides": ((397, 351), {}),
    "odd rows of eight bits": ((301, 333), {"bits": 8}),
    "MONOCHROME1": ((420, 360), {"PhotometricInterpretation": "MONOCHROME1"}),
    "signed": ((420, 360), {"signed": True}),
    "sixteen bits": ((420, 360), {"bits": 16}),
    "rescaled": (
        (420, 360),
        {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "3996", "WindowWidth": "8192"},
    ),
    "several windows": ((420, 360), {"WindowCenter": ["2048", "100"], "WindowWidth": ["4096", "10"]}),
    "VOI LUT": ((420, 360), {"WindowCenter": None, "WindowWidth": None, "VOILUTSequence": [table()]}),
    "pixels not square": ((420, 360), {"PixelSpacing": ["0.2", "0.1"]}),
    "turned patient": ((420, 360), {"PatientOrientation": ["R", "H"]}),
    "one megapixel": ((1200, 900), {}),
    "twelve megapixels": ((4000, 3001), {}),
}
PLACES = ((0.25, 0.3), (0.7, 0.8))


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_marker_is_found_where_it_is_in_every_object(geometry):
    (rows, columns), changes = GEOMETRIES[geometry]
    for place in PLACES if rows < 2000 else PLACES[:1]:
        luminance, centre, radius = disc(rows, columns, place)
        found = dict(every(film(luminance, **changes), explainer=MarkerExplainer(), kinds=KINDS))
        assert set(found) == set(KINDS)
        pixel = max(rows, columns) / GRID
        for kind, ds in found.items():
            y, x = np.nonzero(region_of(ds, (rows, columns), least=0.5))
            off = np.hypot(y.mean() + 0.5 - centre[0], x.mean() + 0.5 - centre[1])
            assert off <= pixel, f"{kind}: {off:.2f} source pixels off, one network pixel is {pixel:.2f}"
            edges = np.array([y.min(), y.max() + 1, x.min(), x.max() + 1])
            wanted = np.array([centre[0] - radius, centre[0] + radius, centre[1] - radius, centre[1] + radius])
            assert np.abs(edges - wanted).max() <= 1.5 * pixel + 1, f"{kind}: its border is elsewhere"


def test_a_shifted_marker_is_noticed():
    luminance, centre, _ = disc(400, 400, PLACES[0])
    (_, ds), *_ = every(film(np.roll(luminance, 5, axis=1)), explainer=MarkerExplainer(), kinds=["segmentation"])
    _, x = np.nonzero(region_of(ds, (400, 400)))
    assert abs(x.mean() + 0.5 - centre[1]) > 400 / GRID
