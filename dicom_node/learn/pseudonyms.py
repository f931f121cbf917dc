"""What may be known of a patient outside the node: pseudonyms made with a secret key, and few facts of a header.

The header goes through the Basic Application Level Confidentiality Profile (PS3.15 annex E) with the Retain Patient
Characteristics Option, as the library dicom-anonymizer has its table; only what is left of it is looked at, for sex,
age, view and the kind of image. Nothing else of a header gets out.
"""

import copy
import hashlib
import hmac
import importlib
import json
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_node.dicom import codes, elements
from dicom_node.errors import DatasetUnreadable, OutOfResources
from dicom_node.storage.key_file import KeyUnusable, secret_key
from dicom_node.storage.spool import no_room
from dicom_node.watch.logs import without_warnings
from explain_core.files import write

CODES = (
    {"value": "113100", "scheme": "DCM", "meaning": "Basic Application Confidentiality Profile"},
    {"value": "113108", "scheme": "DCM", "meaning": "Retain Patient Characteristics Option"},
)
"""De-identification Method Code Sequence (0012,0064), of PS3.16 CID 7050."""
METHOD = "PS3.15 basic profile by dicom-anonymizer; pixels as a grey PNG without metadata; names by a keyed hash"
OLDEST = 90
"""Years: everybody older is said to be of this age, as so few are (45 CFR 164.514(b)(2)(i)(C))."""

_LIBRARY = "dicom-anonymizer"
_TABLE = "dicomfields_2026c"
_RETAINED = ((0x0010, 0x0040), (0x0010, 0x1010))  # Patient's Sex and Patient's Age
_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}
_DATE_DIGITS = 8
_PIXELS = 0x7FE00000  # the group of Pixel Data
_FRONTAL = frozenset({codes.View.PA, codes.View.AP})


def rules_version() -> str | None:
    """Version of the library that has the profile's table, or None where it is not installed."""
    try:
        importlib.import_module("dicomanonymizer.simpledicomanonymizer")
        return version(_LIBRARY)
    except ImportError:
        return None


def export_key(path: Path, record: Path, *, new: bool = False) -> bytes:
    """The key of the pseudonyms, as of `secret_key`, unless earlier exports were made with another one.

    Args:
        path: file of the key.
        record: file with the fingerprint of the key of the earlier exports, as `remember_key` writes it.
        new: whether the key may be another one, and is made where it is missing.

    Raises:
        KeyUnusable: the key is missing or another one, and not `new`; it is the same one, and `new`; or `secret_key`.
        OutOfResources: the disk is full.
    """
    known = _remembered(record)
    again = (
        f"restore the key with the fingerprint {known} from a copy, or start anew with dicom-node export --new-key: "
        "names of old and new exports can then not be joined"
    )
    if known and not new and not path.exists():
        raise KeyUnusable(f"{path}: the key is missing with which earlier exports were made; {again}")
    key = secret_key(path)
    if known and not new and fingerprint(key) != known:
        raise KeyUnusable(f"{path}: earlier exports were made with another key; {again}")
    if new and fingerprint(key) == known:
        raise KeyUnusable(f"{path}: earlier exports were made with this key; move it away, or leave --new-key out")
    return key


def remember_key(key: bytes, record: Path) -> None:
    """Write the fingerprint of the key to `record`, durably, before an export that is made with it gets its name.

    Raises:
        KeyUnusable: nothing can be written there.
        OutOfResources: the disk is full.
    """
    try:
        if _remembered(record) != fingerprint(key):
            write(record, fingerprint(key) + "\n")
    except OSError as error:
        if no_room(error):
            raise OutOfResources("Disk full; nothing was exported") from error
        raise KeyUnusable(f"{record}: which key exports are made with cannot be noted: {error.strerror}") from error


def _remembered(record: Path) -> str:
    """The fingerprint of the key of earlier exports; "" where there was none."""
    try:
        return record.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise KeyUnusable(f"{record}: cannot be read: {error.strerror}") from error


