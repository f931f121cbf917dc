"""What stands beside the peer; no assertion on a duration."""

import pytest

from bench.speed import DECISION, DELIVERED, ONE_PASS, PEER, SEARCHING, speed
from explain_core.bundles.bundle import load


@pytest.mark.slow
def test_every_way_of_ours_stands_beside_the_peer_and_those_that_search_are_timed_one_image_at_a_time(root):
    bundle = root / "dicom_node" / "bundles" / "default"
    figures = speed(bundle=bundle, device="cpu", repeats=2, baselines=True)
    assert (figures["classifier"], figures["size"], figures["augmentations"]) == (
        "EvidenceLite0",
        224,
        load(bundle).augmentations,
    )
    rows = figures["rows"]
    assert set(rows) == {
        PEER, DECISION, "grad_cam (ours, frozen and fused)", ONE_PASS, DELIVERED,
        "similar_adversarial + 10 augmentations", "GradCAM of captum", "gradient", "integrated_gradients",
        "mask_generator", *SEARCHING,
    }  # fmt: skip
    assert [name for name, row in rows.items() if "batch_16" not in row] == ["bbmp", "perceptual_perturbation"]
    assert rows["bbmp"]["ratio_1"] > 1
    assert rows[DELIVERED]["ratio_1"] > 0
