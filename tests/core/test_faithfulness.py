import importlib
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from explain_core import engine
from explain_core.classifier import DecisionRule
from explain_core.classifiers.resnet20 import ResNet20
from explain_core.errors import GradientsNeeded
from explain_core.quality.faithfulness import max_sensitivity, randomisation_similarity, randomised, road
from explain_core.quality.imputation import impute
from explain_core.quality.localisation import ranking
from explain_core.quality.removal import (
    Blurred,
    PixelRemoval,
    deletion,
    deletion_insertion,
    random_maps,
    rank_places,
    removal_curves,
)

SIZE = 16
CLASSES = torch.tensor([0, 1, 1])


class Weighted(nn.Module):
    """Each logit a weighted sum of the pixels, bent by a ReLU: the answer to every removal is known."""

    differentiable = True

    def __init__(self, outputs=2):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weights = nn.Parameter(torch.rand(outputs, SIZE, SIZE, generator=generator) - 0.3, requires_grad=False)

    def forward(self, images):
        return torch.relu(images * self.weights).sum(dim=(2, 3)) / 20


def images(count=3):
    return torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def maps(count=3):
    values = torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    return torch.where(values > 0.4, values, torch.zeros(()))  # two fifths of the pixels tie


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def naive_curves(classifier, x, wanted, heatmap, steps, replaced):
    """Remove and return one pixel after the other, asking the classifier at the end of each part."""
    order = ranking(heatmap[0].numpy()).tolist()
    lost, regained = x.clone().flatten(), replaced.clone().flatten()
    curves = [[], []]
    done = 0
    for step in range(steps + 1):
        for pixel in order[done : round(step * len(order) / steps)]:
            lost[pixel], regained[pixel] = replaced.flatten()[pixel], x.flatten()[pixel]
        done = round(step * len(order) / steps)
        for curve, changed in zip(curves, (lost, regained), strict=True):
            curve.append(sigmoid(float(classifier(changed.view(1, 1, SIZE, SIZE))[0, wanted])))
    return curves


@pytest.mark.parametrize(
    "replacement",
    [Blurred(), torch.zeros_like, lambda images: torch.full_like(images, 0.5)],
    ids=["blur", "black", "grey"],
)
@pytest.mark.parametrize("steps", [8, 50])
def test_deletion_and_insertion_equal_a_loop_over_pixels(replacement, steps, monkeypatch):
    monkeypatch.setattr(engine, "PIXELS_CPU", 7 * images().shape[-1] ** 2)  # the classifier is asked in several parts
    classifier, settings = Weighted(), PixelRemoval(steps=steps, replacement=replacement)
    deletion, insertion = removal_curves(classifier, images(), CLASSES, maps(), settings)
    figures = deletion_insertion(classifier, images(), CLASSES, maps(), settings)
    replaced = replacement(images())
    for index in range(3):
        expected = naive_curves(classifier, images()[index], CLASSES[index], maps()[index], steps, replaced[index])
        np.testing.assert_allclose([deletion[index], insertion[index]], expected, rtol=1e-5)
        for name, curve in zip(("deletion", "insertion"), expected, strict=True):
            assert figures[name][index] == pytest.approx(np.trapezoid(curve, dx=1 / steps), rel=1e-5)


def test_a_map_of_what_the_classifier_uses_beats_chance_and_its_opposite_does_not():
    classifier = Weighted()
    used = torch.relu(images() * classifier.weights[CLASSES][:, None])
    settings = PixelRemoval(steps=16, replacement=torch.zeros_like)
    good = deletion_insertion(classifier, images(), CLASSES, used, settings)
    chance = deletion_insertion(classifier, images(), CLASSES, random_maps(images()), settings)
    assert (good["deletion"] < chance["deletion"] - 0.02).all()
    assert (good["insertion"] > chance["insertion"] + 0.02).all()
    bad = deletion_insertion(classifier, images(), CLASSES, used.max() - used, settings)
    assert (bad["deletion"] > chance["deletion"] + 0.02).all()


