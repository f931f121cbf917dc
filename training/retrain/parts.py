"""The collected images as cohorts, and whether there are enough of them."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explain_core.files import read_json, write
from training.cohort import Cohort
from training.datasets import collecting
from training.datasets.samples import SPLITS
from training.datasets.tables import Kind
from training.errors import TrainingError
from training.retrain import splits_book
from training.retrain.collect import manifest, problems_of
from training.retrain.job import Job, LimitsTable, RehearsalTable
from training.splits import draw

VERDICT = "verdict"
"""As target_source: the label follows from a radiologist's verdict on a result."""
LABELS = frozenset(
    {Kind.LABEL_UNKNOWN, Kind.LABEL_CONTRADICTED, Kind.DUPLICATE_ROW, Kind.SPLIT_UNKNOWN, Kind.PATIENT_IN_TWO_SPLITS}
)
"""Problems that mean that somebody should look at the table of labels before anything is trained on it."""
IMAGES = frozenset({Kind.IMAGE_MISSING, Kind.IMAGE_UNREADABLE})


def patients_of(rows: Sequence[Mapping[str, str]], *, ready_made: bool) -> dict[str, splits_book.Patient]:
    """Every patient with an image, and what decides the split."""
    positive: dict[str, bool] = {}
    given: dict[str, str] = {}
    for row in rows:
        name = row["patient"]
        positive[name] = positive.get(name, False) or row["target"] == "1"
        before, split = given.get(name, ""), row["split"] if ready_made else ""
        given[name] = max(before, split, key=lambda one: SPLITS.index(one) if one else -1)
    return {name: splits_book.Patient(positive=positive[name], ready_made=given[name]) for name in positive}


def assigned(job: Job, rows: Sequence[Mapping[str, str]], book: Mapping[str, str]) -> dict[str, str]:
    """The split of every patient of the manifest, with the book as it is."""
    patients = patients_of(rows, ready_made=job.split.ready_made)
    return splits_book.assign(patients, book, test=job.split.test, validation=job.split.validation)


@dataclass(frozen=True, slots=True)
class Split:
    """The split of every row of the manifest.

    Attributes:
        splits: "train", "validation", "test", or "" for an image that is left out, one for each row.
        repeated: rows left out because the same file is in a more held-out split.
    """

    splits: list[str]
    repeated: int


def split_rows(rows: Sequence[Mapping[str, str]], patients: Mapping[str, str]) -> Split:
    """Each row's split; a file that is there twice is kept where it is most held-out."""
    splits = [patients[row["patient"]] for row in rows]
    held: dict[str, str] = {}
    for row, split in zip(rows, splits, strict=True):
        held[row["sha256"]] = max(held.get(row["sha256"], split), split, key=SPLITS.index)
    kept = [split if split == held[row["sha256"]] else "" for row, split in zip(rows, splits, strict=True)]
    return Split(kept, kept.count(""))


