"""Regions that a PACS sends back for a study: outlines in a report or presentation state of others, as boxes.

A reader who corrects the node's marks, or another program that draws its own, stores an SR (TID 1500 or its kin) or a
Grayscale Softcopy Presentation State; the node receives it like any instance. From both only closed outlines are
taken: polylines whose ends meet, circles, ellipses, rectangles. Points, open lines and texts are measurements,
arrows or remarks, and a region that covers the whole image places nothing.

Coordinates of both kinds of object count in pixels from 0 at the top left corner of the top left pixel to Columns and
Rows at the bottom right corner of the image (PS3.3 C.18.6.1.2; C.10.5), and so do the boxes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from dicom_node.dicom.elements import is_own_result
from dicom_node.watch.logs import without_warnings

SR_PREFIX = "1.2.840.10008.5.1.4.1.1.88."
STATE_PREFIX = "1.2.840.10008.5.1.4.1.1.11."

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the source."""
Shapes = Mapping[str, tuple[int, int]]
"""SOP Instance UID of an image of the study -> its rows and columns."""

_MOST_ITEMS = 100_000
_DEEPEST = 64
_ENDS_MEET = 1.0  # pixels
_FEWEST_CORNERS = 3
_AXES_ENDS = 4
_GRAPHICS = (
    ("GraphicObjectSequence", "GraphicAnnotationUnits", "GraphicType"),
    ("CompoundGraphicSequence", "CompoundGraphicUnits", "CompoundGraphicType"),
)


class _Unusable(ValueError):
    """One graphic cannot be used; the message says why and quotes nothing of the object."""


@dataclass(frozen=True, slots=True)
class Region:
    """The box around one outlined region, cut to its image."""

    sop_instance_uid: str
    box: Box


@dataclass(frozen=True, slots=True)
class Found:
    """What one object, or all objects of a study, say.

    Attributes:
        regions: each once.
        problems: why graphics could not be used, with how many of them; nothing of the patient.
    """

    regions: tuple[Region, ...]
    problems: dict[str, int]


def may_hold_regions(ds: Dataset) -> bool:
    """Whether `ds` is a report or presentation state of others."""
    sop_class = str(ds.get("SOPClassUID", ""))
    return sop_class.startswith((SR_PREFIX, STATE_PREFIX)) and not is_own_result(ds)


def regions(objects: Iterable[Dataset], shapes: Shapes) -> Found:
    """The regions that the objects of one study outline on its images; never raises for what they hold.

    A document that another one names as its predecessor has been replaced and does not count.

    Args:
        objects: data sets of the study; what holds no regions is passed over.
        shapes: the images of the study.
    """
    problems: dict[str, int] = {}
    found: dict[Region, None] = {}
    replaced: set[str] = set()
    with without_warnings():
        chosen = [ds for ds in objects if may_hold_regions(ds)]
        for ds in chosen:
            with _noting(problems):
                replaced.update(_predecessors(ds))
        for ds in chosen:
            if str(ds.get("SOPInstanceUID", "")) in replaced:
                continue
            read = _of_report if str(ds.SOPClassUID).startswith(SR_PREFIX) else _of_state
            with _noting(problems):
                found |= dict.fromkeys(read(ds, shapes, problems))
    return Found(regions=tuple(found), problems=problems)


@contextmanager
def _noting(problems: dict[str, int]) -> Iterator[None]:
    """Whatever a damaged object raises inside becomes a problem that is counted."""
    try:
        yield
    except _Unusable as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001 - foreign objects: pydicom raises almost anything for a damaged element
        why = f"a damaged object or item ({type(error).__name__})"
    else:
        return
    problems[why] = problems.get(why, 0) + 1


