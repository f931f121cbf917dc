"""Which images may be analysed: single-frame frontal chest radiographs meant for display.

Routing rules choose before this; these checks hold whatever the rules say, because the model was made for
nothing else. Reasons finish the sentence "not analysed because ..." and quote coded attributes only.
"""

from pydicom import Dataset
from pydicom.uid import UID

from dicom_node.dicom import codes
from dicom_node.dicom.elements import code, code_values, integer, is_own_result
from dicom_node.errors import DatasetUnreadable, Reason, StudyUnsuitable
from dicom_node.watch.logs import without_warnings

# PS3.3 C.7.3.1.1.2, and what CR and DX equipment writes there instead.
PATIENT_POSITIONS = frozenset(
    {"HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS", "LFP", "LFS", "RFP", "RFS"}
    | {"AFDR", "AFDL", "PFDR", "PFDL", "ERECT", "UPRIGHT", "STANDING", "SITTING", "SUPINE"}
)
MIN_SIDE = 128
MAX_PIXELS = 100_000_000
MAX_SIDE = 16_384
"""A model sees a square, whose memory grows with the longer side alone: a narrow strip may ask for gigabytes."""
MAX_BITS = 16
_FOR_PROCESSING = frozenset({"1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.2.1"})


def check(ds: Dataset) -> None:
    """Refuse what is not a single frontal chest radiograph meant for display; reads no pixel.

    Raises:
        StudyUnsuitable: with a reason that a radiologist understands.
        DatasetUnreadable: the description of the pixels is missing or contradicts itself.
    """
    with without_warnings():
        _check_pixels(ds)
    check_header(ds)


def check_header(ds: Dataset) -> None:
    """The same of a header without its pixels.

    Raises:
        StudyUnsuitable, DatasetUnreadable: as of `check`.
    """
    with without_warnings():
        _check_kind(ds)
        _check_anatomy(ds)
        _check_view(ds)
        _check_origin(ds)
        _check_layout(ds)


def _check_pixels(ds: Dataset) -> None:
    sop_class = str(ds.get("SOPClassUID", ""))
    if "PixelData" not in ds:
        if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
            raise StudyUnsuitable("its pixels are floating-point numbers, not a radiograph", Reason.PIXELS)
        raise StudyUnsuitable(f"it holds no pixel data ({UID(sop_class).name or 'unknown SOP Class'})", Reason.PIXELS)


def _check_kind(ds: Dataset) -> None:
    sop_class, modality = str(ds.get("SOPClassUID", "")), code(ds, "Modality")
    if modality not in codes.MODALITIES:
        known = ", ".join(codes.MODALITIES)
        raise StudyUnsuitable(f"modality {modality or 'unknown'} is not a plain radiograph ({known})", Reason.MODALITY)
    if sop_class in _FOR_PROCESSING or code(ds, "PresentationIntentType") == "FOR PROCESSING":
        raise StudyUnsuitable("it is a raw detector image (For Processing), not one for presentation", Reason.RAW)
    frames = integer(ds, "NumberOfFrames", 1)
    if frames > 1:
        raise StudyUnsuitable(f"it has {frames} frames; only single-frame radiographs are analysed", Reason.FRAMES)
    photometric = code(ds, "PhotometricInterpretation") or "MONOCHROME2"
    if integer(ds, "SamplesPerPixel", 1) != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise StudyUnsuitable(f"it is a colour image ({photometric})", Reason.COLOUR)


def _check_origin(ds: Dataset) -> None:
    """Refuse what was made from a radiograph, by us or by others; processed or compressed ones are still PRIMARY."""
    if is_own_result(ds):
        raise StudyUnsuitable("it is a result of this node", Reason.DERIVED)
    if code(ds, "SyntheticData") == "YES":
        raise StudyUnsuitable("its pixels are synthetic", Reason.DERIVED)
    if code_values(ds, "ImageType")[:2] == ("DERIVED", "SECONDARY"):
        raise StudyUnsuitable("it was made from another image (Image Type DERIVED, SECONDARY)", Reason.DERIVED)


def _check_anatomy(ds: Dataset) -> None:
    stated = codes.body_part(ds)
    if stated is not None and stated.what is not codes.BodyPart.CHEST:
        raise StudyUnsuitable(f"{stated.said}: not the chest", Reason.BODY_PART)


def _check_view(ds: Dataset) -> None:
    stated = codes.view(ds)
    if stated is not None:
        if not stated.what.frontal:
            raise StudyUnsuitable(f"{stated.said}: not a frontal view (PA or AP)", Reason.VIEW)
        return
    position = code(ds, "PatientPosition")
    if position and position not in PATIENT_POSITIONS:
        raise StudyUnsuitable(
            f"the view is not stated, and patient position {position} is no defined term", Reason.VIEW
        )


def _check_layout(ds: Dataset) -> None:
    rows, columns = integer(ds, "Rows", 0), integer(ds, "Columns", 0)
    if rows < 1 or columns < 1:
        raise DatasetUnreadable("Rows or Columns is missing or zero", Reason.PIXELS)
    if min(rows, columns) < MIN_SIDE:
        raise StudyUnsuitable(f"{columns} x {rows} pixels are too few (at least {MIN_SIDE} each way)", Reason.SIZE)
    if rows * columns > MAX_PIXELS or max(rows, columns) > MAX_SIDE:
        raise StudyUnsuitable(f"{columns} x {rows} pixels are more than any radiograph has", Reason.SIZE)
    allocated = integer(ds, "BitsAllocated", MAX_BITS)
    stored = integer(ds, "BitsStored", 0 if "BitsStored" in ds else 1)
    if not 1 <= stored <= allocated:
        raise DatasetUnreadable(f"{stored} bits stored of {allocated} allocated contradict each other", Reason.PIXELS)
    if allocated > MAX_BITS:
        raise StudyUnsuitable(f"{allocated} bits per pixel are more than a radiograph has", Reason.PIXELS)
