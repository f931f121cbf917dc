r"""Specific Character Set (0008,0005) as equipment writes it -> a legal value that means the bytes that are there.

    as it should be                          kept, letter for letter
    empty                                    left out: an empty value is none (PS3.3 C.12.1.1.2, type 1C)
    misspelt ("UTF-8", "ISO-IR 100")         the defined term, where the text can be read by it
    "\ISO_IR 13", text without escapes        that one set: as a second value it would need escapes (PS3.5 6.1.2.5)
    anything else                            left out: nobody can know what the text means

The text itself is never changed.
"""

import re
from collections.abc import Iterable, Sequence

from pydicom import Dataset
from pydicom.charset import python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

UTF_8 = "ISO_IR 192"
_TAG = Tag("SpecificCharacterSet")
_DEFINED = frozenset(name for name in python_encoding if name)
_EXTENSIONS = frozenset(name for name in _DEFINED if name.startswith("ISO 2022 "))
_SINGLE_BYTE = frozenset(name for name in _DEFINED if name.startswith("ISO_IR ") and name != UTF_8)
_SPELLINGS = re.compile(r"ISO[ _-]*(2022)?[ _-]*IR[ _-]*(\d+)", re.IGNORECASE)
_ESCAPE = b"\x1b"
_FILL = " \0"


def meant(terms: Sequence[str], texts: Iterable[bytes]) -> tuple[str, ...]:
    """The values of Specific Character Set that stand for `terms`; none where nobody can know what is meant.

    Args:
        terms: the values as they are, padding stripped.
        texts: the bytes of the elements that the set is for.
    """
    every = list(texts)
    said = [one for one in terms if one]
    escaped = any(_ESCAPE in one for one in every)
    if not said:
        return ()
    if len(terms) == 1 and terms[0] in _DEFINED:
        return tuple(terms)
    if len(terms) > 1 and all(one in _EXTENSIONS for one in terms[1:]) and (not terms[0] or terms[0] in _DEFINED):
        return tuple(terms)
    spelt = [_spelt(one) for one in terms]
    only = [one for one in spelt if one]
    if not escaped and len(only) == 1 and (only[0] in _SINGLE_BYTE or (only[0] == UTF_8 and _is_utf_8(every))):
        return (only[0],)
    wanted = [one.replace("ISO_IR ", "ISO 2022 IR ") for one in only]
    if escaped and wanted and all(one in _EXTENSIONS for one in wanted):
        return ("", *wanted) if not spelt[0] else tuple(wanted)
    return ()


def repair(ds: Dataset) -> None:
    """Give a data set of undecoded text elements the set that stands for what it says; nothing else is changed."""
    texts = [
        element.value
        for tag in ds.keys()  # noqa: SIM118 - values would be decoded
        if tag != _TAG and isinstance(element := ds.get_item(tag), RawDataElement) and element.value
    ]
    raw = ds.get_item(_TAG) if _TAG in ds else None
    value = (raw.value if raw is not None else None) or b""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    parts = value.split("\\") if isinstance(value, str) else [str(one) for one in value]
    terms = tuple(one.strip(_FILL) for one in parts)
    found = meant(terms, texts)
    if found == terms:
        return
    ds.pop(_TAG, None)
    if found:
        ds.SpecificCharacterSet = list(found) if len(found) > 1 else found[0]


def _spelt(term: str) -> str:
    """The defined term that is meant; "" where none is."""
    if term in _DEFINED:
        return term
    if term.upper().replace("_", "-") in {"UTF-8", "UTF8", "UNICODE"}:
        return UTF_8
    found = _SPELLINGS.fullmatch(term)
    if found is None:
        return ""
    names = (f"ISO 2022 IR {found[2]}", f"ISO_IR {found[2]}")
    return next((one for one in (names if found[1] else names[::-1]) if one in _DEFINED), "")


def _is_utf_8(texts: Iterable[bytes]) -> bool:
    try:
        for one in texts:
            one.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
