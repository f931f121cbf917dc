"""Elements of data sets as they come: absent, empty, malformed, or of another VR than they should have."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.multival import MultiValue
from pydicom.tag import Tag

OWN_CONTRIBUTION = "Explanation of a classifier's decision"
"""How Contribution Description (0018,A003) of this node's results begins; a test holds the builders to it."""

_REFERENCED = Tag("ReferencedSOPInstanceUID")


def texts(ds: Dataset, keyword: str) -> list[str]:
    """The values of an element as text; empty when it is absent or empty."""
    value = _value(ds, keyword)
    if value is None or value == "":
        return []
    return [str(one) for one in value] if isinstance(value, MultiValue | list | tuple) else [str(value)]


def patient_id(ds: Dataset) -> str:
    """Patient ID (0010,0020) as text, "" where there is none; it belongs into results and into the audit alone."""
    return "\\".join(texts(ds, "PatientID")).strip()


def orientation(ds: Dataset) -> tuple[str, str] | None:
    """Patient Orientation (0020,0020) of the rows and of the columns, or None."""
    match texts(ds, "PatientOrientation"):
        case [rows, columns] if rows and columns:
            return rows, columns
    return None


def code(ds: Dataset, keyword: str) -> str:
    """The first value of a code string, upper case, fit to be quoted in a reason; "" when there is none."""
    first = next(iter(texts(ds, keyword)), "")
    text = "".join(letter for letter in first.upper() if letter.isascii() and letter.isprintable())
    return " ".join(text.split())[:16]


def code_values(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Every value of a code string, upper case and stripped; empty when there is none."""
    return tuple(one.strip().upper() for one in texts(ds, keyword))


def is_own_result(ds: Dataset) -> bool:
    """Whether `ds` is a result of this node, by its Contributing Equipment Sequence (0018,A001)."""
    contributions = (_value(item, "ContributionDescription") for item in items(ds, "ContributingEquipmentSequence"))
    return any(str(text).startswith(OWN_CONTRIBUTION) for text in contributions)


def referenced(ds: Dataset) -> Iterator[str]:
    """Every SOP Instance UID that `ds` refers to, at any depth; its own elements stay undecoded."""
    for tag in list(ds.keys()):
        if ds.get_item(tag).VR == "SQ":
            for item in ds[tag].value:
                yield from referenced(item)
        elif tag == _REFERENCED:
            yield str(ds[tag].value)


def codes(ds: Dataset, keyword: str) -> set[str]:
    """The Code Values of a code sequence; empty when there is none."""
    return {code(item, "CodeValue") for item in items(ds, keyword)} - {""}


def numbers(ds: Dataset, keyword: str, default: tuple[float, ...] = ()) -> tuple[float, ...]:
    """The values of a numeric element; `default` when it is absent, empty or not a number."""
    value = _value(ds, keyword)
    if value is None or value == "":
        return default
    try:
        values = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
        return tuple(float(one) for one in values) or default
    except (ValueError, TypeError, OverflowError):
        return default


def integer(ds: Dataset, keyword: str, default: int) -> int:
    """The first value of a numeric element as an integer, or `default`."""
    found = numbers(ds, keyword)
    return int(found[0]) if found and math.isfinite(found[0]) else default


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; empty when there is none, or when a file gives the element another VR."""
    value = _value(ds, keyword)
    return value if isinstance(value, DicomSequence) else ()


def _value(ds: Dataset, keyword: str) -> Any:
    """The value of an element, which stays undecoded in `ds`: results copy the source's bytes."""
    try:
        tag = Tag(keyword)
        element: Any = ds.get_item(tag) if tag in ds else None
        if isinstance(element, RawDataElement):
            element = convert_raw_data_element(element, encoding=ds._character_set, ds=ds)  # noqa: SLF001 - not public
    except Exception:  # noqa: BLE001 - bytes that are no such VR: pydicom raises many kinds, some plain Exception
        return None
    return None if element is None else element.value