def _predecessors(ds: Dataset) -> Iterator[str]:
    for study in ds.get("PredecessorDocumentsSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for one in series.get("ReferencedSOPSequence") or ():
                yield str(one.ReferencedSOPInstanceUID)


def _of_report(root: Dataset, shapes: Shapes, problems: dict[str, int]) -> list[Region]:
    """Regions of every SCOORD in the content tree, whatever contains it."""
    found: list[Region] = []
    for item in _tree(root):
        if item.get("ValueType") == "SCOORD":
            with _noting(problems):
                found += _of_scoord(root, item, shapes)
    return found


def _tree(root: Dataset) -> Iterator[Dataset]:
    """Every content item below `root`.

    Raises:
        _Unusable: there are more, or deeper ones, than any report has.
    """
    waiting, seen = [(root, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        for child in item.get("ContentSequence") or ():
            seen += 1
            if seen > _MOST_ITEMS or depth > _DEEPEST:
                raise _Unusable("a content tree larger than any report's")
            waiting.append((child, depth + 1))
            yield child


def _of_scoord(root: Dataset, item: Dataset, shapes: Shapes) -> list[Region]:
    kind = str(item.get("GraphicType", ""))
    if kind in {"POINT", "MULTIPOINT"}:
        return []
    if str(item.get("PixelOriginInterpretation", "FRAME")) != "FRAME":
        raise _Unusable("coordinates that are not of the frame")
    uids = _images_of(root, item)
    if not uids:
        raise _Unusable("a region that names no image")
    corners = _outline(kind, _points(item))
    return [] if corners is None else list(_placed(corners, uids, shapes))


def _images_of(root: Dataset, item: Dataset) -> list[str]:
    """The images that a SCOORD was selected from (or, with some vendors, inferred from): by value or by reference."""
    uids = []
    for child in item.get("ContentSequence") or ():
        path = child.get("ReferencedContentItemIdentifier")
        target = child if path is None else _by_path(root, path)
        if target is not None and target.get("ValueType") in {"IMAGE", None}:
            uids += [str(one.ReferencedSOPInstanceUID) for one in target.get("ReferencedSOPSequence") or ()]
    return uids


def _by_path(root: Dataset, path: Any) -> Dataset | None:
    """The content item at 1-based positions, the first of which is the root (PS3.3 C.17.3.2.5)."""
    positions = [int(path)] if isinstance(path, int) else [int(one) for one in path]
    item = root
    for position in positions[1:]:
        children = item.get("ContentSequence") or ()
        if not 1 <= position <= len(children):
            return None
        item = children[position - 1]
    return item


def _of_state(ds: Dataset, shapes: Shapes, problems: dict[str, int]) -> list[Region]:
    """Regions of every graphic annotation (PS3.3 C.10.5)."""
    everything = [
        str(image.ReferencedSOPInstanceUID)
        for series in ds.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    found: list[Region] = []
    for annotation in ds.get("GraphicAnnotationSequence") or ():
        named = [str(one.ReferencedSOPInstanceUID) for one in annotation.get("ReferencedImageSequence") or ()]
        for sequence, units, kind in _GRAPHICS:
            for item in annotation.get(sequence) or ():
                drawn = _Drawn(ds, item, str(item.get(units)), str(item.get(kind)), kind.startswith("Compound"))
                with _noting(problems):
                    found += drawn.regions(named or everything, shapes)
    return found


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One graphic of a presentation state."""

    state: Dataset
    item: Dataset
    units: str
    kind: str
    compound: bool

    def regions(self, uids: Sequence[str], shapes: Shapes) -> list[Region]:
        if not uids:
            raise _Unusable("a region that names no image")
        if self.compound and self.kind not in {"RECTANGLE", "ELLIPSE"}:
            return []
        if not self.compound and self.kind == "POINT":
            return []
        found: list[Region] = []
        for uid in uids:
            points = self._in_pixels(_points(self.item), uid, shapes)
            corners = self._of_compound(points) if self.compound else _outline(self.kind, points)
            if corners is not None:
                found += _placed(corners, [uid], shapes)
        return found

    def _of_compound(self, points: Sequence[Point]) -> list[Point]:
        """The corners of the rectangle around it, turned as it is (PS3.3 C.10.5.1.2)."""
        if len(points) != 2:  # noqa: PLR2004 - top left and bottom right
            raise _Unusable(f"{self.kind} with another number of points than 2")
        (left, top), (right, bottom) = points
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        degrees = float(self.item.get("RotationAngle") or 0)
        about = self.item.get("RotationPoint")
        if degrees and about and math.dist(_middle(*points), [float(one) for one in about]) > _ENDS_MEET:
            raise _Unusable("a graphic that is turned about another point than its middle")
        if self.kind == "ELLIPSE":
            turned = _turned([(right, (top + bottom) / 2), ((left + right) / 2, bottom)], points, degrees)
            centre = _turned([((left + right) / 2, (top + bottom) / 2)], points, degrees)[0]
            return _around(centre, *(_minus(one, centre) for one in turned))
        return _turned(corners, points, degrees)

    def _in_pixels(self, points: list[Point], uid: str, shapes: Shapes) -> list[Point]:
        if self.units == "PIXEL":
            return points
        if self.units != "DISPLAY":
            raise _Unusable("units that are neither PIXEL nor DISPLAY")
        if self.state.get("ImageRotation") or self.state.get("ImageHorizontalFlip") == "Y":
            raise _Unusable("coordinates of a displayed area that is turned or mirrored")
        if uid not in shapes:
            return points
        left, top, right, bottom = self._displayed_area(uid, shapes[uid])
        return [(left + x * (right - left), top + y * (bottom - top)) for x, y in points]

    def _displayed_area(self, uid: str, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Its edges in pixels; it names its corner pixels by number, from 1 (PS3.3 C.10.4)."""
        for area in self.state.get("DisplayedAreaSelectionSequence") or ():
            named = {str(one.ReferencedSOPInstanceUID) for one in area.get("ReferencedImageSequence") or ()}
            if not named or uid in named:
                left, top = (int(value) for value in area.DisplayedAreaTopLeftHandCorner)
                right, bottom = (int(value) for value in area.DisplayedAreaBottomRightHandCorner)
                if right < left or bottom < top:
                    raise _Unusable("coordinates of a displayed area that is turned or mirrored")
                return left - 1.0, top - 1.0, float(right), float(bottom)
        return 0.0, 0.0, float(shape[1]), float(shape[0])


def _points(item: Dataset) -> list[Point]:
    """Graphic Data as pairs of column and row."""
    data = item.get("GraphicData")
    numbers = [float(one) for one in data] if isinstance(data, Iterable) and not isinstance(data, str | bytes) else []
    if not numbers or len(numbers) % 2:
        raise _Unusable("graphic data that are no pairs of numbers")
    if not all(math.isfinite(one) for one in numbers):
        raise _Unusable("graphic data that are not finite")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _outline(kind: str, points: Sequence[Point]) -> Sequence[Point] | None:
    """Points whose bounding box is that of the figure; None for an open line.

    POLYLINE and INTERPOLATED by their points; CIRCLE by its centre and a point of its edge; ELLIPSE by the
    ends of its two axes (PS3.3 C.18.6.1.2).
    """
    if kind in {"POLYLINE", "INTERPOLATED"}:
        return points if len(points) > _FEWEST_CORNERS and math.dist(points[0], points[-1]) <= _ENDS_MEET else None
    if kind == "CIRCLE" and len(points) == 2:  # noqa: PLR2004
        radius = math.dist(points[0], points[1])
        return _around(points[0], (radius, 0.0), (0.0, radius))
    if kind == "ELLIPSE" and len(points) == _AXES_ENDS:
        centre = _middle(points[0], points[1])
        return _around(centre, _minus(points[1], centre), _minus(points[3], _middle(points[2], points[3])))
    if kind in {"CIRCLE", "ELLIPSE"}:
        raise _Unusable(f"{kind} with another number of points than it needs")
    raise _Unusable("a graphic of an unknown type")


def _around(centre: Point, first: Point, second: Point) -> list[Point]:
    """Two opposite corners of the box around an ellipse given by its half axes as vectors."""
    across, down = math.hypot(first[0], second[0]), math.hypot(first[1], second[1])
    return [(centre[0] - across, centre[1] - down), (centre[0] + across, centre[1] + down)]


def _turned(points: Sequence[Point], diagonal: Sequence[Point], degrees: float) -> list[Point]:
    """`points` turned about the middle of `diagonal`."""
    middle, angle = _middle(diagonal[0], diagonal[1]), math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    return [
        (middle[0] + x * cosine - y * sine, middle[1] + x * sine + y * cosine)
        for x, y in (_minus(point, middle) for point in points)
    ]


def _middle(one: Point, other: Point) -> Point:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def _minus(one: Point, other: Point) -> Point:
    return one[0] - other[0], one[1] - other[1]


def _placed(corners: Sequence[Point], uids: Iterable[str], shapes: Shapes) -> Iterator[Region]:
    """The box around `corners` on every image that is of the study.

    Raises:
        _Unusable: it names no image of the study, or lies outside of it.
    """
    known = [uid for uid in uids if uid in shapes]
    if not known:
        raise _Unusable("a region on an image that is not of this study")
    for uid in known:
        rows, columns = shapes[uid]
        left, right = (min(max(edge(x for x, _ in corners), 0.0), float(columns)) for edge in (min, max))
        top, bottom = (min(max(edge(y for _, y in corners), 0.0), float(rows)) for edge in (min, max))
        if right <= left or bottom <= top:
            raise _Unusable("a region without area, or outside its image")
        if (left, top, right, bottom) != (0.0, 0.0, columns, rows):
            yield Region(uid, (left, top, right - left, bottom - top))
