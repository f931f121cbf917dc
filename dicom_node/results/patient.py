"""Who an image is of, as a line of a picture: in the patient's script where a font carries it.

Nothing here raises, whatever bytes the header holds: a name that cannot be decoded or written is said to be so.
"""

import re
import unicodedata
from collections.abc import Callable

from pydicom import Dataset
from pydicom.charset import python_encoding
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from dicom_node.dicom import charsets
from dicom_node.results.header import inherit
from dicom_node.results.text import printable
from dicom_node.watch.logs import without_warnings

NOT_PRINTABLE = "not printable: see the header"
_KEPT_FORMATS = "\u200c\u200d"  # they join or part letters; others could turn a name round
_UNKNOWN = "\ufffd"
_ESCAPE = "\x1b"
_GB_2312 = "\x1b$)A"
"""Designates ISO-IR 58; pydicom decodes what follows and leaves this before it (PS3.5 annex K)."""


def patient_lines(header: Dataset) -> tuple[str, ...]:
    """Name, identifier and study date of `header`, which is left as it is: its bytes stay undecoded.

    Returns:
        One line; several when no single font carries all of it.
    """
    ds = _copied(header)
    found = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", _read(ds, lambda: ds.get("StudyDate")))
    date = f"study of {'-'.join(found.groups())}" if found else "study date not stated"
    name, identifier = f"Patient: {_name(ds)}", _identifier(ds)
    line = f"{name}, {identifier}, {date}"
    return (line,) if printable(line) else (name, f"{identifier}, {date}")


def _name(ds: Dataset) -> str:
    """The ideographic group with the alphabetic one in brackets, or what of them can be written (PS3.5 6.2.1)."""
    groups = [_group(ds, name) for name in ("ideographic", "alphabetic", "phonetic")]
    stated = list(dict.fromkeys(group for group in groups if group))
    written = [group for group in stated if printable(group)]
    if not stated:
        return "no name in the header"
    if not written:
        return f"name {NOT_PRINTABLE}"
    both = f"{written[0]} ({groups[1]})"
    return both if groups[1] in written[1:] and printable(both) else written[0]


def _group(ds: Dataset, name: str) -> str:
    return _read(ds, lambda: getattr(_person(ds), name))


def _identifier(ds: Dataset) -> str:
    identifier = _read(ds, lambda: ds.get("PatientID"))
    if not identifier:
        return "no ID in the header"
    return f"ID {identifier}" if printable(identifier) else f"ID {NOT_PRINTABLE}"


def _copied(header: Dataset) -> Dataset:
    """The elements that are shown, to be decoded apart from `header`."""
    ds = Dataset()
    with without_warnings():
        for keyword in ("SpecificCharacterSet", "PatientName", "PatientID", "StudyDate"):
            inherit(header, ds, keyword)
        charsets.repair(ds)
        ds.set_original_encoding(False, True, ds._character_set)  # noqa: SLF001 - pydicom has no public name for it
    return ds


def _person(ds: Dataset) -> PersonName:
    value = ds.get("PatientName")
    if isinstance(value, MultiValue):
        value = next(iter(value), None)
    return value if isinstance(value, PersonName) else PersonName(str(value or ""))


def _read(ds: Dataset, value: Callable[[], object]) -> str:
    """A decoded value in one line; what the character set cannot mean becomes U+FFFD."""
    try:
        with without_warnings():
            text = str(value() or "")
            declared = _declared(ds)
    except Exception:  # noqa: BLE001 - bytes that are no such VR: pydicom raises many kinds, some plain Exception
        return _UNKNOWN
    text = text.replace(_GB_2312, "")
    if _ESCAPE in text:
        return _UNKNOWN  # of a set that is not declared: what follows would pass for letters
    shown = "".join(_letter(one) for one in text.replace("^", " "))
    if not declared and not shown.isascii():
        return _UNKNOWN
    return unicodedata.normalize("NFC", " ".join(shown.split()))


def _declared(ds: Dataset) -> bool:
    """Whether Specific Character Set says what bytes above 127 mean."""
    value = ds.get("SpecificCharacterSet") or ()
    names = [value] if isinstance(value, str) else [str(one) for one in value]
    return any(names) and all(name in python_encoding for name in names)


def _letter(one: str) -> str:
    """`one`, a space for a control character, nothing for an invisible one."""
    category = unicodedata.category(one)
    if category == "Cf" and one not in _KEPT_FORMATS:
        return ""
    return " " if category in {"Cc", "Cs", "Zl", "Zp"} else one