def fingerprint(key: bytes) -> str:
    """By which a key is told from another and cannot be computed: 16 hexadecimal digits of HMAC-SHA256."""
    return hmac.new(key, b"fingerprint", hashlib.sha256).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Names that only the holder of the key can make again: HMAC-SHA256, a letter and 20 hexadecimal digits (80 bits).

    The letter keeps spreadsheets from taking a name for a number.
    """

    key: bytes = field(repr=False)

    def patient(self, source: Dataset, study_instance_uid: str) -> tuple[str, bool]:
        """The patient by Issuer of Patient ID and Patient ID, and whether there is an ID.

        Without an ID every study is a patient of its own.
        """
        identifier, issuer = _text(source, "PatientID"), _text(source, "IssuerOfPatientID")
        if identifier:
            return self._of("p", "patient", issuer, identifier), True
        return self._of("p", "patient of study", study_instance_uid), False

    def study(self, study_instance_uid: str) -> str:
        """The study."""
        return self._of("s", "study", study_instance_uid)

    def image(self, sop_instance_uid: str) -> str:
        """The image."""
        return self._of("i", "image", sop_instance_uid)

    def _of(self, letter: str, *parts: str) -> str:
        return letter + hmac.new(self.key, json.dumps(parts).encode(), hashlib.sha256).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that stays of a header.

    Attributes:
        sex: "F", "M", "O" or "".
        age: whole years, at most 90; None when not stated.
        view: "PA", "AP" or "".
        modality: one of `codes.MODALITIES`.
        photometric: "MONOCHROME1" or "MONOCHROME2", as it was before the pixels were brought to 0 = black.
    """

    sex: str
    age: int | None
    view: str
    modality: str
    photometric: str


def deidentified(source: Dataset) -> Dataset:
    """`source` without pixels after the basic profile; `source` is left as it was.

    Raises:
        DatasetUnreadable: the library cannot treat an element of it; the message quotes nothing.
    """
    library: Any = importlib.import_module("dicomanonymizer.simpledicomanonymizer")
    with without_warnings():
        try:
            ds = _copy(source)
            library.anonymize_dataset(
                ds,
                extra_anonymization_rules=dict.fromkeys(_RETAINED, library.keep),
                delete_private_tags=True,
                base_rules_gen=lambda: library.initialize_actions(_TABLE),
            )
        except Exception as error:
            why = f"its header cannot be de-identified ({type(error).__name__})"
            raise DatasetUnreadable(why) from error
        finally:
            library.dictionary.clear()  # of UIDs, which the library would keep for ever
    return ds


def _copy(source: Dataset) -> Dataset:
    """The elements before the pixel data, each its own object, without those that are no value of their VR."""
    ds = Dataset()
    for tag in source.keys():  # noqa: SIM118 - a Dataset iterates over decoded elements
        if tag < _PIXELS:
            with suppress(Exception):  # pydicom raises many kinds
                ds[tag] = copy.deepcopy(source[tag])
    return ds


def facts(source: Dataset) -> Facts:
    """What stays of `source`, read from its de-identified header.

    The age is computed when only Patient's Birth Date and Study Date say it; both dates are gone from the header.

    Raises:
        DatasetUnreadable: the header cannot be de-identified.
    """
    ds = deidentified(source)
    sex = elements.code(ds, "PatientSex")
    years = _stated_age(elements.code(ds, "PatientAge"))
    if years is None:
        years = _age_by_dates(_text(source, "PatientBirthDate"), _text(source, "StudyDate"))
    return Facts(
        sex=sex if sex in {"F", "M", "O"} else "",
        age=None if years is None else min(years, OLDEST),
        view=_view(ds),
        modality=elements.code(ds, "Modality"),
        photometric=elements.code(ds, "PhotometricInterpretation"),
    )


def burned_in(source: Dataset) -> bool:
    """Whether the header says that the pixels show who the patient is (PS3.3 C.7.6.1.1.5)."""
    return elements.code(source, "BurnedInAnnotation") == "YES"


def _stated_age(text: str) -> int | None:
    """Whole years of an Age String (PS3.5 6.2), also without its unit."""
    match = _AGE.fullmatch(text)
    return int(int(match[1]) / _PER_YEAR[match[2]]) if match else None


def _age_by_dates(born: str, seen: str) -> int | None:
    try:
        if len(born) != _DATE_DIGITS or len(seen) != _DATE_DIGITS:
            return None
        first, last = (datetime.strptime(text, "%Y%m%d") for text in (born, seen))  # noqa: DTZ007 - days alone
    except ValueError:
        return None
    years = last.year - first.year - ((last.month, last.day) < (first.month, first.day))
    return years if years >= 0 else None


def _view(ds: Dataset) -> str:
    stated = codes.view(ds)
    return stated.what if stated is not None and stated.what in _FRONTAL else ""


def _text(ds: Dataset, keyword: str) -> str:
    """The value as text in one normal form, so that one patient has one pseudonym."""
    with without_warnings():
        try:
            value = ds.get(keyword)
        except Exception:  # noqa: BLE001 - bytes that are no such VR: pydicom raises many kinds
            return ""
    return unicodedata.normalize("NFC", "" if value is None else str(value)).strip()
