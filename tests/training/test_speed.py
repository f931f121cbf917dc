"""What the speed command and the timing of the benchmark report; no assertion on a duration."""

import time

import pytest
import torch

from explain_core.errors import FeaturesNeeded
from training.benchmark.speed import DECISION, DELIVERED, ONE_PASS, PEER, SEARCHING, speed, table
from training.benchmark.timing import timed
from training.bundle import COPIES


def test_every_way_of_ours_stands_beside_the_peer():
    figures = speed(bundle=None, architecture="resnet20", filters=(4, 8), size=32, device="cpu", repeats=2)
    assert set(figures["rows"]) == {
        PEER, DECISION, "grad_cam (ours, frozen and fused)", ONE_PASS, DELIVERED,
        "similar_adversarial + 10 augmentations",
    }  # fmt: skip
    assert PEER in table(figures)


@pytest.mark.slow
def test_the_baselines_stand_beside_it_and_those_that_search_are_timed_one_image_at_a_time():
    figures = speed(
        bundle=None, architecture="resnet20", filters=(4, 8), size=32, device="cpu", repeats=2, baselines=True
    )
    rows = figures["rows"]
    assert {"GradCAM of captum", "gradient", "integrated_gradients", "mask_generator", *SEARCHING} <= set(rows)
    assert [name for name, row in rows.items() if "batch_16" not in row] == ["bbmp", "perceptual_perturbation"]
    assert rows["bbmp"]["ratio_1"] > 1
    assert "bbmp" in table(figures)


@pytest.mark.slow
def test_a_bundle_with_generators_on_features_is_timed_as_it_delivers(bundle):
    figures = speed(bundle=bundle, architecture="", filters=(), size=0, device="cpu", repeats=2)
    assert (figures["classifier"], figures["size"], figures["augmentations"]) == ("EvidenceLite0", 64, COPIES)
    assert figures["rows"][DELIVERED]["ratio_1"] > 0


@pytest.mark.slow
def test_generators_on_features_of_an_untrained_classifier_are_timed_and_others_refused():
    wanted = {"bundle": None, "filters": (4,), "size": 64, "device": "cpu", "repeats": 2, "features": True}
    assert speed(architecture="evidence_lite0", **wanted)["generators"] < 100_000
    with pytest.raises(FeaturesNeeded):
        speed(architecture="resnet20", **wanted)


def test_the_peak_is_what_a_call_takes_and_gives_back():
    calls = []

    def call(images):
        calls.append(len(images))
        held = torch.ones(16 << 20)  # 64 MiB
        time.sleep(0.05)
        return held.sum() + images.sum()

    figures = timed(call, torch.zeros(16, 1, 4, 4), 2)
    assert calls == [1, 1, 1, 16, 16, 16]
    assert 60 << 20 < figures["peak_bytes"] < 128 << 20
