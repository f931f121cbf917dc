import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from explain_core.classifier import DecisionRule
from explain_core.quality.counterfactuals import (
    counterfactual_figures,
    distances,
    flipped,
)

FINDING = DecisionRule()
EXCLUSIVE = DecisionRule(exclusive=True)
QUICK = {"draws": 100}


def logits(seed=0, count=80, outputs=1):
    return np.random.default_rng(seed).normal(0, 2, (count, outputs)).astype(np.float32)


def sigmoid(values):
    return 1 / (1 + np.exp(-values.astype(np.float64)))


def naive_auc(labels, scores):
    won = pairs = 0
    for positive, high in zip(labels, scores, strict=True):
        for negative, low in zip(labels, scores, strict=True):
            if positive and not negative:
                pairs += 1
                won += 1 if high > low else 0.5 if high == low else 0
    return won / pairs


def test_the_figures_of_a_finding_equal_loops_over_images():
    x, a, s = logits(0), logits(1) - 0.5 * logits(0), logits(0) + 0.8 * logits(2)
    figures = counterfactual_figures(x, a, s, rule=DecisionRule(threshold=0.6), **QUICK)
    decided = [float(p) >= 0.6 for p in sigmoid(x)[:, 0]]
    after = [float(p) >= 0.6 for p in sigmoid(a)[:, 0]]
    kept = [float(p) >= 0.6 for p in sigmoid(s)[:, 0]]
    changed = [b != d for b, d in zip(after, decided, strict=True)]
    expected = {
        "similar_auc": naive_auc(decided, sigmoid(s)[:, 0]),
        "adversarial_auc": naive_auc([not d for d in decided], sigmoid(a)[:, 0]),
        "kept_rate": sum(k == d for k, d in zip(kept, decided, strict=True)) / 80,
        "flip_rate": sum(changed) / 80,
        "flip_rate_positive": sum(c for c, d in zip(changed, decided, strict=True) if d) / sum(decided),
        "flip_rate_negative": sum(c for c, d in zip(changed, decided, strict=True) if not d) / (80 - sum(decided)),
    }
    assert set(figures) == set(expected)
    for name, value in expected.items():
        assert figures[name].value == pytest.approx(value), name
        assert figures[name].low < figures[name].value < figures[name].high, name


def test_perfect_counterfactuals_have_areas_and_rates_of_one():
    x = logits()
    figures = counterfactual_figures(x, -x, x, rule=FINDING, **QUICK)
    assert {name: (figure.value, figure.low, figure.high) for name, figure in figures.items()} == dict.fromkeys(
        figures, (1, 1, 1)
    )


def test_x_itself_changes_nothing():
    x = logits()
    figures = counterfactual_figures(x, x, rule=FINDING, **QUICK)
    assert figures["flip_rate"].value == figures["adversarial_auc"].value == 0
    assert not {"similar_auc", "kept_rate"} & set(figures)


def test_saturated_probabilities_keep_their_order():
    x = np.array([[-60.0], [-50.0], [50.0], [60.0]], np.float32)
    a = np.array([[45.0], [46.0], [43.0], [44.0]], np.float32)
    assert counterfactual_figures(x, a, rule=FINDING, **QUICK)["adversarial_auc"].value == 1


def test_one_kind_of_decision_has_no_area_and_one_rate():
    x = np.abs(logits()) + 0.1
    figures = counterfactual_figures(x, -x, x, rule=FINDING, **QUICK)
    assert set(figures) == {"kept_rate", "flip_rate", "flip_rate_positive"}


