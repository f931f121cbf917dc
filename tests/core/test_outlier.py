"""The distance from the training images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from explain_core.outlier import OutlierModel, OutlierTest


def bodies(count, seed, shape=(60, 50)):
    """Two dark fields on a bright ground, of changing place and size, with a little noise: a chest to a child."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    images = []
    for _ in range(count):
        top, width = 0.4 + 0.05 * generator.standard_normal(), 0.12 + 0.01 * generator.standard_normal()
        fields = sum(np.exp(-(((y - top) / 0.2) ** 2) - ((x - side) / width) ** 2) for side in (0.3, 0.7))
        image = 0.4 + 0.5 * y - 0.5 * fields + 0.02 * generator.standard_normal(shape)
        images.append(np.clip(image, 0, 1).astype(np.float32))
    return images


def _without_contrast(model):
    """The same model with one feature that counts for nothing: the one before the last."""
    spread = model.spread.copy()
    spread[-2] = 1e9
    return replace(model, spread=spread)


@pytest.fixture(scope="module")
def model():
    images = bodies(60, 0)
    return OutlierModel.fit(images, images, side=16, components=4)


@pytest.fixture(scope="module")
def limit(model):
    return max(model.score(image) for image in bodies(40, 1))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: image[::-1].copy(),
        lambda image: 1 - image,
        lambda image: np.rot90(image).copy(),
        lambda image: np.random.default_rng(0).random(image.shape, np.float32),
        lambda image: np.clip(image + 0.3 * np.random.default_rng(0).standard_normal(image.shape), 0, 1),
        lambda image: np.full_like(image, 0.5),
    ],
    ids=["upside down", "negative", "turned", "noise", "noisy", "flat"],
)
def test_what_is_no_such_image_is_far(model, limit, spoil):
    assert all(model.score(spoil(image).astype(np.float32)) > limit for image in bodies(10, 2))


def test_far_along_a_component_is_far_though_nothing_is_left_over(model):
    along = (model.mean + 8 * model.spread[0] * model.components[0]).reshape(16, 16)
    nearer = (model.mean + 0.5 * model.spread[0] * model.components[0]).reshape(16, 16)
    scores = [_without_contrast(model).score(image) for image in (along, nearer)]
    assert scores[0] ** 2 - scores[1] ** 2 == pytest.approx(8**2 - 0.5**2, rel=0.1)


def test_fine_noise_is_seen_though_the_small_grid_loses_it(model):
    image = bodies(1, 3)[0]
    checks = np.indices(image.shape).sum(axis=0) % 2 * 0.4 - 0.2
    noisy = np.clip(image + checks, 0, 1).astype(np.float32)
    assert model.score(noisy) > 3 * model.score(image)


@pytest.mark.parametrize("side", [480, 1200])
def test_contrast_tells_noise_and_shuffled_pixels_that_average_out_to_grey(model, limit, side):
    generator = np.random.default_rng(0)
    noise = generator.random((side, side), np.float32)
    shuffled = generator.permuted(bodies(1, 7, (side, side))[0].ravel()).reshape(side, side)
    for film in (noise, shuffled):
        small = functional.interpolate(torch.from_numpy(film)[None, None], (60, 60), mode="bilinear", antialias=True)
        seen = small[0, 0].numpy()
        assert model.score(seen) > max(limit, 1.5 * _without_contrast(model).score(seen))


def test_contrast_of_the_small_grid_counts_as_one_feature(model):
    image = bodies(1, 8, (16, 16))[0]
    away = (np.log(image.std() + 1e-4) - model.centre[-2]) / model.spread[-2]
    assert model.score(image) ** 2 - _without_contrast(model).score(image) ** 2 == pytest.approx(away**2, rel=1e-3)


def test_other_shapes_of_the_same_scene_are_near(model, limit):
    scores = [model.score(image) for shape in ((80, 50), (50, 80), (120, 120)) for image in bodies(5, 4, shape)]
    assert np.median(scores) < limit


def test_a_saved_model_scores_alike(model, tmp_path):
    model.save(tmp_path / "outlier.safetensors")
    again = OutlierModel.load(tmp_path / "outlier.safetensors")
    image = bodies(1, 5)[0]
    assert again.score(image) == model.score(image)


def test_a_test_says_far_beyond_its_limit_only(model):
    image = bodies(1, 6)[0]
    score = model.score(image)
    near = OutlierTest(model=model, limit=score + 0.01, measure="m")(image)
    beyond = OutlierTest(model=model, limit=score - 0.01, measure="m")(image)
    assert near.score == round(score, 3)
    assert (near.far, beyond.far) == (False, True)
    assert near.measure == "m"


def test_arrays_that_do_not_fit_are_refused(model):
    parts = {name: getattr(model, name) for name in ("mean", "components", "centre", "spread")}
    for wrong in ({"mean": model.mean[1:]}, {"centre": model.centre[1:]}, {"spread": model.spread * 0}):
        with pytest.raises(ValueError, match=r"do not fit|need|not above 0"):
            OutlierModel(**(parts | wrong))
