"""By what a study can be found again: keyed hashes of what somebody may ring about, so that the ledger holds no name.

An Accession Number or a Patient ID is short enough to be guessed; without the key its hash says nothing (HMAC-SHA256).
"""

import hashlib
import hmac
from collections.abc import Iterable

from pydicom import Dataset

from dicom_node.dicom.elements import texts
from dicom_node.watch.logs import without_warnings

KEYWORDS = ("AccessionNumber", "PatientID")
"""What is looked for."""
_LONGEST = 256


def term(key: bytes, value: str) -> str:
    """The hash of one value, without regard to case and to blanks around it: 64 hexadecimal digits."""
    return hmac.new(key, value.strip(" \0").casefold().encode(), hashlib.sha256).hexdigest()


def terms(key: bytes, headers: Iterable[Dataset]) -> set[str]:
    """The hashes of what headers state; never raises, whatever they hold."""
    with without_warnings():
        values = {value.strip(" \0") for header in headers for word in KEYWORDS for value in texts(header, word)}
    return {term(key, value) for value in values if 0 < len(value) <= _LONGEST}
