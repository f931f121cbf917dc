"""What a comparison is made on: groups of test patients, counts by split, and what is in two splits."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.cohort import TEST, TRAIN, Cohort
from training.gate import ALL, FAMILIES, GROUPS

Use = NDArray[np.bool_]
_AGES = dict(zip(FAMILIES["age"], itertools.pairwise((-np.inf, 40, 60, 80, np.inf)), strict=True))
_SHOWN = 10


def groups(cohort: Cohort) -> dict[str, Use]:
    """The images of each group that has any, shape (N,); all of them first."""
    views, sexes, ages = np.array(cohort.views), np.array(cohort.sexes), np.asarray(cohort.ages, np.float64)
    found: dict[str, Use] = {}
    for group in GROUPS:
        family, _, name = group.partition(" ")
        if group == ALL:
            found[group] = np.ones(len(cohort), np.bool_)
        elif family == "age":
            low, high = _AGES[group]
            found[group] = (ages >= low) & (ages < high)
        else:
            found[group] = (views if family == "view" else sexes) == name
    return {group: use for group, use in found.items() if group == ALL or use.any()}


def counts(cohort: Cohort, use: Use) -> dict[str, int]:
    """How many images, patients, labelled, positive, negative and with boxes there are among those in `use`."""
    targets = cohort.targets[use]
    return {
        "images": int(use.sum()),
        "patients": len(set(np.array(cohort.patients)[use].tolist())),
        "labelled": int((targets >= 0).sum()),
        "positive": int((targets > 0).sum()),
        "negative": int((targets == 0).sum()),
        "boxed": sum(truth is not None for truth, used in zip(cohort.truths, use, strict=True) if used),
    }


def parts(test: Cohort, training: Cohort) -> dict[str, Cohort]:
    """Cohorts by split: what was trained on and validated with, and the test set last."""
    return {split: training.part(split) for split in sorted(set(training.splits))} | {TEST: test}


def prior_masks(training: Cohort) -> list[NDArray[np.bool_]]:
    """The masks of training images with boxes, those of the split "train" where there is one."""
    wanted = {TRAIN} if TRAIN in training.splits else set(training.splits)
    return [t for t, split in zip(training.truths, training.splits, strict=True) if t is not None and split in wanted]


def described(test: Cohort, training: Cohort) -> dict[str, Any]:
    """Counts by split, view, sex, age group and source of the label, and the hash of the test set."""
    rows = {}
    for split, cohort in parts(test, training).items():
        use = np.ones(len(cohort), np.bool_)
        rows[split] = counts(cohort, use) | {
            "views": dict(sorted(Counter(view or "unknown" for view in cohort.views).items())),
            "sexes": dict(sorted(Counter(sex or "unknown" for sex in cohort.sexes).items())),
            "ages": _ages(cohort),
            "sources": dict(sorted(Counter(source or "unknown" for source in cohort.sources).items())),
        }
    return {"splits": rows, "classes": list(test.classes), "test_sha256": hash_of(test)}


def _ages(cohort: Cohort) -> dict[str, int]:
    known = {group: int(use.sum()) for group, use in groups(cohort).items() if group.startswith("age ")}
    unknown = len(cohort) - sum(known.values())
    return {group.removeprefix("age "): count for group, count in known.items()} | (
        {"unknown": unknown} if unknown else {}
    )


def hash_of(cohort: Cohort) -> str:
    """SHA-256 of images, classes and patients in their order, 64 hexadecimal digits."""
    digest = hashlib.sha256(np.ascontiguousarray(cohort.images.numpy()).tobytes())
    digest.update(np.asarray(cohort.targets, np.int64).tobytes())
    digest.update("\n".join(cohort.patients).encode())
    return digest.hexdigest()


def leaks(test: Cohort, training: Cohort) -> dict[str, Any]:
    """Patients, and images equal in every pixel of the model's grid, that are in two splits.

    Returns:
        "patients" and "images", each with the count, the pairs of splits as [split, split, count], and for patients
        the first ten pseudonyms.
    """
    splits = parts(test, training)
    patients = {split: set(cohort.patients) for split, cohort in splits.items()}
    images = {
        split: {hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in cohort.images.numpy()}
        for split, cohort in splits.items()
    }
    return {"patients": _shared(patients, named=True), "images": _shared(images, named=False)}


def _shared(sets: Mapping[str, set[str]], *, named: bool) -> dict[str, Any]:
    pairs, everything = [], set()
    names = list(sets)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            both = sets[first] & sets[second]
            everything |= both
            if both:
                pairs.append([first, second, len(both)])
    found: dict[str, Any] = {"count": len(everything), "between": pairs}
    return found | ({"first": sorted(everything)[:_SHOWN]} if named else {})
