"""PNG previews of result objects, for people without a viewer.

A second reader: it takes everything from the data sets, nothing from the builders. Coordinates of an SR and those of a
presentation state in PIXEL units count from the top left corner of the image (PS3.3 C.18.6.1, table C.10-5).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage, ParametricMapStorage, SegmentationStorage

from dicom_node.dicom import pixels
from dicom_node.dicom.elements import code, integer, numbers
from dicom_node.errors import NodeError
from dicom_node.results.text import font, line_height, wrap
from dicom_node.watch.logs import without_warnings
from explain_core import display
from explain_core.explanation import HeatmapScale

OVERLAY_GROUP = 0x6000
OVERLAY_GROUPS = range(OVERLAY_GROUP, 0x6020, 2)

_BLUE, _ORANGE, _AMBER = (110, 220, 255), (250, 122, 26), (255, 190, 60)
_BACKGROUND, _LEGIBLE = (16, 18, 22), (236, 236, 236)
_VEIL = 0.35
_THINNEST = 700
_LONGEST = 1400
_COLUMN = 640
_FEWEST = 30
_PANEL_TEXT = 15
_INDENT = 18

Picture: TypeAlias = NDArray[np.uint8]
Points: TypeAlias = NDArray[np.float64]


def save_png(ds: Dataset, path: Path, source: Dataset | None = None) -> bool:
    """Write what `ds` shows as an 8-bit RGB PNG.

    Images are shown as stored, with their overlay planes; a segmentation, a parametric map and the graphics of a
    presentation state over the source; of a structured report the source with its regions beside the content tree.

    Args:
        ds: a result object.
        path: of the PNG file.
        source: the image that `ds` is about, with its pixels; without it, or where it is no radiograph that can be
            shown, the marks stand on black and a report has its text alone.

    Returns:
        False, and no file, for an object that shows nothing by itself, such as a key object selection.
    """
    with without_warnings():
        picture = _picture(ds, source)
    if picture is None:
        return False
    Image.fromarray(picture).save(path)
    return True


def _picture(ds: Dataset, source: Dataset | None) -> Picture | None:
    sop_class = str(ds.get("SOPClassUID", ""))
    if sop_class == SegmentationStorage:
        return _segmentation(ds, source)
    if sop_class == ParametricMapStorage:
        return _parametric_map(ds, source)
    if sop_class == GrayscaleSoftcopyPresentationStateStorage:
        return _presentation_state(ds, source)
    if code(ds, "Modality") == "SR":
        return _report(ds, source)
    return _stored(ds) if "PixelData" in ds else None


def _ground(source: Dataset | None, shape: tuple[int, ...] | None = None) -> NDArray[np.float32] | None:
    """The source's luminance; None without a source that can be shown, or when it has another shape than `shape`."""
    if source is None:
        return None
    try:
        luminance = pixels.radiograph(source).pixels
    except NodeError:
        return None
    return luminance if shape in {None, luminance.shape} else None


