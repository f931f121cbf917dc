"""What an assessment and an explanation say of themselves, and the toy explainer as an example of both."""

from dataclasses import replace

import numpy as np
import pytest
from toy_explainer import ToyExplainer

from explain_core.explanation import Attribution, HeatmapScale, OutOfDistribution, Prediction
from explain_core.radiograph import Radiograph


def explained(image, explainer=None):
    """The explanation of an image by the toy's first method."""
    (explanation,) = (explainer or ToyExplainer()).explain(image, ["similar_adversarial"])
    return explanation


def radiograph(shape=(256, 200), spot=0.3):
    pixels = np.linspace(0.2, 0.7, shape[0], dtype=np.float32)[:, np.newaxis].repeat(shape[1], axis=1)
    middle = (slice(shape[0] * 3 // 8, shape[0] * 9 // 16), slice(shape[1] * 3 // 8, shape[1] * 9 // 16))
    pixels[middle] += np.float32(spot)
    return Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="x")


@pytest.mark.parametrize(
    ("probability", "near"), [(0.44, False), (0.46, True), (0.5, True), (0.54, True), (0.56, False), (1.0, False)]
)
def test_near_the_threshold_is_within_the_margin_on_both_sides(probability, near):
    assert Prediction(label="x", probability=probability, threshold=0.5, margin=0.05).near_threshold is near


def test_without_a_margin_nothing_is_near_the_threshold():
    assert not Prediction(label="x", probability=0.5, threshold=0.5).near_threshold


def test_far_is_beyond_the_limit():
    at = OutOfDistribution(score=2.0, limit=2.0, measure="m", reference="r")
    assert not at.far
    assert replace(at, score=2.001).far


@pytest.mark.parametrize("values", [(-0.1, 0.2), (0.3, 0.2), (0, 0), (0, -1)])
def test_a_scale_out_of_order_is_refused(values):
    floor, full_scale = values
    with pytest.raises(ValueError, match="floor <= full_scale"):
        HeatmapScale(floor=floor, full_scale=full_scale, unit="x")


def test_similar_kept_and_decision_changed_follow_the_probabilities():
    explanation = explained(radiograph())
    assert explanation.prediction.positive
    assert explanation.similar_kept is True
    assert explanation.decision_changed is True
    crossed = replace(explanation, similar=replace(explanation.similar, probability=0.49))
    assert crossed.similar_kept is False
    assert replace(explanation, similar=None).similar_kept is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("floor", [0.0, 0.1, 0.37])
def test_half_of_the_evidence_is_the_smallest_set_that_carries_it(seed, floor):
    """The same as of the definition, written out."""
    generator = np.random.default_rng(seed)
    values = np.round(generator.random((37, 53)) ** 4, 2).astype(np.float32)  # with ties
    values[generator.random(values.shape) < 0.02] = np.nan
    covered = generator.random(values.shape) < 0.9
    scale = HeatmapScale(full_scale=1.0, floor=floor, unit="u")
    found = Attribution(values=values, covered=covered, scale=scale)

    evidence = np.where(covered, np.maximum(np.nan_to_num(values) - np.float64(floor), 0), 0)
    carried, least = 0.0, 0.0
    for least in sorted(evidence[evidence > 0])[::-1]:
        carried += least
        if carried >= evidence.sum() / 2:
            break
    assert (found.half_of_evidence == (evidence >= least)).all()
    rows, columns, above = found.carriers
    mask = np.zeros_like(covered)
    mask[rows, columns] = True
    assert (mask == found.half_of_evidence).all()
    assert np.allclose(above, evidence[mask])
    assert found.outlined_area == pytest.approx(mask.mean())
