"""A rehearsal of the gate: fewer patients and wrong labels on purpose, and never a test patient."""

import pytest

from training.retrain.job import RehearsalTable
from training.retrain.parts import counts, rehearsed

ROWS = [
    {"row": str(i), "patient": f"nih/{i // 2}", "target": "1" if i % 3 == 0 else "0" if i % 3 == 1 else "",
     "target_source": "csv", "sha256": f"{i:064x}"}
    for i in range(4000)
]  # fmt: skip
SPLITS = ["test" if i // 2 % 5 == 0 else "validation" if i // 2 % 5 == 1 else "train" for i in range(4000)]
WHOLE = list(zip(ROWS, SPLITS, strict=True))


def test_without_a_rehearsal_everything_stays_as_it_is():
    splits, targets = rehearsed(ROWS, SPLITS, RehearsalTable())
    assert splits == SPLITS
    assert targets == [row["target"] for row in ROWS]


def test_test_patients_stay_as_they_are():
    splits, targets = rehearsed(ROWS, SPLITS, RehearsalTable(share=0.1, flipped=0.5))
    for (row, before), split, target in zip(WHOLE, splits, targets, strict=True):
        if before == "test":
            assert (split, target) == ("test", row["target"])
        else:
            assert split in {before, ""}


def test_a_share_is_of_whole_patients():
    splits, _ = rehearsed(ROWS, SPLITS, RehearsalTable(share=0.5))
    used = {}
    for (row, before), split in zip(WHOLE, splits, strict=True):
        if before != "test":
            assert used.setdefault(row["patient"], split) == split
    assert sum(split != "" for split in used.values()) / len(used) == pytest.approx(0.5, abs=0.05)


def test_flipped_labels_are_opposite_and_unknown_ones_stay_unknown():
    splits, targets = rehearsed(ROWS, SPLITS, RehearsalTable(flipped=0.2))
    labelled = [
        (row["target"], target)
        for (row, split), target in zip(WHOLE, targets, strict=True)
        if row["target"] and split != "test"
    ]
    assert {(a, b) for a, b in labelled if a != b} == {("0", "1"), ("1", "0")}
    assert sum(a != b for a, b in labelled) / len(labelled) == pytest.approx(0.2, abs=0.03)
    assert all(target == "" for (row, _), target in zip(WHOLE, targets, strict=True) if not row["target"])
    found = counts(ROWS, splits, targets)
    assert found["test"]["positives"] == sum(row["target"] == "1" for row, split in WHOLE if split == "test")
    assert found["train"]["positives"] == sum(
        target == "1" for (_, split), target in zip(WHOLE, targets, strict=True) if split == "train"
    )


def test_what_is_drawn_does_not_depend_on_the_order():
    forward = rehearsed(ROWS, SPLITS, RehearsalTable(share=0.5, flipped=0.2))
    backward = rehearsed(ROWS[::-1], SPLITS[::-1], RehearsalTable(share=0.5, flipped=0.2))
    assert (forward[0], forward[1]) == (backward[0][::-1], backward[1][::-1])
