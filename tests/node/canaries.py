"""A study that says who its patient is wherever a study can, and a search for what it says in whatever encoding."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import quote

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from radiographs import encode, synthetic

ROOT = "1.2.826.0.1.3680043.9.99"
PATIENT_ID = "QZPID77001"
OTHER_ID = "QZPIDÜ7002"
ACCESSION = "QZACC55120"
BIRTH_DATE = "19310207"
KANJI = "柊崎"
WORDS = {
    "PatientName": "Qzfamily^Qzgiven",
    "PatientID": PATIENT_ID,
    "PatientBirthDate": BIRTH_DATE,
    "AccessionNumber": ACCESSION,
    "OtherPatientNames": "Qzmaiden^Name",
    "PatientMotherBirthName": "Qzmother^Name",
    "PatientAddress": "Qzstreet 7",
    "PatientTelephoneNumbers": "Qz555-0199",
    "PatientComments": "Qzcomment of the patient",
    "AdditionalPatientHistory": "Qzhistory",
    "Occupation": "Qzoccupation",
    "EthnicGroup": "Qzethnic",
    "ReferringPhysicianName": "Qzreferrer^Doctor",
    "PerformingPhysicianName": "Qzperformer^Doctor",
    "OperatorsName": "Qzoperator^One",
    "RequestingPhysician": "Qzrequester^Doctor",
    "InstitutionName": "Qzhospital",
    "InstitutionAddress": "Qzavenue 1",
    "InstitutionalDepartmentName": "Qzdepartment",
    "StationName": "QZSTATION01",
    "StudyID": "QZSTUDYID1",
    "StudyDescription": "Qzstudy description",
    "SeriesDescription": "Qzseries description",
    "ProtocolName": "Qzprotocol",
    "ImageComments": "Qzimage comments",
    "PerformedProcedureStepDescription": "Qzstep description",
    "RequestedProcedureDescription": "Qzprocedure description",
}
"""What elements say, by keyword."""

ELSEWHERE = (
    *(
        "Qzprivate text",
        "Qzprivate bytes",
        "Qznested",
        "Qzoverlay",
        "Qzwindow",
        "Qzspacing",
        "Qzlatinname",
        "Qzrowtext",
    ),
    *("Qzpeername", "Qzmalformed", "Qzrubbish", "Qzsurplus", KANJI),
)
"""What private elements, items, overlays, malformed values, other character sets and peers' comments say."""

_PARTS = re.compile(r"[\^\\ ]")
TOKENS = tuple(
    sorted({
        part
        for text in (*WORDS.values(), OTHER_ID, *ELSEWHERE)
        for part in _PARTS.split(text)
        if part.lower().startswith("qz") or part in {BIRTH_DATE, KANJI}
    })
)  # fmt: skip
DATES = ("1931-02-07", "07.02.1931", "1931/02/07", "2/7/1931")


def image(number: int, study: int = 1, *, canaries: bool = True, **changes):
    """A chest film; with canaries, everything that can name the patient does."""
    uid = f"{ROOT}.{study}"
    named = dict(WORDS) if canaries else {}
    ids = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.{number}"}
    ds = synthetic(**(named | ids | changes))
    if canaries:
        _private(ds)
        _nested(ds)
        _overlay(ds)
    return ds


def _private(ds: Dataset) -> None:
    block = ds.private_block(0x0011, "Qzprivate creator", create=True)
    block.add_new(0x01, "LO", "Qzprivate text")
    block.add_new(0x02, "UN", b"Qzprivate bytes ")


def _nested(ds: Dataset) -> None:
    item = Dataset()
    item.ScheduledProcedureStepDescription = "Qznested description"
    item.RequestedProcedureID = "Qznested id"
    ds.RequestAttributesSequence = Sequence([item])


