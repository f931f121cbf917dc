"""Whose a study is, for somebody who is logged in: read from its images when it is asked, and kept nowhere else."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dicom_node.dicom import reading
from dicom_node.dicom.elements import texts
from dicom_node.errors import DatasetUnreadable, OutOfResources
from dicom_node.storage.file_store import Fetch
from dicom_node.watch.logs import without_warnings

_KEYWORDS = ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "PatientBirthDate", "PatientSex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What an image says of its patient and of its order; "" for what it does not state."""

    name: str
    identifier: str
    accession: str
    study_date: str
    birth_date: str
    sex: str


def people(paths: Mapping[str, Path], fetch: Fetch = Path) -> dict[str, Person]:
    """The patient of each study, by its UID; of images that cannot be read none.

    Args:
        paths: the file of an image of each.
        fetch: gives a local file of it (`FileStore.fetch`); while it cannot, nobody has a name.
    """
    found = {}
    with suppress(OutOfResources):
        for uid, path in paths.items():
            found[uid] = _person(path, fetch)
    return {uid: one for uid, one in found.items() if one is not None}


@lru_cache(maxsize=2000)
def _person(path: Path, fetch: Fetch) -> Person | None:
    """Of a file, whose name changes with its content."""
    try:
        with without_warnings():
            header = reading.read_header(fetch(path), _KEYWORDS)
            name, identifier, accession, date, born, sex = (", ".join(texts(header, word)) for word in _KEYWORDS)
    except DatasetUnreadable:
        return None
    return Person(
        name=name.split("=", maxsplit=1)[0].replace("^", " ").strip() or name,
        identifier=identifier,
        accession=accession,
        study_date=date,
        birth_date=born,
        sex=sex,
    )