def test_the_curves_begin_and_end_at_the_two_images():
    classifier, blur = Weighted(), Blurred()
    deletion, insertion = removal_curves(classifier, images(), CLASSES, maps())
    assert deletion.shape == insertion.shape == (3, 51)
    ends = [torch.sigmoid(classifier(part))[torch.arange(3), CLASSES] for part in (images(), blur(images()))]
    np.testing.assert_allclose([deletion[:, 0], deletion[:, -1]], torch.stack(ends), rtol=1e-5)
    np.testing.assert_allclose([insertion[:, -1], insertion[:, 0]], torch.stack(ends), rtol=1e-5)


@pytest.mark.parametrize("rule", [DecisionRule(), DecisionRule(exclusive=True)])
def test_figures_of_a_batch_are_those_of_each_image(rule):
    classifier = ResNet20(2, width=4).eval().requires_grad_(requires_grad=False)
    settings = PixelRemoval(steps=6, rule=rule)
    together = deletion_insertion(classifier, images(), CLASSES, maps(), settings)
    together["road"] = road(classifier, images(), CLASSES, maps(), rule=rule)
    for index in range(3):
        one = (images()[index, None], CLASSES[index, None], maps()[index, None])
        alone = deletion_insertion(classifier, *one, settings) | {"road": road(classifier, *one, rule=rule)}
        for name, values in alone.items():
            np.testing.assert_allclose(values, together[name][index, None], atol=1e-6, err_msg=name)


def test_places_follow_the_tie_rule_and_maps_that_do_not_fit_are_refused():
    flat = torch.zeros(2, 1, SIZE, SIZE)
    places = rank_places(images(2), flat)
    for place in places:
        np.testing.assert_array_equal(np.argsort(place.ravel()), ranking(np.zeros((SIZE, SIZE))))
    broken = maps()
    broken[2, 0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="image 2: NaN"):
        deletion_insertion(Weighted(), images(), CLASSES, broken)
    with pytest.raises(ValueError, match="shape"):
        road(Weighted(), images(), CLASSES, maps(2))


def test_random_maps_are_one_map_for_all():
    first = random_maps(images(), seed=4)
    assert first.shape == images().shape
    assert torch.equal(first[0], first[2])
    assert torch.equal(first, random_maps(images(), seed=4))
    assert not torch.equal(first, random_maps(images(), seed=5))


def some_missing(share, seed=0):
    return np.random.default_rng(seed).random((SIZE, SIZE)) < share


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.95])
def test_imputation_equals_letting_neighbours_settle(share):
    image, missing = images()[0, 0].numpy(), some_missing(share)
    values = np.where(missing, 0.5, image).astype(np.float64)
    for _ in range(2000):
        before = values.copy()
        for row, column in np.argwhere(missing):
            total = weights = 0.0
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if (down or right) and 0 <= row + down < SIZE and 0 <= column + right < SIZE:
                        weight = 1 / 12 if down and right else 1 / 6
                        total += weight * values[row + down, column + right]
                        weights += weight
            values[row, column] = total / weights
        if abs(values - before).max() < 1e-9:
            break
    np.testing.assert_allclose(impute(image, missing), values, atol=1e-6)


def test_imputation_leaves_known_pixels_and_needs_one():
    image, missing = images()[0, 0].double().numpy(), some_missing(0.7)
    before = image.copy()
    filled = impute(image, missing)
    np.testing.assert_array_equal(filled[~missing], before[~missing])
    np.testing.assert_array_equal(image, before)
    missing[:] = True
    with pytest.raises(ValueError, match="without any pixel"):
        impute(image, missing)


