"""The hottest part of a map: which pixels, what they carry, and what stays of them."""

import numpy as np
import pytest
import torch

from explain_core.quality.hottest import hottest, overlaps, random_part, reversed_by_parts, stability
from explain_core.quality.transfer import carried_over, of_others, smooth_noise, transplanted

SIDE = 40


def square_map(row, column, side=16):
    """A map that is warm on a square: 16 x 16 of 40 x 40 pixels, about a sixth."""
    plane = torch.zeros(1, 1, SIDE, SIDE)
    plane[..., row : row + side, column : column + side] = 1 + torch.rand(side, side)
    return plane


def test_the_hottest_tenth_of_a_square_lies_in_the_square_and_is_a_tenth():
    found = hottest(torch.cat([square_map(3, 5), square_map(20, 9)]))
    assert found.flatten(1).sum(dim=1).tolist() == [160, 160]
    assert found[0, 0, 3:19, 5:21].sum() == 160
    assert found[1, 0, 20:36, 9:25].sum() == 160


@pytest.mark.parametrize("block", [1, 3, 7])
def test_a_random_part_has_as_many_pixels_in_whole_blocks(block):
    mask = random_part(SIDE, block=block, seed=4)
    assert mask.sum() == 160
    assert np.array_equal(mask, random_part(SIDE, block=block, seed=4))
    assert not np.array_equal(mask, random_part(SIDE, block=block, seed=5))
    filled = [mask[r : r + block, c : c + block].mean() for r in range(0, SIDE, block) for c in range(0, SIDE, block)]
    assert sum(0 < share < 1 for share in filled) <= 1, "all blocks but the last are whole or empty"


def test_random_parts_are_everywhere_alike():
    share = np.mean([random_part(SIDE, block=4, seed=seed) for seed in range(2000)], axis=0)
    assert share == pytest.approx(0.1, abs=0.04)


def test_only_the_part_that_the_decision_reads_reverses_it():
    images = torch.full((2, 1, SIDE, SIDE), 0.2)
    changed = images.clone()
    changed[..., 4:14, 4:14] = 0.9  # what is read
    changed[..., 20:, :] = 0.25  # what is not
    maps = (changed - images).abs()

    def decide(x):
        return (x[:, 0, 4:14, 4:14].mean(dim=(-2, -1)) > 0.5).long()

    found = reversed_by_parts(decide, images, changed, maps, draws=4)
    assert found["whole"].tolist() == found["hottest"].tolist() == [1, 1]
    assert found["without"].tolist() == [0, 0]
    assert found["random"].max() <= 0.25
    elsewhere = reversed_by_parts(decide, images, changed, 1 - maps, draws=1)
    assert elsewhere["hottest"].tolist() == [0, 0], "a map that points elsewhere carries nothing"
    assert elsewhere["without"].tolist() == [1, 1]


def test_the_random_control_is_as_coarse_as_a_map():
    images, changed = torch.zeros(1, 1, 56, 56), torch.ones(1, 1, 56, 56)

    def decide(x):
        """Whether a patch of 3 x 3 pixels is bright throughout."""
        return (torch.nn.functional.avg_pool2d(x, 3, 1).amax(dim=(1, 2, 3)) > 0.99).long()

    found = reversed_by_parts(decide, images, changed, changed)
    assert (found["random"][0], found["random_pixels"][0]) == (1, 0), "single pixels are no rival to a patch"


def smooth(images):
    """A toy explanation that moves with its image: nothing in it knows where a pixel is."""
    return torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)


def test_a_map_that_moves_with_its_image_is_stable():
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = stability(lambda x: x, images, noise=0.0)
    assert found["shift"] == pytest.approx([1, 1])
    assert found["noise"] == pytest.approx([1, 1])
    assert (found["jpeg"] < 1).all(), "noise does not survive a JPEG as it is"
    assert stability(smooth, images, noise=0.01)["noise"].min() > 0.7


def test_a_map_that_stays_where_it_is_is_not():
    images = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    fixed = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = stability(fixed.expand_as, images)
    assert found["shift"][0] < 0.15, "not moved with the image: as good as chance"
    assert found["noise"][0] == found["jpeg"][0] == 1
    again = stability(lambda x: x, images, noise=0.5)
    assert again["noise"][0] < 0.8


def test_overlaps_are_of_the_hottest_pixels():
    one, two = square_map(0, 0), square_map(0, 24)
    assert overlaps(one, one) == pytest.approx([1])
    assert overlaps(one, two)[0] == 0


def test_the_random_change_has_the_energy_of_the_change():
    changes = torch.randn(3, 1, SIDE, SIDE) * torch.tensor([0.1, 0.2, 0.3])[:, None, None, None]
    drawn = smooth_noise(changes, 4)
    assert drawn.square().mean(dim=(1, 2, 3)).tolist() == pytest.approx(changes.square().mean(dim=(1, 2, 3)).tolist())
    steps = (
        drawn.diff(dim=-1).abs().mean() / drawn.abs().mean(),
        changes.diff(dim=-1).abs().mean() / changes.abs().mean(),
    )
    assert steps[0] < steps[1] / 3


def test_another_images_change_is_of_the_same_decision():
    changes = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2)
    got = of_others(changes, torch.tensor([1, 0, 1, 0, 1]))[:, 0, 0, 0].tolist()
    assert {got[0], got[2], got[4]} == {0, 2, 4}
    assert (got[1], got[3]) == (3, 1)
    assert all(a != b for a, b in zip(got, range(5), strict=True))
    assert of_others(changes[:1], torch.tensor([1]))[0, 0, 0, 0] == 0, "alone, there is no other"


def test_a_finding_is_put_in_its_place_without_a_step_in_grey():
    x, donor = torch.full((1, 1, SIDE, SIDE), 0.5), torch.full((1, 1, SIDE, SIDE), 0.2)
    masks = torch.zeros_like(x)
    masks[..., 20:36, 20:36] = 1
    assert torch.allclose(transplanted(x, donor, masks, 1.5), x, atol=1e-6), "a donor of other brightness alone"
    donor[..., 24:32, 24:32] += 0.3
    put = transplanted(x, donor, masks, 1.5)
    assert put[..., 26:30, 26:30].mean() == pytest.approx(0.8, abs=0.01)
    assert torch.equal(put[..., :8, :], x[..., :8, :]), "far from the finding nothing changes"


def test_a_change_carries_over_where_both_decided_alike():
    first = np.array([1, 1, 1, 0, 0])
    before = np.array([1, 1, 0, 0, 1])
    after = np.array([0, 1, 0, 1, 1])
    found = carried_over(first, before, after)
    assert np.nanmean(found["positive"]) == 0.5
    assert np.isnan(found["positive"]).tolist() == [False, False, True, True, True]
    assert np.nanmean(found["negative"]) == 1
    assert np.nanmean(found["positive_all"]) == pytest.approx(1 / 3)
    assert np.nanmean(found["negative_all"]) == 0.5
