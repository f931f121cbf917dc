"""The phantom: exact masks, RSNA's box distribution, the same from the same seed."""

import numpy as np
import pytest

from explain_core.geometry import InputSpec
from training import cohort, datasets
from training.datasets import masks, tables
from training.datasets.readers import phantom


def test_an_image_is_the_same_from_the_same_seed():
    first, second, other = phantom.draw(5, 48), phantom.draw(5, 48), phantom.draw(6, 48)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.dtype == np.float32
    assert 0 <= first.pixels.min() < first.pixels.max() <= 1


def test_masks_are_where_the_opacities_are(monkeypatch):
    """The same image drawn without its opacities differs inside the mask, and hardly outside."""
    seeds = [seed for seed in range(40) if phantom.draw(seed, 64).boxes][:10]
    drawn = [phantom.draw(seed, 64) for seed in seeds]
    opacity = phantom._opacity
    monkeypatch.setattr(phantom, "_opacity", lambda *arguments: opacity(*arguments) * 0)
    for seed, image in zip(seeds, drawn, strict=True):
        bare = phantom.draw(seed, 64)
        change = np.abs(image.pixels - bare.pixels)
        assert not bare.mask.any()
        assert change[image.mask].mean() > 5 * change[~image.mask].mean()
        assert change[image.mask].mean() > 0.02


def test_boxes_follow_those_of_the_rsna_patients(shared_data):
    from training.controls import box_masks

    real = list(box_masks(shared_data / "rsna_annotations")["train"])
    generator = np.random.default_rng(0)
    drawn = [phantom.draw_boxes(generator) for _ in range(2000)]
    made = [masks.union_mask([(x - w / 2, y - h / 2, w, h) for x, y, w, h in boxes.tolist()], 224) for boxes in drawn]
    assert np.mean([m.mean() for m in made]) == pytest.approx(np.mean([m.mean() for m in real]), rel=0.08)
    priors = [np.mean([m[::4, ::4] for m in part], axis=0).ravel() for part in (made, real)]
    assert np.corrcoef(*priors)[0, 1] > 0.97
    assert np.mean([len(boxes) for boxes in drawn]) == pytest.approx(1.6, abs=0.1)


def test_the_reader_splits_by_image_and_refuses_nonsense():
    data = datasets.read("phantom?size=32&train=6&validation=2&test=3")
    assert [sample.split for sample in data] == ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
    images, problems = cohort.load(data, InputSpec(size=32))
    assert problems == ()
    assert images.images.shape == (11, 1, 32, 32)
    for target, truth, boxes in zip(images.targets, images.truths, images.boxes, strict=True):
        assert (truth is not None) == (target == 1) == (boxes > 0)
    assert len(images.part("test")) == 3
    with pytest.raises(tables.DatasetError, match="phantom\\?size=-3: give a whole number"):
        datasets.read("phantom?size=-3")