@pytest.mark.filterwarnings("ignore")
def test_imputation_equals_grad_cams():
    module = importlib.import_module("pytorch_grad_cam.metrics.road")
    image, missing = images()[0], some_missing(0.5)
    expected = module.NoisyLinearImputer(noise=0)(image, torch.from_numpy(~missing).float())
    np.testing.assert_allclose(impute(image[0].numpy(), missing), expected[0], atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_road_equals_grad_cams_but_for_its_noise(monkeypatch):
    module = importlib.import_module("pytorch_grad_cam.metrics.road")
    monkeypatch.setattr("explain_core.quality.faithfulness.ROAD_NOISE", 0.0)
    silent = module.NoisyLinearImputer(noise=0)
    for name in ("ROADMostRelevantFirst", "ROADLeastRelevantFirst"):
        remover = {"M": module.RemoveMostRelevantFirst, "L": module.RemoveLeastRelevantFirst}[name[4]]
        monkeypatch.setattr(
            module,
            name,
            lambda percentile, remover=remover: module.PerturbationConfidenceMetric(remover(percentile, silent)),
        )
    classifier = Weighted()
    ranked = torch.from_numpy(1 - (rank_places(images(), maps()) + 0.5) / SIZE**2).float()
    targets = [lambda output, wanted=int(wanted): torch.sigmoid(output)[wanted] for wanted in CLASSES]
    expected = module.ROADCombined(percentiles=[25, 50, 75])(images(), ranked[:, 0].numpy(), targets, classifier)
    ours = road(classifier, images(), CLASSES, maps(), shares=(0.75, 0.5, 0.25))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_road_rewards_a_map_of_what_the_classifier_uses():
    classifier, bright = Weighted(), torch.full((2, 1, SIZE, SIZE), 0.2)
    classifier.weights[:] = 0
    classifier.weights[:, 4:8, 4:9] = 2
    bright[:, :, 4:8, 4:9] = 0.9
    used = torch.rand(bright.shape, generator=torch.Generator().manual_seed(6)) + 5 * (bright > 0.5)
    state = torch.get_rng_state()
    good, bad = (road(classifier, bright, CLASSES[:2], ranked) for ranked in (used, -used))
    assert torch.equal(state, torch.get_rng_state())
    chance = road(classifier, bright, CLASSES[:2], random_maps(bright))
    assert (good > 0.1).all()
    assert (abs(chance) < 0.05).all()
    np.testing.assert_allclose(bad, -good)
    np.testing.assert_array_equal(good, road(classifier, bright, CLASSES[:2], used))


class Squared:
    """A method whose answer to noise is known: the image to the power of 2 + class."""

    def __call__(self, _classifier, batch, classes):
        return batch ** (2 + classes.view(-1, 1, 1, 1))


@pytest.mark.filterwarnings("ignore")
def test_max_sensitivity_equals_a_loop_over_noisy_images():
    scores = max_sensitivity(Squared(), Weighted(), images(), CLASSES, radius=0.05, samples=6, seed=3)
    noise = (torch.rand(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) * 2 - 1) * 0.05
    for image, wanted, value in zip(images(), CLASSES, scores, strict=True):
        power = 2 + int(wanted)
        first = image**power
        changes = [float(((image + one).clamp(0, 1) ** power - first).norm() / first.norm()) for one in noise]
        assert value == pytest.approx(max(changes), rel=1e-5)
    assert (max_sensitivity(Squared(), Weighted(), images(), CLASSES, radius=0.0) == 0).all()


def small_network():
    torch.manual_seed(0)
    network = ResNet20(2, width=4)
    network.train()(images(8))  # moves the batch statistics from where a fresh layer has them
    return network.eval().requires_grad_(requires_grad=False)


def changed_layers(network, other):
    """Numbers, from the top, of the layers whose parameters or statistics differ."""
    pairs = zip(network.modules(), other.modules(), strict=True)
    owners = [(a, b) for a, b in pairs if list(a.parameters(recurse=False))][::-1]
    return [
        index
        for index, (a, b) in enumerate(owners)
        if any(not torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items() if v.dim())
    ]


def test_a_randomised_copy_is_new_and_the_classifier_as_before():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    other = randomised(network, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    owners = sum(1 for module in network.modules() if list(module.parameters(recurse=False)))
    assert changed_layers(network, other) == list(range(owners))
    alike = [block.second[0].weight for block in other.blocks[:3]]
    assert not torch.equal(alike[0], alike[1])
    assert not torch.equal(alike[1], alike[2])
    assert not other.training
    assert not any(parameter.requires_grad for parameter in other.parameters())
    assert torch.equal(other(images()), randomised(network, seed=1)(images()))
    assert not torch.equal(other(images()), randomised(network, seed=2)(images()))


def test_rising_layers_are_a_cascade_from_the_top():
    network = small_network()
    assert changed_layers(network, randomised(network, layers=0)) == []
    assert changed_layers(network, randomised(network, layers=1)) == [0]
    three = randomised(network, layers=3)
    assert changed_layers(network, three) == [0, 1, 2]
    assert torch.equal(three.output.weight, randomised(network).output.weight)
    assert not torch.equal(three.output.weight, network.output.weight)


def test_a_parameter_without_a_rule_of_its_own_is_drawn_anew():
    classifier = Weighted()
    other = randomised(classifier)
    assert not torch.equal(other.weights, classifier.weights)
    assert float(other.weights.std()) == pytest.approx(float(classifier.weights.std()), rel=0.2)


def test_calibration_takes_the_batch_statistics_of_the_images():
    network = small_network()
    calibrated = randomised(network, seed=1, calibration=images(8))
    stem = calibrated.stem
    expected = stem[0]((images(8) - 0.5) * 4)
    np.testing.assert_allclose(stem[1].running_mean, expected.mean(dim=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(stem[1].running_var, expected.var(dim=(0, 2, 3)), rtol=1e-4)
    assert not any(module.training for module in calibrated.modules())
    assert stem[1].momentum == network.stem[1].momentum
    assert calibrated(images(8)).std(dim=0).min() > randomised(network, seed=1)(images(8)).std(dim=0).min()


def test_what_has_no_parameters_cannot_be_randomised():
    with pytest.raises(GradientsNeeded, match="model randomisation"):
        randomised(lambda batch: batch)


def test_randomisation_similarity_equals_scipys_rank_correlation():
    first, second = maps(), maps().flip(0)
    figures = randomisation_similarity(first, second)
    for index in range(3):
        expected = stats.spearmanr(first[index].flatten(), second[index].flatten()).statistic
        assert figures["spearman"][index] == pytest.approx(expected)
    same = randomisation_similarity(first, 3 * first + 1)
    np.testing.assert_allclose(same["spearman"], 1)
    np.testing.assert_allclose(same["ssim"], 1, atol=1e-5)
    assert (figures["ssim"][[0, 2]] < 0.5).all()
    np.testing.assert_allclose(randomisation_similarity(first, -first)["spearman"], -1)


def test_a_constant_map_has_no_rank_correlation():
    figures = randomisation_similarity(maps(), torch.ones(3, 1, SIZE, SIZE))
    assert figures["spearman"].tolist() == [0, 0, 0]
    assert np.isfinite(figures["ssim"]).all()
    broken = maps()
    broken[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 1: NaN"):
        randomisation_similarity(maps(), broken)
    with pytest.raises(ValueError, match="shape"):
        randomisation_similarity(maps(), maps(2))


@pytest.mark.parametrize("wanted", [0, 1])
def test_deletion_of_one_image_is_the_deletion_of_the_full_figures(wanted):
    classifier, image, heatmap = Weighted(), images(1), maps()[:1]
    figures = deletion_insertion(classifier, image, torch.tensor([wanted]), heatmap, PixelRemoval(steps=16))
    alone = deletion(lambda x: torch.sigmoid(classifier(x))[:, wanted], image, heatmap, steps=16)
    assert alone == pytest.approx(float(figures["deletion"][0]), abs=1e-6)
    worst = deletion(lambda x: torch.sigmoid(classifier(x))[:, wanted], image, -heatmap, steps=16)
    assert abs(worst - alone) > 1e-4, "the order matters"


def test_deletion_of_one_image_is_one_batch():
    sizes = []

    def probability(batch):
        sizes.append(len(batch))
        return torch.full((len(batch),), 0.25)

    assert deletion(probability, images(1), maps()[:1], steps=8) == pytest.approx(0.25)
    assert sizes == [9]
