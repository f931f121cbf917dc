"""The mask generator's training on images of 16 pixels: what it learns, how it resumes and how it stops."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from explain_core.blur import gaussian_blur
from explain_core.classifier import DecisionRule
from explain_core.generators.mask_generator import MaskWeights
from explain_core.geometry import AffineRange
from explain_core.methods.mask_generator import MaskGeneratorMethod
from training.errors import TrainingError
from training.runs.mask_generator import (
    MaskSettings,
    Task,
    alternatives,
    balanced_odds,
    rate_at,
    train,
    validate,
    weights_at,
)

SIDE = 16
SQUARE = (slice(3, 8), slice(8, 13))
RULE = DecisionRule()
STILL = AffineRange(degrees=0, zoom=0, horizontal_flip=0)
SHORT = MaskSettings(filters=(4, 8), steps=4, batch=4, bfloat16=False, report_every=2)


class Square(nn.Module):
    """The logit is gain * (mean brightness of a square - 0.7); it stops at a chosen call, as a person would."""

    def __init__(self, stop_at=None, gain=32.0):
        super().__init__()
        weight = torch.zeros(1, SIDE, SIDE)
        weight[0][SQUARE] = gain / 25
        self.weight = nn.Parameter(weight.reshape(1, -1), requires_grad=False)
        self.bias = -0.7 * gain
        self.left = stop_at

    def forward(self, images):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return images.flatten(1).float() @ self.weight.T + self.bias


def radiographs(count, seed):
    """Dim noise, every second image with the square bright, uint8."""
    generator = torch.Generator().manual_seed(seed)
    images = 40 + 40 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    images[::2, :, SQUARE[0], SQUARE[1]] += 150
    return images.to(torch.uint8)


def fit(settings, out, classifier=None):
    out.mkdir(exist_ok=True)
    return train(settings, radiographs(24, 0), radiographs(12, 1), classifier or Square(), RULE, 0, out)


def rows(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


LEARNING = replace(SHORT, steps=200, batch=8, report_every=100, transforms=STILL, learning_rate=1e-2, seed=1)


@pytest.mark.slow
def test_the_mask_finds_the_square_of_a_classifier_that_is_hardly_sure(tmp_path):
    classifier = Square(gain=11.0)
    network = fit(LEARNING, tmp_path, classifier)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    x = radiographs(8, 2).float() / 255
    maps = MaskGeneratorMethod(network=network)(classifier, x, torch.zeros(8, dtype=torch.int64))[:, 0]
    for values in maps[::2]:
        row, column = divmod(int(values.argmax()), SIDE)
        assert SQUARE[0].start <= row < SQUARE[0].stop
        assert SQUARE[1].start <= column < SQUARE[1].stop
        assert float(values[SQUARE].mean()) > 3 * float(values.mean())
    assert float(maps[1::2].mean()) < 0.02
    assert rows(tmp_path)[-1]["validation_destroyed"] == 1


def test_the_area_starts_to_count_slowly(tmp_path):
    weights = [weights_at(step, MaskSettings(steps=100)) for step in (0, 25, 50, 99)]
    assert [w.area for w in weights] == pytest.approx([0, 4, 8, 8])
    assert {w.smoothness for w in weights} == {0.005}
    nothing_else = MaskWeights(destroyer=0, preserver=0, smoothness=0)
    settings = replace(SHORT, weights=nothing_else, report_every=1)
    fit(settings, tmp_path / "slow")
    fit(replace(settings, area_warm_up=0), tmp_path / "at_once")
    slow, at_once = ([row["loss"] for row in rows(tmp_path / name)] for name in ("slow", "at_once"))
    assert slow[0] == 0
    assert slow[1] == pytest.approx(at_once[1] / 2, rel=0.2)
    assert at_once[0] > 6
    assert min(row["validation_area"] for row in rows(tmp_path / "slow")) > 6


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, capsys):
    whole = fit(SHORT, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(SHORT, tmp_path / "cut", Square(stop_at=1 + 2 * 2 + 2 + 2 + 1))
    assert [row["step"] for row in rows(tmp_path / "cut")] == [2]
    resumed = fit(SHORT, tmp_path / "cut")
    assert '{"resuming_at_step": 2}' in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path / "cut")] == [2, 4]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for mine, theirs in zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True):
        assert mine | {"images_per_second": 0} == theirs | {"images_per_second": 0}


def test_the_best_state_is_kept(tmp_path):
    settings = replace(SHORT, steps=6, report_every=1, learning_rate=0.5, seed=2, area_warm_up=0)
    network = fit(settings, tmp_path)
    losses = [row["validation_loss"] for row in rows(tmp_path)]
    assert losses.index(min(losses)) < 5, "the case is no test of this"
    found = validate(network, radiographs(12, 1), Task(Square(), RULE, 0), settings, 0)
    assert found["validation_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    fit(SHORT, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError, match="other settings"):
        fit(replace(SHORT, seed=1), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["destroyer", "preserver", "area", "smoothness"])
def test_a_loss_that_is_no_number_stops_with_step_and_term(tmp_path, name):
    with pytest.raises(TrainingError, match=f"step 1: the loss term {name} is nan"):
        fit(replace(SHORT, weights=MaskWeights(**{name: float("nan")})), tmp_path)


def test_no_images_are_an_error(tmp_path):
    with pytest.raises(TrainingError, match="24 training and 0 validation"):
        train(SHORT, radiographs(24, 0), radiographs(0, 0), Square(), RULE, 0, tmp_path)


def test_the_classifier_and_the_global_random_state_are_left_alone(tmp_path):
    classifier = Square()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    fit(SHORT, tmp_path, classifier)
    assert torch.equal(torch.get_rng_state(), before)
    assert classifier.weight.grad is None


def test_what_replaces_is_blurred_or_grey_with_noise():
    x = radiographs(200, 3).float() / 255
    generator = torch.Generator().manual_seed(0)
    blurred = alternatives(x, replace(SHORT, blur_probability=1.0), generator)
    assert torch.equal(blurred, gaussian_blur(x, 20 / 224 * SIDE))
    grey = alternatives(x, replace(SHORT, blur_probability=0.0), generator)
    level = grey.mean(dim=(1, 2, 3))
    assert 0.4 < float(level.min()) < 0.45
    assert 0.55 < float(level.max()) < 0.6
    assert float((grey - level[:, None, None, None]).std()) == pytest.approx(0.11 / 4, rel=0.05)
    mixed = alternatives(x, SHORT, generator)
    share = sum(torch.equal(one, two) for one, two in zip(mixed, blurred, strict=True)) / 200
    assert 0.35 < share < 0.65


def test_both_decisions_are_drawn_equally_often():
    images = torch.cat([radiographs(12, 0)[1::2], radiographs(4, 1)])
    odds = balanced_odds(images, Task(Square(), RULE, 0))
    decided = torch.tensor([False] * 6 + [True, False] * 2)
    assert float(odds[decided].sum()) == pytest.approx(float(odds[~decided].sum()))


def test_the_learning_rate_rises_and_falls():
    settings = MaskSettings(steps=1000, learning_rate=0.1)
    assert rate_at(0, settings) == pytest.approx(0.001)
    assert rate_at(100, settings) == pytest.approx(0.1, rel=0.03)
    assert rate_at(999, settings) < 1e-5