def counts(
    rows: Sequence[Mapping[str, str]], splits: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Images, patients, positives and negatives of every split."""
    found: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        part = [row for row, one in zip(rows, splits, strict=True) if one == split]
        targets = Counter(label for label, one in zip(labels, splits, strict=True) if one == split)
        found[split] = {
            "images": len(part),
            "patients": len({row["patient"] for row in part}),
            "positives": targets["1"],
            "negatives": targets["0"],
        }
    return found


def refusals(found: Mapping[str, Mapping[str, int]], limits: LimitsTable, folder: Path) -> list[str]:
    """Why nothing may be trained, in sentences with the number that is needed; none where it may.

    Args:
        found: what `counts` returned.
        limits: of the job.
        folder: of the stage `collect`.
    """
    reasons = []
    patients = sum(part["patients"] for part in found.values())
    if patients < limits.min_patients:
        reasons.append(f"{patients} patients, {limits.min_patients} are needed: {limits.min_patients - patients} more")
    for key, needed in (("positives", limits.min_positives), ("negatives", limits.min_negatives)):
        whole = sum(part[key] for part in found.values())
        if not whole:
            reasons.append(f"one class only: no image is labelled as one of the {key}")
            continue
        for split, part in found.items():
            if part[key] < needed:
                reasons.append(f"{part[key]} {key} in {split}, {needed} are needed: {needed - part[key]} more")
    problems = [problem for _, problem in problems_of(folder)]
    wrong = [one for one in problems if one.kind in LABELS and not one.detail.startswith(("sex=", "age="))]
    if len(wrong) > limits.label_problems:
        table = "\n".join(collecting.format_problems(wrong, limit=50))
        allowed = f"{limits.label_problems} allowed ([limits] label_problems)"
        reasons.append(f"{len(wrong)} problems of labels or splits, {allowed}:\n{table}")
    summary = read_json(folder / "manifest.json")
    lost = [one for one in problems if one.kind in IMAGES]
    share = len(lost) / max(summary["read"] + len(lost), 1)
    if share > limits.unreadable_share:
        table = "\n".join(collecting.format_problems(lost, limit=20))
        allowed = f"{limits.unreadable_share:.1%} allowed ([limits] unreadable_share)"
        reasons.append(f"{share:.1%} of the images are missing or unreadable, {allowed}:\n{table}")
    return reasons


def rehearsed(
    rows: Sequence[Mapping[str, str]], splits: Sequence[str], rehearsal: RehearsalTable
) -> tuple[list[str], list[str]]:
    """Splits and targets of the rows; a rehearsal is drawn by patient and by image, test patients as they are.

    A verdict on the champion's own result is no label of a test image: the reader had seen what the champion said.
    """
    kept, targets = [], []
    for row, split in zip(rows, splits, strict=True):
        used = split == "test" or draw(f"share {row['patient']}") < rehearsal.share
        turned = split != "test" and row["target"] != "" and draw(f"flip {row['sha256']}") < rehearsal.flipped
        kept.append(split if used else "")
        target = {"0": "1", "1": "0"}[row["target"]] if turned else row["target"]
        targets.append("" if split == "test" and row["target_source"] == VERDICT else target)
    return kept, targets


def write_splits(
    folder: Path, rows: Sequence[Mapping[str, str]], splits: Sequence[str], targets: Sequence[str]
) -> None:
    """splits.csv: row of images.npy, patient, split and target."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["row", "patient", "split", "target"])
    writer.writerows(
        [row["row"], row["patient"], split, target] for row, split, target in zip(rows, splits, targets, strict=True)
    )
    write(folder / "splits.csv", table.getvalue())


def load(collected: Path, split: Path, *wanted: str) -> Cohort:
    """The images of some splits.

    Args:
        collected: folder of the stage `collect`; images stay in the file until they are taken.
        split: folder of the stage `split`.
        wanted: names of splits.

    Raises:
        TrainingError: there is no image of these.
    """
    with (split / "splits.csv").open(newline="", encoding="utf-8") as file:
        table = {row["row"]: row for row in csv.DictReader(file)}
    splits, targets = ({name: row[key] for name, row in table.items()} for key in ("split", "target"))
    rows: list[dict[str, Any]] = [row for row in manifest(collected) if splits[row["row"]] in wanted]
    if not rows:
        raise TrainingError(f"no image in {' or '.join(wanted)}")
    images = np.load(collected / "images.npy", mmap_mode="r")
    truths = np.load(collected / "truths.npy", mmap_mode="r")
    index, size = np.array([int(row["row"]) for row in rows]), images.shape[-1]
    packed = (truths[i] for i in index)
    masks = (
        np.unpackbits(one, count=size**2).reshape(size, size).view(np.bool_) if one.any() else None for one in packed
    )
    return Cohort(
        images=torch.from_numpy(images[index]),
        targets=np.array([int(targets[row["row"]] or -1) for row in rows], np.int64),
        truths=tuple(masks),
        boxes=np.array([int(row["boxes"]) for row in rows], np.int64),
        views=tuple(row["view"] for row in rows),
        patients=tuple(row["patient"] for row in rows),
        splits=tuple(splits[row["row"]] for row in rows),
        classes=tuple(read_json(collected / "manifest.json")["classes"]),
        sexes=tuple(row["sex"] for row in rows),
        ages=np.array([float(row["age"]) if row["age"] else np.nan for row in rows], np.float64),
        names=tuple(row["name"] for row in rows),
        sources=tuple(row["target_source"] for row in rows),
        shapes=tuple((int(row["rows"]) or size, int(row["columns"]) or size) for row in rows),
    )
