"""The book of splits: which patient is for training, for validation and for testing, in every job for ever.

A CSV file of patient, split, job, since. What it says of a patient is never changed, whatever a reader or a later job
says: who was trained on cannot become a test patient, and a test patient is never trained on. New patients are added
at the end; the file is replaced as a whole, so that it is never half-written, and only under a lock.

New patients without a ready-made split are drawn by the SHA-256 of their name, separately among those with and those
without a positive image, so that a split does not depend on the order of anything.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from explain_core.files import write
from explain_core.jobs import now
from training.datasets.samples import SPLITS
from training.errors import TrainingError

_HEADER = ["patient", "split", "job", "since"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What decides a new patient's split.

    Attributes:
        positive: whether one of the images shows the finding.
        ready_made: the split that the source gives, "" for none.
    """

    positive: bool
    ready_made: str = ""


def read(path: Path) -> dict[str, str]:
    """Split by patient; empty where there is no book yet.

    Raises:
        TrainingError: the file is damaged, or contradicts itself; the message names the line.
    """
    if not path.is_file():
        return {}
    book: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if next(rows, None) != _HEADER:
            raise TrainingError(f"{path}:1: the header of a book of splits is {','.join(_HEADER)}; restore the file")
        for row in rows:
            if len(row) != len(_HEADER) or row[1] not in SPLITS:
                raise TrainingError(f"{path}:{rows.line_num}: no patient with a split; restore the file")
            if book.setdefault(row[0], row[1]) != row[1]:
                raise TrainingError(f"{path}:{rows.line_num}: {row[0]} was in {book[row[0]]} before; restore the file")
    return book


def need(path: Path, jobs: Path) -> None:
    """Refuse to begin a new book where jobs have divided patients before.

    Args:
        path: the book.
        jobs: the folder of the job folders.

    Raises:
        TrainingError: the book is lost.
    """
    before = sorted(jobs.glob("*/stages/split/splits.csv"))
    if not path.exists() and before:
        raise TrainingError(
            f"{path}: the book of splits is missing, and {before[0].parents[2].name} has used one: restore it, or test "
            f"patients may be trained on; to begin anew all the same, make the file with the line {','.join(_HEADER)}"
        )


def assign(
    patients: Mapping[str, Patient], book: Mapping[str, str], *, test: float, validation: float
) -> dict[str, str]:
    """The split of every patient.

    Args:
        patients: who is in the data.
        book: what was decided before; it wins.
        test: share of the patients without a ready-made split, of those with a positive image and of those without.
        validation: the same.
    """
    splits = {name: book[name] for name in patients if name in book}
    splits |= {
        name: patient.ready_made
        for name, patient in patients.items()
        if name not in book and patient.ready_made in SPLITS
    }
    for positive in (False, True):
        stratum = [n for n, p in patients.items() if p.positive == positive and p.ready_made not in SPLITS]
        counts = Counter(splits[name] for name in stratum if name in splits)
        fresh = sorted(
            (name for name in stratum if name not in splits), key=lambda name: hashlib.sha256(name.encode()).digest()
        )
        for split, share in (("test", test), ("validation", validation)):
            count = max(0, round(share * len(stratum)) - counts[split])
            splits |= dict.fromkeys(fresh[:count], split)
            fresh = fresh[count:]
        splits |= dict.fromkeys(fresh, "train")
    return splits


def commit(path: Path, splits: Mapping[str, str], job: str) -> dict[str, str]:
    """Enter new patients, durably; returns the splits as the book then has them.

    Where another job was faster with a patient, its entry stands.

    Raises:
        TrainingError: the book is damaged.
        OSError: it cannot be written; it is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        book = read(path)
        fresh = {patient: split for patient, split in splits.items() if patient not in book}
        if fresh:
            added = io.StringIO(newline="")
            writer = csv.writer(added)
            if not book:
                writer.writerow(_HEADER)
            when = now()
            writer.writerows([patient, split, job, when] for patient, split in sorted(fresh.items()))
            before = path.read_bytes() if book else b""
            write(path, before + added.getvalue().encode())
    return {patient: book.get(patient, split) for patient, split in splits.items()}
