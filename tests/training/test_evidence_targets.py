"""What an image teaches: labels, boxes, how far each is believed, and the two losses cell by cell."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from explain_core.geometry import InputSpec
from training.datasets.samples import Sample
from training.runs.evidence_targets import FINDINGS, OUTPUTS, Lessons, image_loss, map_loss, of_parts, of_whole

SPEC = InputSpec(size=32)
RAMP = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
BOX = (0.25, 0.5, 0.5, 0.25)


def sample(target, source, **values):
    common = {"path": Path("x"), "patient_id": "p", "fold": 4, "view": "", "pixels": lambda: RAMP, "shape": (32, 32)}
    return Sample(target=target, target_source=source, **common | values)


def bce(z, t):
    p = 1 / (1 + math.exp(-z))
    return -(t * math.log(p) + (1 - t) * math.log(1 - p))


def test_labels_and_boxes_are_believed_by_who_said_them():
    mass, infiltration = {"Mass": (BOX,)}, {"Infiltration": (BOX,)}
    lessons = of_whole(
        [
            sample(1, "expert", boxes=(BOX,)),
            sample(0, "expert"),
            sample(0, "textmined"),
            sample(None, "expert_other", findings=frozenset({"Mass"}), finding_boxes=mass),
            sample(1, "textmined", findings=frozenset({"Infiltration"}), finding_boxes=infiltration),
            sample(1, "textmined", findings=frozenset({"Infiltration"})),
            sample(None, "textmined_other"),
        ],
        SPEC,
    )
    assert OUTPUTS[0] == "Lung Opacity"
    assert lessons.labels.shape == (7, 9)
    assert lessons.labels[:, 0].tolist() == [1, 0, 0, 0, 1, 1, 0]
    assert lessons.trust[:, 0].tolist() == pytest.approx([1, 1, 0.6, 0.5, 0.6, 0.6, 0])
    assert lessons.map_trust[:, 0].tolist() == pytest.approx([1, 1, 0.3, 0.7, 0.4, 0, 0])
    truths = lessons.truths()
    assert truths.shape == (7, 9, 8, 8)
    assert [bool(one.any()) for one in truths[:, 0]] == [True, False, False, False, True, False, False]
    assert torch.equal(truths[0, 0].nonzero(), torch.tensor([[r, c] for r in (4, 5) for c in (2, 3, 4, 5)]))
    place = 1 + FINDINGS.index("Mass")
    assert lessons.labels[3, place] == 1
    assert truths[3, place].sum() == 8
    assert lessons.map_trust[:, place].tolist() == pytest.approx([0.3] * 7), "known to be there, or not named"
    infiltrated = lessons.map_trust[:, 1 + FINDINGS.index("Infiltration")].tolist()
    assert infiltrated == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.3, 0, 0.3]), "named, and nobody said where"


def test_images_of_parts_teach_a_map_and_no_label():
    visible = np.zeros((32, 32), np.bool_)
    visible[:16] = True
    lessons = of_parts(
        [sample(1, "expert", boxes=(BOX,), visible=lambda: visible), sample(0, "expert", visible=lambda: ~visible)],
        SPEC,
    )
    assert not lessons.trust.any()
    assert lessons.map_trust[:, 0].tolist() == [0.5, 0.5]
    assert not lessons.map_trust[:, 1:].any()
    assert lessons.visible.shape == (2, 1, 8, 8)
    assert lessons.visible[0, 0, :4].all()
    assert not lessons.visible[0, 0, 4:].any()
    assert torch.equal(lessons.visible[1], ~lessons.visible[0])
    chosen = lessons.take(torch.tensor([1, 0, 0]))
    assert torch.equal(chosen.visible, lessons.visible[[1, 0, 0]])
    assert [bool(boxes) for boxes in chosen.boxes] == [False, True, True]
    assert isinstance(chosen, Lessons)


def test_the_maps_loss_agrees_with_a_loop_over_cells():
    generator = torch.Generator().manual_seed(0)
    maps, truths = torch.randn(3, 2, 4, 4, generator=generator), torch.rand(3, 2, 4, 4, generator=generator)
    trust = torch.tensor([[1.0, 0.3], [0.0, 0.7], [0.5, 0.0]])
    visible = torch.rand(3, 1, 4, 4, generator=generator)
    for seen in (None, visible):
        total = 0.0
        for n in range(3):
            for o in range(2):
                for r in range(4):
                    for c in range(4):
                        share = 1.0 if seen is None else float(seen[n, 0, r, c])
                        truth = float(truths[n, o, r, c])
                        total += float(trust[n, o]) * share * (1 + 2 * truth) * bce(float(maps[n, o, r, c]), truth) / 16
        assert float(map_loss(maps, truths, trust, seen, 3.0)) == pytest.approx(total / 3, rel=1e-5)


def test_what_cannot_be_seen_or_is_not_known_teaches_nothing():
    maps = torch.zeros(1, 1, 4, 4, requires_grad=True)
    visible = torch.zeros(1, 1, 4, 4)
    visible[..., :2] = 1
    map_loss(maps, torch.ones(1, 1, 4, 4), torch.ones(1, 1), visible, 3.0).backward()
    assert not maps.grad[..., 2:].any()
    assert bool((maps.grad[..., :2] < 0).all())
    assert float(map_loss(maps, torch.ones(1, 1, 4, 4), torch.zeros(1, 1), None, 3.0).detach()) == 0


def test_the_labels_loss_agrees_with_a_loop():
    logits = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]])
    labels, trust = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        torch.tensor([[1.0, 0.3], [0.6, 0.3], [0.0, 0.3]]),
    )
    moved = [[0.97 if value else 0.03 for value in row] for row in labels.tolist()]
    first = (bce(1.0, moved[0][0]) + 0.6 * bce(0.5, moved[1][0])) / 1.6
    others = 0.3 * (bce(-2.0, moved[0][1]) + bce(0.0, moved[1][1]) + bce(1.0, moved[2][1])) / 3
    assert float(image_loss(logits, labels, trust, 0.03)) == pytest.approx(first + others, rel=1e-5)