def test_exclusive_classes_are_one_against_the_rest():
    x, a, s = logits(0, outputs=3), logits(1, outputs=3), logits(0, outputs=3) + 0.5 * logits(2, outputs=3)
    figures = counterfactual_figures(x, a, s, rule=EXCLUSIVE, **QUICK)
    decided = x.argmax(axis=1)

    def softmax(values):
        powers = np.exp(values.astype(np.float64))
        return powers / powers.sum(axis=1, keepdims=True)

    similar = np.mean([roc_auc_score(decided == k, softmax(s)[:, k]) for k in range(3)])
    adversarial = np.mean([roc_auc_score(decided != k, softmax(a)[:, k]) for k in range(3)])
    assert figures["similar_auc"].value == pytest.approx(similar)
    assert figures["adversarial_auc"].value == pytest.approx(adversarial)
    changed = a.argmax(axis=1) != decided
    assert figures["flip_rate"].value == pytest.approx(changed.mean())
    assert figures["kept_rate"].value == pytest.approx((s.argmax(axis=1) == decided).mean())
    for k in range(3):
        assert figures[f"flip_rate_class_{k}"].value == pytest.approx(changed[decided == k].mean())


def test_two_exclusive_classes_are_one_finding():
    x, a = logits(0, outputs=2), logits(1, outputs=2)
    both = counterfactual_figures(x, a, x, rule=EXCLUSIVE, **QUICK)
    one = counterfactual_figures(*(v[:, 1:] - v[:, :1] for v in (x, a, x)), rule=FINDING, **QUICK)
    for name in ("similar_auc", "adversarial_auc", "flip_rate", "kept_rate"):
        assert both[name].value == pytest.approx(one[name].value)
    assert both["flip_rate_class_1"] == one["flip_rate_positive"]


def test_a_class_that_is_never_decided_is_left_out():
    x, a = logits(0, outputs=3), logits(1, outputs=3)
    x[:, 2] = -50
    figures = counterfactual_figures(x, a, x, rule=EXCLUSIVE, **QUICK)
    assert figures["similar_auc"].value == 1
    assert "flip_rate_class_2" not in figures


def test_transfer_is_measured_against_the_second_classifiers_own_decision():
    x = np.array([[3.0], [3.0], [-3.0], [-3.0]], np.float32)
    a = np.array([[-1.0], [2.0], [-2.0], [1.0]], np.float32)
    assert flipped(x, a, FINDING).tolist() == [True, False, False, True]
    assert not flipped(a, a, FINDING).any()


def test_patients_widen_the_intervals():
    x = np.repeat(logits(count=10), 20, axis=0)
    a = np.where(np.repeat(np.arange(10) % 2, 20)[:, None] == 1, -x, x)
    images = counterfactual_figures(x, a, rule=FINDING)["flip_rate"]
    patients = counterfactual_figures(x, a, rule=FINDING, groups=np.repeat(np.arange(10), 20).tolist())["flip_rate"]
    assert patients.value == images.value == 0.5
    assert patients.high - patients.low > 2 * (images.high - images.low)


def test_distances_equal_loops_over_pixels():
    generator = np.random.default_rng(0)
    images = generator.random((3, 1, 8, 8)).astype(np.float32)
    others = images.copy()
    others[1, 0, 2:4, 2:4] += np.float32(0.1)
    others[2] += generator.normal(0, 0.004, (1, 8, 8)).astype(np.float32)
    figures = distances(images, others)
    for index in range(3):
        steps = [abs(float(a) - float(b)) for a, b in zip(images[index].flat, others[index].flat, strict=True)]
        assert figures["l1"][index] == pytest.approx(sum(steps) / 64)
        assert figures["l2"][index] == pytest.approx((sum(step**2 for step in steps) / 64) ** 0.5)
        assert figures["changed"][index] == sum(step > 1 / 255 for step in steps) / 64
    assert figures["changed"][1] == 4 / 64
    assert 0 < figures["changed"][2] < 1
    assert distances(images, others, threshold=0.2)["changed"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="shape"):
        distances(images, others[:2])


def test_bytes_do_not_wrap():
    dark, light = np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 3, np.uint8)
    assert distances(dark, light)["l1"][0] == distances(light, dark)["l1"][0] == 3