def _rgb(luminance: NDArray[np.floating]) -> Picture:
    grey = np.rint(np.clip(luminance, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def _paint(picture: Picture, where: NDArray[np.bool_], colour: tuple[int, int, int], opacity: float) -> None:
    """Lay `colour` over the pixels of `where`, in place."""
    mixed = picture[where] * (1 - opacity) + np.array(colour) * opacity
    picture[where] = np.rint(mixed).astype(np.uint8)


# --- images ---


def _stored(ds: Dataset) -> Picture:
    """The frames side by side, the planes drawn in: regions of interest as veils, graphics as they are."""
    frames = pixel_array(ds)
    if integer(ds, "SamplesPerPixel", 1) == 1:
        share = frames / ((1 << int(ds.BitsStored)) - 1)
        frames = np.stack([1 - share if code(ds, "PhotometricInterpretation") == "MONOCHROME1" else share] * 3, axis=-1)
        frames = np.rint(frames * 255).astype(np.uint8)
    picture = np.concatenate(frames, axis=1) if integer(ds, "NumberOfFrames", 1) > 1 else frames.copy()
    for group in reversed(OVERLAY_GROUPS):
        if (group, 0x3000) in ds:
            plane = np.asarray(ds.overlay_array(group)) > 0
            is_region = ds[group, 0x0040].value == "R"
            if plane.shape == picture.shape[:2]:
                _paint(picture, plane, _ORANGE if is_region else _BLUE, _VEIL if is_region else 1)
    return np.asarray(picture, dtype=np.uint8)


def _segmentation(ds: Dataset, source: Dataset | None) -> Picture:
    """Every segment in one colour over the source; in white on black without it."""
    frames = pixel_array(ds).reshape(-1, int(ds.Rows), int(ds.Columns))
    half = integer(ds, "MaximumFractionalValue", 0) / 2 if code(ds, "SegmentationType") == "FRACTIONAL" else 0
    mask = np.asarray((frames > half).any(axis=0))
    ground = _ground(source, mask.shape)
    if ground is None:
        return _rgb(mask.astype(np.float32))
    picture = _rgb(ground)
    _paint(picture, mask, _ORANGE, _VEIL)
    return picture


def _parametric_map(ds: Dataset, source: Dataset | None) -> Picture:
    """The values in the palette of the results, over the source or over black; its window is the scale."""
    values = pixel_array(ds).reshape(-1, int(ds.Rows), int(ds.Columns))[0].astype(np.float32)
    floor, full = _window(ds) or (0.0, float(values.max()) or 1.0)
    ground = _ground(source, values.shape)
    luminance = np.zeros_like(values) if ground is None else ground
    return display.fuse(luminance, values, HeatmapScale(floor=floor, full_scale=full, unit=""))


def _window(ds: Dataset) -> tuple[float, float] | None:
    """The values at the ends of the first window of the functional groups; None without one that has a scale."""
    for groups in (*ds.get("SharedFunctionalGroupsSequence", ()), *ds.get("PerFrameFunctionalGroupsSequence", ())):
        for window in groups.get("FrameVOILUTSequence", ()):
            match numbers(window, "WindowCenter"), numbers(window, "WindowWidth"):
                case (center, *_), (width, *_) if center + width / 2 > 0:
                    return max(0.0, center - width / 2), center + width / 2
    return None


# --- presentation states ---


def _presentation_state(ds: Dataset, source: Dataset | None) -> Picture:
    """Lines and text over the source as it is shown; over black, of the size of the displayed area, without it."""
    ground = _ground(source)
    if ground is None:
        columns, rows = ds.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner
        ground = np.zeros((rows, columns), np.float32)
    image = Image.fromarray(_rgb(ground))
    for annotation in ds.get("GraphicAnnotationSequence", ()):
        for graphic in annotation.get("GraphicObjectSequence", ()):
            if graphic.GraphicType in {"POLYLINE", "INTERPOLATED"}:
                _draw_line(image, _places(graphic.GraphicData, graphic.GraphicAnnotationUnits, image.size))
        for text in annotation.get("TextObjectSequence", ()):
            _draw_text(image, text)
    return np.asarray(image)


def _places(values: list[float], units: str, size: tuple[int, int]) -> Points:
    """Coordinates of a graphic object as x and y in pixels from the image's top left corner."""
    points = np.asarray(values, np.float64).reshape(-1, 2)
    return points * size if units == "DISPLAY" else points


def _draw_line(image: Image.Image, points: Points) -> None:
    display.draw_outlines(image, (points,), colour=_BLUE, width=max(1, round(max(image.size) / _THINNEST)))


def _draw_text(image: Image.Image, item: Dataset) -> None:
    """A text object as large as its box allows, and a line from the box to a visible anchor."""
    lines = item.UnformattedTextValue.splitlines()
    if "BoundingBoxTopLeftHandCorner" not in item or not lines:
        return
    corners = [*item.BoundingBoxTopLeftHandCorner, *item.BoundingBoxBottomRightHandCorner]
    (left, top), (_, bottom) = _places(corners, item.BoundingBoxAnnotationUnits, image.size)
    draw, step = ImageDraw.Draw(image), (bottom - top) / len(lines)
    for number, line in enumerate(lines):
        chosen = font(max(6, round(step / 1.3)), line)
        draw.text((left, top + number * step), line, fill=_AMBER, font=chosen, stroke_width=1, stroke_fill=_BACKGROUND)
    if item.get("AnchorPointVisibility") == "Y":
        ((x, y),) = _places(item.AnchorPoint, item.AnchorPointAnnotationUnits, image.size)
        draw.line((left, bottom, x - 0.5, y - 0.5), fill=_AMBER, width=1)


# --- structured reports ---


def _report(ds: Dataset, source: Dataset | None) -> Picture:
    """The source with the report's regions, and what the report says beside it."""
    ground = _ground(source)
    if ground is None or source is None:
        return np.asarray(_panel(ds, _LONGEST))
    scale = min(1.0, _LONGEST / max(ground.shape))
    rows, columns = (max(1, round(side * scale)) for side in ground.shape)
    image = Image.fromarray(_rgb(display.resize(ground, (rows, columns))))
    for points in _regions(ds, str(source.SOPInstanceUID)):
        _draw_line(image, points * (columns / ground.shape[1], rows / ground.shape[0]))
    text = _panel(ds, rows)
    whole = Image.new("RGB", (columns + text.width, text.height), _BACKGROUND)
    whole.paste(image, (0, 0))
    whole.paste(text, (columns, 0))
    return np.asarray(whole)


def _regions(ds: Dataset, sop_instance_uid: str) -> Iterator[Points]:
    """The lines of the report's coordinates that are selected from one image."""
    for _, item in _items(ds):
        if item.ValueType != "SCOORD" or item.GraphicType != "POLYLINE":
            continue
        images = [image.ReferencedSOPSequence[0] for image in item.ContentSequence if "ReferencedSOPSequence" in image]
        if any(image.ReferencedSOPInstanceUID == sop_instance_uid for image in images):
            yield np.asarray(item.GraphicData, np.float64).reshape(-1, 2)


def _panel(ds: Dataset, rows: int) -> Image.Image:
    """The content tree as text, a line for each item, indented, in columns of `rows` pixels or of a few lines."""
    lines = [(0, _name(ds))]
    for depth, item in _items(ds):
        said = ": ".join(part for part in (_name(item), _value(item)) if part)
        indent = depth * _INDENT
        lines += [(indent, line) for line in wrap(said, font(_PANEL_TEXT, said), _COLUMN - indent - 2 * _INDENT)]
    step = line_height(_PANEL_TEXT)
    most = max(_FEWEST, rows // step - 2)
    panel = Image.new("RGB", (-(-len(lines) // most) * _COLUMN, max(rows, (most + 2) * step)), _BACKGROUND)
    draw = ImageDraw.Draw(panel)
    for number, (indent, line) in enumerate(lines):
        place = (number // most * _COLUMN + _INDENT + indent, (number % most + 1) * step)
        draw.text(place, line, fill=_LEGIBLE, font=font(_PANEL_TEXT, line))
    return panel


def _items(item: Dataset, depth: int = 1) -> Iterator[tuple[int, Dataset]]:
    for child in item.get("ContentSequence", ()):
        yield depth, child
        yield from _items(child, depth + 1)


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeMeaning) if names else ""


def _value(item: Dataset) -> str:
    """What a content item says, in words (PS3.3 C.17.3.2)."""
    match item.get("ValueType"):
        case "NUM":
            measured = item.MeasuredValueSequence
            unit = measured[0].MeasurementUnitsCodeSequence[0].CodeValue if measured else ""
            return f"{measured[0].NumericValue} {unit}" if measured else "not measured"
        case "CODE":
            return str(item.ConceptCodeSequence[0].CodeMeaning)
        case "SCOORD":
            return f"{item.GraphicType} of {len(item.GraphicData) // 2} points"
        case "IMAGE" | "COMPOSITE" | "WAVEFORM":
            return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        case _:
            keywords = ("TextValue", "UID", "PersonName", "DateTime", "Date", "Time")
            return next((str(item.get(keyword)) for keyword in keywords if keyword in item), "")
