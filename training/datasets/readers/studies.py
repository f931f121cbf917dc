"""A training set that a node has exported (`dicom-node export`): checked against its manifest, then read as a folder.

manifest.json holds the SHA-256 of every other file under "files". A file that is missing, changed or not listed makes
the whole set unusable: nobody knows what else happened to it.
"""

import json
from pathlib import Path

from explain_core.bundles.files import digest_of
from training.datasets.readers import folder as folder_reader
from training.datasets.samples import Dataset
from training.datasets.tables import DatasetError

MANIFEST = "manifest.json"


def read(folder: Path) -> Dataset:
    """Read the folder.

    Raises:
        DatasetError: the manifest is missing or is none, or a file is not as it says; the message names the file.
    """
    listed = _listed(folder / MANIFEST)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    if strange := sorted(present - listed.keys()):
        raise DatasetError(f"{folder / strange[0]}: is not listed in {MANIFEST}")
    if missing := sorted(listed.keys() - present):
        raise DatasetError(f"{folder / missing[0]}: is listed in {MANIFEST} and missing")
    for name, digest in listed.items():
        if _sha256(folder / name) != digest:
            raise DatasetError(f"{folder / name}: its SHA-256 is not that of {MANIFEST}: the file was changed")
    return folder_reader.read(folder)


def _listed(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no manifest of an export") from error
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise DatasetError(f"{path}: no manifest of an export")
    return files


def _sha256(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


PLUGIN = read
