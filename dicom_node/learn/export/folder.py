"""The folder of an export: written aside, durable, then given its name; or not there at all.

images/<pseudonym>.png   16-bit grey, 0 = black; no metadata
labels.csv               one row per image, in the layout of training/datasets/readers/folder.py
boxes.csv                one row per region, in pixels from the image's upper left corner
manifest.json            how it was made, and the SHA-256 of every other file
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicom_node.errors import NodeError, OutOfResources
from dicom_node.learn import pseudonyms
from dicom_node.nouns import Opinion
from dicom_node.storage.spool import no_room
from explain_core.files import sync, write

IMAGES, LABELS, BOXES, MANIFEST = "images", "labels.csv", "boxes.csv", "manifest.json"
LABEL_COLUMNS = ("file", "patient_id", "study", "target", "target_source", "verdict", "view", "sex", "age")
BOX_COLUMNS = ("file", "x", "y", "width", "height")
SOURCES = ("csv", "verdict")
"""Of a target: the table of labels, or the verdict on a result."""

_WHITE = 65535
_COMPRESSION = 4
_PROGRAM = "dicom-explanation-node"


class ExportRefused(NodeError):
    """Nothing was exported; the message says why."""


class Draft:
    """A folder under a hidden name beside `target`, held by a lock; gone when it is not committed.

    What an earlier process left of a draft of the same name is removed.

    Raises:
        ExportRefused: `target` is there already, or no folder can be made beside it.
    """

    def __init__(self, target: Path) -> None:
        self.target = target.absolute()
        self._prefix = f".{self.target.name}."
        self.folder = self.target.with_name(f"{self._prefix}{uuid.uuid4().hex}.part")
        self.digests: dict[str, str] = {}
        self._lock = -1

    def __enter__(self) -> Self:
        self._check_target()
        if not self.target.parent.is_dir():
            raise ExportRefused(f"{self.target.parent}: no such folder")
        self._sweep()
        try:
            (self.folder / IMAGES).mkdir(parents=True)
        except OSError as error:
            raise ExportRefused(f"{self.target.parent}: nothing can be written there: {error.strerror}") from error
        self._lock = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._lock)
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError) and no_room(error):
            raise OutOfResources("Disk full; nothing was exported") from error

    def add_image(self, name: str, luminance: NDArray[np.float32]) -> str:
        """Write luminance (0 to 1, shape (rows, columns)) as a PNG; returns its name in the export."""
        file = io.BytesIO()
        levels = np.rint(luminance * np.float32(_WHITE)).astype(np.uint16)
        Image.fromarray(levels).save(file, format="PNG", compress_level=_COMPRESSION)
        return self._write(f"{IMAGES}/{name}.png", file.getvalue())

    def add_table(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Write a CSV table."""
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(name, file.getvalue().encode())

    def add_manifest(
        self, counts: Mapping[str, int], now: datetime, images: Mapping[str, Mapping[str, str]], fingerprint: str
    ) -> None:
        """Write the manifest of all that was added before."""
        at = now.isoformat(timespec="seconds")
        self._write(MANIFEST, manifest(counts, at, images, self.digests, fingerprint).encode())

    def commit(self) -> None:
        """Give the folder its name; durable on return.

        Raises:
            ExportRefused: something else has that name by now.
        """
        for folder in (self.folder / IMAGES, self.folder):
            sync(folder)
        self._check_target()
        self.folder.rename(self.target)
        sync(self.target.parent)

    def _check_target(self) -> None:
        if self.target.exists() or self.target.is_symlink():
            raise ExportRefused(f"{self.target}: is there already; name a new folder")

    def _write(self, name: str, data: bytes) -> str:
        write(self.folder / name, data)
        self.digests[name] = hashlib.sha256(data).hexdigest()
        return name

    def _sweep(self) -> None:
        for stale in self.target.parent.iterdir():
            if stale.name.startswith(self._prefix) and stale.suffix == ".part" and stale.is_dir():
                lock = os.open(stale, os.O_RDONLY)
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(stale, ignore_errors=True)
                os.close(lock)


def manifest(
    counts: Mapping[str, int],
    created_at: str,
    images: Mapping[str, Mapping[str, str]],
    digests: Mapping[str, str],
    fingerprint: str,
) -> str:
    """The manifest as JSON; `digests` are those of the files that it lists, `fingerprint` that of the key."""
    content: dict[str, Any] = {
        "format": "dicom-node export",
        "format_version": 1,
        "created_at": created_at,
        "software": {"name": _PROGRAM, "version": version(_PROGRAM)},
        "deidentification": {
            "method": pseudonyms.METHOD,
            "library_version": pseudonyms.rules_version(),
            "key_fingerprint": fingerprint,
            "codes": list(pseudonyms.CODES),
        },
        "counts": dict(counts),
        "images": dict(images),
        "files": dict(digests),
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def fixed_text() -> str:
    """All words that an export may have by itself, whatever its sources are."""
    skeleton = manifest(dict.fromkeys(("images", "patients", "studies", "boxes"), 0), "", {}, {}, "")
    terms = ("modality", "photometric", "CR", "DX", "MONOCHROME1", "MONOCHROME2", *SOURCES, *Opinion, "png")
    return " ".join((skeleton, *terms, IMAGES, LABELS, BOXES, MANIFEST, *LABEL_COLUMNS, *BOX_COLUMNS))