def _overlay(ds: Dataset) -> None:
    ds.add_new(Tag(0x6000, 0x0010), "US", ds.Rows)
    ds.add_new(Tag(0x6000, 0x0011), "US", ds.Columns)
    ds.add_new(Tag(0x6000, 0x0022), "LO", "Qzoverlay description")
    ds.add_new(Tag(0x6000, 0x0040), "CS", "G")
    ds.add_new(Tag(0x6000, 0x0050), "SS", [1, 1])
    ds.add_new(Tag(0x6000, 0x0100), "US", 1)
    ds.add_new(Tag(0x6000, 0x0102), "US", 0)
    ds.add_new(Tag(0x6000, 0x1500), "LO", "Qzoverlay label")
    ds.add_new(Tag(0x6000, 0x3000), "OW", bytes((ds.Rows * ds.Columns + 15) // 16 * 2))


def raw(ds: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Give an element bytes that pydicom would not write."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def in_latin_1_said_to_be_utf_8(number: int, study: int):
    """Names in one character set, another one declared."""
    ds = image(number, study, SpecificCharacterSet="ISO_IR 192")
    raw(ds, "PatientName", "PN", "Qzlatinname^Müller".encode("latin-1"))
    raw(ds, "PatientID", "LO", OTHER_ID.encode("latin-1"))
    raw(ds, "InstitutionName", "LO", "Qzhospital Zürich".encode("latin-1"))
    return ds


def in_kanji(number: int, study: int):
    """Names in ISO 2022 with escapes, where no character set with escapes is declared."""
    ds = image(number, study, SpecificCharacterSet="ISO_IR 100")
    raw(ds, "PatientName", "PN", b"Qzfamily^X=\x1b$B" + KANJI.encode("iso2022_jp")[3:-3] + b"\x1b(B")
    raw(ds, "PatientComments", "LT", KANJI.encode("shift_jis") + KANJI.encode())
    return ds


def malformed(number: int, study: int):
    """Numbers that are words: what a library quotes when it cannot convert them."""
    ds = image(number, study)
    raw(ds, "WindowCenter", "DS", b"Qzwindow centre")
    raw(ds, "WindowWidth", "DS", b"Qzwindow width")
    raw(ds, "ImagerPixelSpacing", "DS", b"Qzspacing\\Qzspacing")
    raw(ds, "PatientAge", "AS", b"Qzmalformed age")
    raw(ds, "StudyDate", "DA", b"Qzmalformed date")
    return ds


def without_use(number: int, study: int):
    """Rows that are words: the image cannot be used."""
    ds = image(number, study)
    raw(ds, "Rows", "US", b"Qzrowtext")
    return ds


def file(ds: Dataset) -> bytes:
    return encode(ds)


def _forms(token: str) -> set[bytes]:
    """A token as bytes in whatever form it may be written down; lower case."""
    forms = {token.encode()}
    for codec in ("latin-1", "utf-16-le", "utf-16-be", "shift_jis", "euc_jp"):
        try:
            forms.add(token.encode(codec))
        except UnicodeEncodeError:
            continue
    if token == KANJI:
        forms.add(KANJI.encode("iso2022_jp")[3:-3])
    forms |= {json.dumps(token)[1:-1].encode(), ascii(token)[1:-1].encode(), quote(token).encode()}
    forms |= {repr(token.encode("latin-1", "ignore"))[2:-1].encode(), token.encode().hex().encode()}
    return {one.lower() for one in forms if len(one) >= 4}


def _in_base64(token: str) -> set[bytes]:
    """The letters of base64 that a token leads to, at each of three places; case matters."""
    data = token.encode()
    found = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + data)
        found.add(text[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6])
    return {one for one in found if len(one) >= 6}


_LOWER = {form: token for token in (*TOKENS, *DATES) for form in _forms(token)}
_BASE64 = {form: token for token in TOKENS for form in _in_base64(token)}


def leaks(data: bytes) -> set[str]:
    """The tokens that are somewhere in `data`."""
    lower = data.lower()
    found = {token for form, token in _LOWER.items() if form in lower}
    return found | {token for form, token in _BASE64.items() if form in data}


def leaks_of(places: dict[str, bytes]) -> dict[str, set[str]]:
    """By place, the tokens that are in its content or in its name."""
    found = {place: leaks(data) | leaks(place.encode()) for place, data in places.items()}
    return {place: tokens for place, tokens in found.items() if tokens}


def files_of(folder: Path, *without: Path) -> dict[str, bytes]:
    """Every file's content by its name, and of those that are left out, and of folders and links, the name alone."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file() and not any(path.is_relative_to(one) for one in without)
        else b""
        for path in sorted(folder.rglob("*"))
    }
