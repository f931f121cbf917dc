"""What stands beside the peer; no assertion on a duration."""

import shutil

import pytest

from bench.speed import DECISION, DELIVERED, ONE_PASS, PEER, SEARCHING, speed
from explain_core.bundles.files import write_sums


@pytest.fixture
def small(root, tmp_path):
    """The default bundle on a small grid: what it computes means nothing, and takes seconds."""
    folder = shutil.copytree(root / "dicom_node" / "bundles" / "default", tmp_path / "bundle")
    text = (folder / "bundle.toml").read_text()
    assert text.count("size = 224\n") == 1
    (folder / "bundle.toml").write_text(text.replace("size = 224\n", "size = 64\n"))
    write_sums(folder)
    return folder


@pytest.mark.slow
def test_every_way_of_ours_stands_beside_the_peer_and_those_that_search_are_timed_one_image_at_a_time(small):
    figures = speed(bundle=small, device="cpu", repeats=2, baselines=True)
    assert (figures["classifier"], figures["size"]) == ("EvidenceLite0", 64)
    assert figures["augmentations"] > 0
    rows = figures["rows"]
    assert set(rows) == {
        PEER, DECISION, "grad_cam (ours, frozen and fused)", ONE_PASS, DELIVERED,
        "similar_adversarial + 10 augmentations", "GradCAM of captum", "gradient", "integrated_gradients",
        "mask_generator", *SEARCHING,
    }  # fmt: skip
    assert [name for name, row in rows.items() if "batch_16" not in row] == ["bbmp", "perceptual_perturbation"]
    assert rows["bbmp"]["ratio_1"] > 1
    assert rows[DELIVERED]["ratio_1"] > 0
