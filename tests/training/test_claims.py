"""What joint diffusion promises: every arm has its control, figures are paired and pooled, KID and tag are right."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from explain_core.classifier import LastFeatures
from explain_core.classifiers.resnet20 import PLUGIN
from explain_core.diffusion.counterfactual import Settings
from explain_core.errors import FeaturesNeeded
from training import datasets
from training.claims import JOINT, PLAIN, PRIOR, TAGGED, Plan, figures, markdown, run, trainings
from training.datasets.shapes import corner
from training.datasets.tables import DatasetError
from training.errors import TrainingError
from training.measure.joint_diffusion import density
from training.measure.kid import kernel_distance
from training.runs.mediffusion.settings import PRESETS

SMALL = "phantom?size=32&train=40&validation=16&test=24"


def plan(tmp_path, **changes):
    settings = replace(PRESETS["tiny"], steps=2, batch=4, labelled_batch=4, device="cpu", checkpoint_every=9)
    return Plan(
        data=SMALL, out=tmp_path, settings=settings,
        **{"seeds": (0, 1), "labels": (0.05, 1.0), "processes": 1, "most": 4, "samples": 16, "synthetic": 4,
           "oracle_epochs": 1, "classifier_steps": 4,
           "how": Settings(start=500, steps=6, doublings=2, halvings=1)} | changes,
    )  # fmt: skip


def test_every_joint_model_has_its_control_and_arms_differ_in_one_thing(tmp_path):
    made = {one.name: one for one in trainings(plan(tmp_path))}
    assert len(made) == 2 * (2 + 2 * 2)
    for seed in (0, 1):
        for labels in ("0.05", "1"):
            one, other = made[f"{JOINT}-{labels}-{seed}"], made[f"{PLAIN}-{labels}-{seed}"]
            assert (one.labels, one.data) == (other.labels, other.data)
            assert other.settings == replace(one.settings, diffusion=False)
        whole = made[f"{JOINT}-1-{seed}"]
        assert made[f"{PRIOR}-{seed}"].settings == replace(whole.settings, weight=0.0)
        assert made[f"{TAGGED}-{seed}"].settings == whole.settings
        assert made[f"{TAGGED}-{seed}"].data == f"{SMALL}&tag=100"
    assert not any(one.name.startswith(TAGGED) for one in trainings(replace(plan(tmp_path), data="nih:x")))


def test_a_plan_without_all_labels_or_for_another_s_folder_is_refused_at_once(tmp_path):
    with pytest.raises(TrainingError, match="1 is among them"):
        plan(tmp_path, labels=(0.05, 0.1))
    with pytest.raises(TrainingError, match="a seed and a process"):
        plan(tmp_path, seeds=())
    asked = plan(tmp_path / "one")
    asked.claim()
    replace(asked, seeds=(0, 1, 2), labels=(0.02, 1.0), processes=2).claim()
    for other in ({"data": f"{SMALL}0"}, {"settings": replace(asked.settings, steps=3)}, {"most": 5}):
        with pytest.raises(TrainingError, match=r"another request has made \(plan\.json\)"):
            replace(asked, **other).claim()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "notes.txt").touch()
    with pytest.raises(TrainingError, match="holds something else"):
        plan(tmp_path / "two").claim()


def test_gains_are_those_of_the_mean_over_seeds_and_missing_values_take_no_part():
    patients, targets = [f"p{n}" for n in range(8)], [0, 1] * 4
    good, bad = [0.1, 0.9] * 4, [0.9, 0.1] * 4
    none = {"remove": {"patients": []}, "enforce": {"patients": []}}

    def seed(joint, plain, tag):
        return {
            "patients": patients, "targets": targets, "scores": {"1": {JOINT: joint, PLAIN: plain}},
            "counterfactuals": none, "kid": {"real": [0.0, 0.01]}, "synthetic": {},
            "tag": {"with": {"remove": {"patients": ["p1", "p3"], "tag": tag, "tag_unguided": [1.0, 1.0]}},
                    "without": {}},
        }  # fmt: skip

    found = figures(
        Plan(data="phantom", out=None, settings=PRESETS["tiny"], labels=(1.0,)),
        [seed(good, bad, [3.0, None]), seed(good, good, [1.0, 2.0])],
    )
    few = found["few"]["1"]
    assert (few[JOINT]["value"], few[PLAIN]["value"], few["gain"]["value"]) == (1.0, 0.5, 0.5)
    assert found["tag"]["with"]["remove"]["tag"]["value"] == pytest.approx(2.0)
    assert found["tag"]["with"]["remove"]["images"] == 4
    assert "| with the tag, remove | 4 | 2.000" in markdown(found)


def test_the_tag_lies_on_images_with_an_opacity_and_on_no_other():
    plain, tagged, half = (datasets.read(f"{SMALL}&tag={percent}") for percent in (0, 100, 50))
    mask, marked = corner(32), 0
    for before, after, some in zip(plain, tagged, half, strict=True):
        one, other = before.pixels(), after.pixels()
        assert np.array_equal(one[~mask], other[~mask])
        assert bool((other[mask] == 1).all()) == (after.target == 1)
        marked += bool((some.pixels()[mask] == 1).all())
    positives = sum(sample.target for sample in plain)
    assert 0.3 * positives < marked < 0.7 * positives
    with pytest.raises(DatasetError, match="tag=101: give a whole number of 0 to 100"):
        datasets.read(f"{SMALL}&tag=101")


def test_density_compares_inside_with_outside():
    change = torch.ones(32, 32)
    mask = corner(32)
    change[torch.from_numpy(mask)] = 3.0
    assert density(change, mask) == pytest.approx(3)


def test_kid_is_the_unbiased_discrepancy_of_a_cubic_kernel():
    class Mean(nn.Module):
        """Four features that the last layer reads: the means of the quarters."""

        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            return self.last(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    generator = torch.Generator().manual_seed(0)
    real, made = (torch.rand(8, 1, 4, 4, generator=generator) * scale for scale in (1.0, 0.5))
    network = Mean()
    features = LastFeatures(network)
    x, y = features(real).double(), features(made).double()

    def kernel(a, b):
        return float(((a @ b) / 4 + 1) ** 3)

    def expected(some, others):
        m = len(some)
        same = sum(kernel(a, b) for s in (some, others) for i, a in enumerate(s) for j, b in enumerate(s) if i != j)
        return same / (m * (m - 1)) - 2 * sum(kernel(a, b) for a in some for b in others) / m**2

    pairs = [expected(x[torch.randperm(8)[:4]], y[torch.randperm(8)[:4]]) for _ in range(300)]
    found = kernel_distance(network, real, made)
    assert found.value == pytest.approx(float(np.mean(pairs)), rel=0.25)
    assert found.spread == pytest.approx(float(np.std(pairs)), rel=0.3)
    assert abs(kernel_distance(network, real, real.flip(0)).value) < 0.2 * found.value


def test_kid_needs_a_classifier_with_a_linear_end():
    with pytest.raises(FeaturesNeeded, match="no linear layer"):
        LastFeatures(nn.Conv2d(1, 1, 1))
    assert LastFeatures(PLUGIN(1).eval())(torch.rand(2, 1, 32, 32)).shape == (2, 64)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_of_it_runs_writes_its_tables_and_goes_on_from_what_is_there(tmp_path):
    asked = plan(tmp_path, seeds=(0,))
    first = run(asked)
    text = (tmp_path / "claims.md").read_text()
    for heading in ("AUC with few labels", "Counterfactuals", "KID against", "AUC of a classifier", "corner tag"):
        assert heading in text
    assert json.loads((tmp_path / "claims.json").read_text()) == first
    weights = tmp_path / "joint-1-0" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert run(asked)["few"] == first["few"]
    assert weights.stat().st_mtime_ns == made
