import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from explain_core.quality.controls import blurred, control_maps, derangement, matched_sigma, roughness, strata
from explain_core.quality.localisation import (
    centre_map,
    columns,
    location_prior,
    pr_auc,
    ranking,
    score_maps,
)
from explain_core.quality.resampling import (
    bootstrap,
    mean,
    mean_curve_auc,
    one_vs_rest_auc,
    paired_gain,
    roc_auc,
    roc_auc_within,
    share,
)


def boxes(count=12, size=32, seed=0):
    generator = np.random.default_rng(seed)
    truths = []
    for _ in range(count):
        row, column = generator.integers(0, size - 12, 2)
        height, width = generator.integers(3, 12, 2)
        truth = np.zeros((size, size), bool)
        truth[row : row + height, column : column + width] = True
        truths.append(truth)
    return truths


def draws_of(count, draws, seed):
    """The images of each draw, drawn as `bootstrap` says: one generator, draw after draw."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, count, count) for _ in range(draws)]


def test_control_maps_are_what_they_are_called():
    truths = boxes()
    prior = location_prior(truths)
    maps = control_maps(truths, prior, seed=3)
    assert set(maps) == {"location_prior", "centre", "random", "perfect_mask"}
    assert all(len(row) == 12 for row in maps.values())
    assert all((heatmap >= 0).all() for row in maps.values() for heatmap in row)
    assert maps["location_prior"][7] is prior
    np.testing.assert_array_equal(ranking(maps["centre"][0]), ranking(centre_map(32)))
    scores = {name: columns(score_maps(row, truths)) for name, row in maps.items()}
    assert scores["perfect_mask"]["iou_matched_area"].tolist() == [1] * 12
    assert scores["random"]["auprc"].mean() < scores["location_prior"]["auprc"].mean() < 1
    again = control_maps(truths, prior, seed=3)["random"]
    np.testing.assert_array_equal(again[5], maps["random"][5])
    assert not np.array_equal(maps["random"][0], maps["random"][1])
    assert not np.array_equal(control_maps(truths, prior, seed=4)["random"][0], maps["random"][0])


def test_control_maps_are_square():
    with pytest.raises(ValueError, match="square"):
        control_maps([], np.zeros((4, 5)))


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_shuffling_gives_every_image_another_ones_truth_once(count):
    order = derangement(count, seed=1)
    assert sorted(order) == list(range(count))
    assert all(other != index for index, other in enumerate(order))
    np.testing.assert_array_equal(order, derangement(count, seed=1))


def test_one_image_cannot_be_shuffled():
    with pytest.raises(ValueError, match="two images"):
        derangement(1)


def naive_roughness(maps):
    values = []
    for heatmap in maps:
        rows, across = heatmap.shape
        down = [abs(heatmap[i + 1, j] - heatmap[i, j]) for i in range(rows - 1) for j in range(across)]
        right = [abs(heatmap[i, j + 1] - heatmap[i, j]) for i in range(rows) for j in range(across - 1)]
        values.append((sum(down) / len(down) + sum(right) / len(right)) / heatmap.mean())
    return sum(values) / len(values)


def noisy_maps(count=4, size=24):
    generator = np.random.default_rng(2)
    return [generator.random((size, size)).astype(np.float32) for _ in range(count)]


def test_roughness_equals_loops_over_steps():
    maps = noisy_maps(2)
    assert roughness(maps) == pytest.approx(float(naive_roughness(maps)), rel=1e-4)


@pytest.mark.parametrize("width", [0.0, 0.5, 1.5, 4.0])
def test_the_matched_blur_finds_the_width_that_smoothed(width):
    maps = noisy_maps()
    assert matched_sigma(maps, [blurred(heatmap, width) for heatmap in maps]) == width


def test_the_matched_blur_equals_trying_every_width():
    maps = noisy_maps()
    averaged = [ndimage.uniform_filter(heatmap, 5) for heatmap in maps]
    widths = [0.25 * step for step in range(30)]
    gaps = [abs(roughness([blurred(m, width) for m in maps]) - roughness(averaged)) for width in widths]
    assert matched_sigma(maps, averaged, widths) == widths[int(np.argmin(gaps))]


def test_a_map_smoother_than_every_blur_takes_the_widest():
    flat = [np.ones((24, 24), np.float32)] * 4
    assert matched_sigma(noisy_maps(), flat, (0.0, 1.0, 2.0)) == 2


def test_strata_by_size_boxes_view_and_call():
    truths = []
    for area in (1, 2, 3, 10, 20, 30, 40, 50, 60):
        truth = np.zeros(100, bool)
        truth[:area] = True
        truths.append(truth.reshape(10, 10))
    count = [1, 1, 2, 2, 2, 3, 3, 4, 1]
    views = ["AP", "PA", "", None, "AP", "AP", "PA", "PA", "AP"]
    parts = strata(truths, count, views, [True] * 5 + [False] * 4)
    assert [int(part.sum()) for part in parts.values()] == [9, 3, 3, 3, 3, 3, 3, 4, 3, 5]
    names = list(parts)
    assert names[0] == "all"
    assert names[1].startswith("lesion up to 7.7 %")
    assert names[2].startswith("lesion 7.7 to 33.3 %")
    assert names[4:] == ["1 box", "2 boxes", "3 or more boxes", "view AP", "view PA", "true positives"]
    assert parts["3 or more boxes"].tolist() == [n >= 3 for n in count]
    assert parts[names[1]].tolist() == [True] * 3 + [False] * 6


def test_sizes_cover_every_image_once_and_empty_parts_are_left_out():
    truths = boxes(10)
    parts = strata(truths, [1] * 10, ["AP"] * 10, [False] * 10)
    sizes = [part for name, part in parts.items() if name.startswith("lesion")]
    assert (np.sum(sizes, axis=0) == 1).all()
    assert set(parts) - {name for name in parts if name.startswith("lesion")} == {"all", "1 box", "view AP"}
    assert next(iter(strata(truths))) == "all"
    with pytest.raises(ValueError, match="9 views for 10 images"):
        strata(truths, views=["AP"] * 9)


def test_a_bootstrap_of_means_equals_drawing_images():
    values = np.random.default_rng(4).normal(size=(30,))
    estimate = bootstrap(mean, (values,), draws=200, seed=5)
    means = [values[chosen].mean() for chosen in draws_of(30, 200, 5)]
    assert estimate.value == pytest.approx(values.mean())
    np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(means, [0.025, 0.975]))


def test_a_bootstrap_of_mean_curves_equals_the_area_of_each_draw():
    truths = boxes(20)
    generator = np.random.default_rng(0)
    curves = columns(score_maps([generator.random((32, 32)) + truth for truth in truths], truths))["curve"]
    for anchored, convention in ((False, "mean"), (True, "mean_anchored")):
        estimate = bootstrap(mean_curve_auc(anchored=anchored, part="partial"), (curves,), draws=100, seed=6)
        areas = [pr_auc(curves[chosen], convention, "partial") for chosen in draws_of(20, 100, 6)]
        assert estimate.value == pytest.approx(pr_auc(curves, convention, "partial"))
        np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(areas, [0.025, 0.975]))


def test_a_paired_gain_draws_both_methods_by_the_same_images():
    generator = np.random.default_rng(7)
    easy = generator.random(40)
    better, worse = easy + 0.1 + 0.01 * generator.random(40), easy
    gain = paired_gain(better, worse)
    assert gain.low > 0.09
    assert gain.high < 0.12
    alone = bootstrap(mean, (better,))
    assert alone.high - alone.low > 5 * (gain.high - gain.low)
    difference = bootstrap(mean, (better - worse,))
    assert (gain.low, gain.high) == pytest.approx((difference.low, difference.high), abs=1e-3)
    with pytest.raises(ValueError, match="same images"):
        paired_gain(better, worse[:-1])


def test_a_gain_of_mean_curves_excludes_zero_where_a_map_is_better():
    truths = boxes(30)
    maps = control_maps(truths, location_prior(boxes(30, seed=9)))
    prior, random = (columns(score_maps(maps[name], truths))["curve"] for name in ("location_prior", "random"))
    gain = paired_gain(prior, random, mean_curve_auc())
    assert gain.low > 0
    assert gain.value == pytest.approx(pr_auc(prior) - pr_auc(random))
    nothing = paired_gain(prior, prior, mean_curve_auc())
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_patients_are_drawn_whole():
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    patients = np.repeat(["a", "b", "c", "d"], 25)
    images, whole = bootstrap(mean, (values,)), bootstrap(mean, (values,), groups=patients)
    assert whole.high - whole.low > 3 * (images.high - images.low)
    uneven = [1.0, 1.0, 1.0, 4.0]
    estimate = bootstrap(mean, (np.array(uneven),), groups=["a", "a", "a", "b"], draws=100, seed=1)
    assert estimate.value == pytest.approx(1.75)
    assert (estimate.low, estimate.high) == (1, 4)
    with pytest.raises(ValueError, match="3 groups for 100 images"):
        bootstrap(mean, (values,), groups=["a", "b", "c"])


def test_a_long_list_of_images_is_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).random(50)
    expected = bootstrap(mean, (values,), draws=90)
    monkeypatch.setattr("explain_core.quality.resampling._CELLS", 200)
    assert bootstrap(mean, (values,), draws=90) == expected


@pytest.mark.parametrize("levels", [4, 10**6])
def test_the_roc_area_equals_scikit_learns_in_every_draw(levels):
    generator = np.random.default_rng(8)
    labels = generator.random(60) < 0.4
    scores = np.floor(levels * (generator.random(60) + 0.3 * labels)) / levels
    scores[:3] = np.inf
    draws = draws_of(60, 50, 0)
    counts = np.array([np.bincount(chosen, minlength=60) for chosen in draws]) / 60
    finite = np.where(np.isinf(scores), 9, scores)
    expected = [roc_auc_score(labels[chosen], finite[chosen]) for chosen in draws]
    np.testing.assert_allclose(roc_auc(counts, labels, scores), expected)


def test_the_roc_area_of_one_kind_is_undefined_and_such_draws_are_left_out():
    labels, scores = np.array([True, False, False]), np.array([0.9, 0.1, 0.2])
    assert np.isnan(roc_auc(np.array([[0.0, 0.5, 0.5]]), labels, scores))[0]
    estimate = bootstrap(roc_auc, (labels, scores), draws=50)
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
    undefined = bootstrap(roc_auc, (np.ones(3, bool), scores), draws=20)
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()


def test_scores_of_two_classifiers_are_never_held_against_each_other():
    generator = np.random.default_rng(3)
    labels, judges = generator.random(60) < 0.4, generator.integers(0, 3, 60)
    labels[judges == 2] = True  # of this one no pair can be made
    scores = generator.normal(size=60) + labels + 100 * judges
    won, pairs = 0.0, 0
    for one in np.flatnonzero(labels):
        for other in np.flatnonzero(~labels & (judges == judges[one])):
            won += 1.0 if scores[one] > scores[other] else 0.0
            pairs += 1
    found = roc_auc_within(np.full((1, 60), 1 / 60), labels, scores, judges)
    assert found[0] == pytest.approx(won / pairs)
    assert found[0] != pytest.approx(roc_auc_score(labels, scores), abs=0.01)
    same = np.zeros(60, int)
    assert roc_auc_within(np.ones((1, 60)), labels, scores, same)[0] == pytest.approx(roc_auc_score(labels, scores))


def test_one_against_the_rest_averages_the_columns_that_are_defined():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
    scores = np.array([[0.9, 0.4, 0], [0.5, 0.3, 0], [0.4, 0.8, 0], [0.1, 0.6, 0]])
    expected = (roc_auc_score(labels[:, 0], scores[:, 0]) + roc_auc_score(labels[:, 1], scores[:, 1])) / 2
    assert one_vs_rest_auc(np.full((1, 4), 0.25), labels, scores)[0] == pytest.approx(expected)


def test_a_share_counts_hits_among_a_part():
    hits, among = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    weights = np.array([[0.25, 0.25, 0.25, 0.25], [0, 0.5, 0, 0.5], [0.5, 0.1, 0.2, 0.2]])
    np.testing.assert_allclose(share(weights, hits, among), [0.5, np.nan, 5 / 7])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ((np.zeros(0),), "at least one image"),
        ((np.zeros(3), np.zeros(4)), r"\[3, 4\]"),
        ((np.array([1.0, np.nan]),), "NaN"),
    ],
)
def test_what_cannot_be_resampled_is_refused(arrays, said):
    with pytest.raises(ValueError, match=said):
        bootstrap(mean, arrays)
