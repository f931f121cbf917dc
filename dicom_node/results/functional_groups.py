"""What Segmentation and Parametric Map share: where the source's pixels lie, who computed them, steady UIDs.

A plain radiograph has seldom a Frame of Reference and a plane. Where it has, the objects take them; where not, a
Segmentation has the source's pixel grid alone.
"""

import math
import re
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import RE_VALID_UID

from dicom_node.dicom.elements import code_values, numbers
from dicom_node.results import codes
from dicom_node.results.context import ResultContext, uid
from dicom_node.results.header import inherit_anatomy, plain, start
from dicom_node.results.image import once_lossy, patient_orientation
from dicom_node.results.planar import adopt, stand_in
from explain_core.explanation import Provenance

ASSUMED_SPACING = (1.0, 1.0)
ASSUMED_ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
THICKNESS = 1.0
"""Nominal, in mm: the attribute is asked for, and a radiograph has no slice."""

_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Where a source lies in the patient (PS3.3 C.7.6.2).

    Attributes:
        frame_of_reference: Frame of Reference UID.
        position: of the first pixel's centre, mm.
        orientation: direction cosines of the rows, then of the columns.
        spacing: of the rows, then of the columns, mm.
    """

    frame_of_reference: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]


def plane_of(header: Dataset) -> Plane | str:
    """The plane of a source, or what it lacks of one, as a list of attributes."""
    frame = code_values(header, "FrameOfReferenceUID")
    position, directions = (
        _finite(header, "ImagePositionPatient", 3),
        _finite(header, "ImageOrientationPatient", 6),
    )
    spacing = _spacing(header, "PixelSpacing")
    lacking = [
        name
        for name, usable in (
            ("Frame of Reference UID", len(frame) == 1 and re.match(RE_VALID_UID, frame[0])),
            ("Image Position (Patient)", position),
            ("Image Orientation (Patient)", _orthonormal(directions)),
            ("Pixel Spacing", spacing),
        )
        if not usable
    ]
    if lacking:
        return ", ".join(lacking)
    return Plane(frame_of_reference=frame[0], position=position, orientation=directions, spacing=spacing)


def spacing_of(header: Dataset) -> tuple[tuple[float, ...], str]:
    """Millimetres between the rows and between the columns of a source, and a sentence on where they come from."""
    if spacing := _spacing(header, "PixelSpacing"):
        return spacing, "Pixel spacing is the source's Pixel Spacing"
    if spacing := _spacing(header, "ImagerPixelSpacing"):
        return spacing, "Pixel spacing is the source's Imager Pixel Spacing, at the detector"
    return ASSUMED_SPACING, "The source has no usable pixel spacing: 1 mm is ASSUMED, sizes in millimetres are wrong"


def begin(image: ResultContext, kind: str, series: int, sop_class_uid: str) -> Dataset:
    """The modules that highdicom is not asked for: those of `_header.start`, anatomy, orientation, equipment."""
    ds = start(image, kind, sop_class_uid)
    ds.SeriesNumber = image.series_number(series)
    inherit_anatomy(ds, image.header)
    ds.PatientOrientation = patient_orientation(image.header)
    ds.DeviceSerialNumber = image.explanation.provenance.model.digest  # Enhanced General Equipment asks for one
    return ds


def source_of(image: ResultContext, plane: Plane | None) -> Dataset:
    """The stand-in for the source (see `_planar`), with its plane and its loss if it has them."""
    ds = stand_in(image)
    once_lossy(ds, image.header)
    if plane is not None:
        ds.FrameOfReferenceUID = plane.frame_of_reference
        ds.PositionReferenceIndicator = None
        ds.ImagePositionPatient = list(plane.position)
        ds.ImageOrientationPatient = list(plane.orientation)
        ds.PixelSpacing, ds.SliceThickness = list(plane.spacing), THICKNESS
    return ds


def measures(spacing: tuple[float, ...]) -> hd.PixelMeasuresSequence:
    """Pixel Measures of a plane without a known thickness."""
    return hd.PixelMeasuresSequence(pixel_spacing=spacing, slice_thickness=THICKNESS)


def algorithm(provenance: Provenance, manufacturer: str) -> hd.AlgorithmIdentificationSequence:
    """The model, its version, and what it ran with (PS3.3 table 10-19)."""
    model = provenance.model
    parameters = {
        "bundle SHA-256": model.digest,
        "method": provenance.method,
        **{name: str(value) for name, value in sorted(provenance.parameters.items())},
        "software": provenance.software_version,
    }
    return hd.AlgorithmIdentificationSequence(
        name=plain(model.name),
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=plain(model.version),
        source=plain(manufacturer),
        parameters={plain(name): plain(value, 256) for name, value in parameters.items()},
    )


def finish(ds: Dataset, made: Dataset) -> Dataset:
    """`ds` with what highdicom made, and UIDs that follow from the SOP Instance UID instead of chance."""
    adopt(ds, made)
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].pop("SpacingBetweenSlices", None)  # there is one
    dimensions = uid("dimensions", ds.SOPInstanceUID)
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    for keyword in ("PixelData", "FloatPixelData"):
        if keyword in ds:
            ds[keyword].VR = "OB" if keyword == "PixelData" else "OF"
    return ds


def _finite(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """The values of a numeric element if there are `count` and all are finite, else none."""
    found = numbers(header, keyword)
    return found if len(found) == count and all(math.isfinite(value) for value in found) else ()


def _spacing(header: Dataset, keyword: str) -> tuple[float, ...]:
    found = _finite(header, keyword, 2)
    return found if all(value > 0 for value in found) else ()


def _orthonormal(directions: tuple[float, ...]) -> bool:
    """Whether these are two unit vectors at right angles, within what 16 characters can state."""
    if not directions:
        return False
    axes = np.reshape(directions, (2, 3))
    return bool(np.allclose(axes @ axes.T, np.eye(2), atol=_TOLERANCE))
