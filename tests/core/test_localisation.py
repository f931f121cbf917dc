from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from explain_core.quality.localisation import (
    CURVE_PERCENTILES,
    PERCENTILES,
    centre_map,
    columns,
    curve_area,
    iou,
    iou_at_percentiles,
    location_prior,
    pointing_hit,
    pr_auc,
    ranking,
    salient_mask,
    score_maps,
)

CONVENTIONS = ("mean", "per_image", "mean_anchored", "per_image_anchored")


def score_map(heatmap, truth):
    return score_maps([heatmap], [truth], ["the image"])[0]


def box(shape=(40, 50), rows=slice(5, 20), across=slice(10, 30)):
    truth = np.zeros(shape, bool)
    truth[rows, across] = True
    return truth


def some_maps():
    """A continuous map, one of five values, one that is zero on most of the image, a constant one."""
    generator = np.random.default_rng(0)
    values = generator.random((40, 50))
    return {
        "continuous": values,
        "float32": values.astype(np.float32),
        "five values": np.floor(5 * values),
        "mostly zero": np.where(values > 0.93, values, 0),
        "constant": np.full((40, 50), 0.25),
        "zero": np.zeros((40, 50)),
        "bytes": (255 * values).astype(np.uint8),
        "negative": values - 2,
    }


def naive_scores(heatmap, truth):
    """Every score by loops over pixels and sets of pixels."""
    generator = np.random.default_rng(0)
    turn = {int(pixel): place for place, pixel in enumerate(generator.permutation(heatmap.size))}
    flat = [float(v) for v in heatmap.ravel()]
    order = sorted(range(len(flat)), key=lambda pixel: (-flat[pixel], turn[pixel]))
    inside = {pixel for pixel, is_inside in enumerate(truth.ravel()) if is_inside}

    def overlap(count):
        return len(set(order[:count]) & inside)

    def selected(percentile):
        return round(len(flat) * (1 - percentile / 100))

    def ratio(count):
        union = count + len(inside) - overlap(count)
        return overlap(count) / union if union else 0

    shares, steps = [], []
    for threshold in sorted(set(flat), reverse=True):
        called = [pixel for pixel in range(len(flat)) if flat[pixel] >= threshold]
        found = len(inside & set(called))
        shares.append(found / len(called))
        steps.append(found / len(inside) if inside else 0)
    mass = sum(max(value, 0) for value in flat)
    return {
        "iou": [ratio(selected(p)) for p in PERCENTILES],
        "precision": [overlap(selected(p)) / selected(p) for p in range(100)],
        "recall": [overlap(selected(p)) / len(inside) if inside else 0 for p in range(100)],
        "auprc": sum(p * (b - a) for p, a, b in zip(shares, [0, *steps], steps, strict=False)),
        "pointing": float(order[0] in inside),
        "energy": sum(max(flat[pixel], 0) for pixel in inside) / mass if mass else 0,
        "iou_matched_area": ratio(len(inside)),
    }


@pytest.mark.parametrize("name", some_maps())
@pytest.mark.parametrize("truth", [box(), box(across=slice(0, 0)), ~box(rows=slice(0, 0))], ids=["box", "none", "all"])
def test_every_score_equals_loops_over_pixels(name, truth):
    small = some_maps()[name][:20, :25]
    scores = score_map(small, truth[:20, :25])
    for field, expected in naive_scores(small, truth[:20, :25]).items():
        np.testing.assert_allclose(getattr(scores, field), expected, atol=1e-12, err_msg=field)


@pytest.mark.parametrize("name", some_maps())
def test_auprc_is_scikit_learns_average_precision(name):
    heatmap, truth = some_maps()[name], box()
    assert score_map(heatmap, truth).auprc == pytest.approx(average_precision_score(truth.ravel(), heatmap.ravel()))


def test_the_scores_of_a_map_are_those_of_the_single_functions():
    heatmap, truth = some_maps()["five values"], box()
    scores = score_map(heatmap, truth)
    np.testing.assert_array_equal(scores.iou, iou_at_percentiles(heatmap, truth))
    assert scores.pointing == pointing_hit(heatmap, truth)
    for p in (0, 37, 99):
        mask = salient_mask(heatmap, p)
        assert scores.precision[p] == pytest.approx((mask & truth).sum() / mask.sum())
        assert scores.recall[p] == pytest.approx((mask & truth).sum() / truth.sum())


def test_iou_at_percentiles_equals_the_published_rule_without_ties():
    generator = np.random.default_rng(0)
    heatmap = generator.random((40, 50))
    truth = box()
    expected = []
    for p in (80, 85, 90, 95, 98):
        mask = heatmap >= np.sort(heatmap.ravel())[-round(2000 * (1 - p / 100))]
        expected.append((mask & truth).sum() / (mask | truth).sum())
    np.testing.assert_allclose(iou_at_percentiles(heatmap, truth), expected)
    assert iou(salient_mask(heatmap, 90), truth) == pytest.approx(expected[2])


def test_ties_do_not_select_the_whole_image():
    heatmap = np.zeros((100, 100))
    heatmap[40:50, 40:50] = 1
    assert salient_mask(heatmap, 90).sum() == 1000
    truth = heatmap > 0
    assert iou_at_percentiles(heatmap, truth, [90])[0] == pytest.approx(0.1)
    assert iou_at_percentiles(heatmap, truth, [99])[0] == pytest.approx(1)


def test_equal_highest_pixels_are_pointed_at_in_the_fixed_order():
    heatmap = np.ones((30, 30))
    first = int(ranking(heatmap)[0])
    assert first != int(np.argmax(heatmap))
    truth = np.zeros(900, bool)
    truth[first] = True
    assert pointing_hit(heatmap, truth.reshape(30, 30))
    assert score_map(heatmap, truth.reshape(30, 30)).pointing == 1


def test_a_ranking_is_a_permutation_that_callers_cannot_spoil():
    heatmap = np.zeros((8, 8))
    order = ranking(heatmap)
    assert sorted(order.tolist()) == list(range(64))
    expected = order.copy()
    order[:] = 0
    np.testing.assert_array_equal(ranking(heatmap), expected)


def test_a_perfect_mask_and_an_empty_truth():
    perfect = score_map(box().astype(float), box())
    assert (perfect.auprc, perfect.pointing, perfect.energy, perfect.iou_matched_area) == (1, 1, 1, 1)
    nothing = score_map(box().astype(float), np.zeros((40, 50), bool))
    assert not nothing.iou.any()
    assert not nothing.curve.any()
    assert (nothing.auprc, nothing.pointing, nothing.energy, nothing.iou_matched_area) == (0, 0, 0, 0)


def naive_auc(curves, convention, part):
    first = 80 if part == "partial" else 0

    def area(points):
        total = 0.0
        for (p0, r0), (p1, r1) in pairwise(points):
            total += (r0 - r1) * (p0 + p1) / 2
        return total

    def points(curve):
        last = 101 if "anchored" in convention else 100
        return [(curve[0][k], curve[1][k]) for k in range(first, last)]

    if convention.startswith("mean"):
        mean = [[sum(c[row][k] for c in curves) / len(curves) for k in range(101)] for row in (0, 1)]
        return area(points(mean))
    return sum(area(points(curve)) for curve in curves) / len(curves)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("part", ["total", "partial"])
def test_pr_auc_equals_a_sum_of_trapezoids(convention, part):
    generator = np.random.default_rng(3)
    truths = [box(), box(rows=slice(20, 39)), box(across=slice(2, 12))]
    curves = columns(score_maps([generator.random((40, 50)) + truth for truth in truths], truths))["curve"]
    assert pr_auc(curves, convention, part) == pytest.approx(naive_auc(curves, convention, part))


def test_the_anchor_is_recall_0_at_the_precision_of_the_highest_pixel():
    heatmap, truth = np.arange(2000.0).reshape(40, 50), np.zeros((40, 50), bool)
    truth[-1, -1] = True
    curve = score_map(heatmap, truth).curve
    assert curve.shape == (2, 101)
    assert curve[:, 100].tolist() == [1, 0]
    assert curve[:, 99].tolist() == [1 / 20, 1]
    assert curve_area(curve, anchored=True) - curve_area(curve) == pytest.approx((1 + 1 / 20) / 2)


@pytest.fixture(scope="module")
def rsna_prior(shared_data):
    from training import controls

    folder = shared_data / "rsna_annotations"
    if not folder.is_dir():
        pytest.skip("RSNA's annotations (../shared/data/rsna_annotations) are not beside the repository")
    masks = controls.box_masks(folder)
    prior = location_prior(masks["train"])
    return columns(score_maps([prior] * len(masks["test"]), masks["test"]))


@pytest.mark.parametrize(
    ("convention", "total", "partial"),
    [
        ("mean", 0.378, 0.290),
        ("per_image", 0.401, 0.301),
        ("mean_anchored", 0.413, 0.324),
        ("per_image_anchored", 0.449, 0.349),
    ],
)
def test_the_location_prior_has_the_published_areas(rsna_prior, convention, total, partial):
    assert len(rsna_prior["curve"]) == 569
    assert round(pr_auc(rsna_prior["curve"], convention), 3) == total
    assert round(pr_auc(rsna_prior["curve"], convention, "partial"), 3) == partial


def test_the_location_prior_has_the_published_ious_and_points_as_often(rsna_prior):
    assert [round(v, 3) for v in rsna_prior["iou"].mean(axis=0)] == [0.289, 0.279, 0.247, 0.175, 0.095]
    assert round(rsna_prior["pointing"].mean(), 3) == 0.576


def test_scores_of_many_images_are_those_of_each_in_order():
    generator = np.random.default_rng(5)
    shared = generator.random((40, 50))
    heatmaps = [shared, shared, generator.random((40, 50)), shared]
    truths = [box(), box(rows=slice(0, 4)), box(), box(across=slice(0, 3))]
    table = columns(score_maps(heatmaps, truths))
    for index, (heatmap, truth) in enumerate(zip(heatmaps, truths, strict=True)):
        alone = score_map(heatmap, truth)
        np.testing.assert_array_equal(table["iou"][index], alone.iou)
        np.testing.assert_array_equal(table["curve"][index], alone.curve)
        assert [table[k][index] for k in ("auprc", "energy")] == [alone.auprc, alone.energy]
    assert table["curve"].shape == (4, 2, len(CURVE_PERCENTILES) + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused_by_the_image_s_name(bad):
    broken = np.ones((40, 50))
    broken[3, 4] = bad
    with pytest.raises(ValueError, match="image 1: NaN or infinity"):
        score_maps([np.ones((40, 50)), broken], [box(), box()])
    with pytest.raises(ValueError, match=r"^p7: NaN"):
        score_maps([broken], [box()], ["p7"])


def test_a_truth_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"image 0: a map of shape \(40, 50\) and a truth of shape \(50, 40\)"):
        score_maps([np.ones((40, 50))], [box().T])
    with pytest.raises(ValueError, match="boolean mask, not int64"):
        score_map(np.ones((40, 50)), box().astype(np.int64))
    with pytest.raises(ValueError, match="zip"):
        score_maps([np.ones((40, 50))], [box(), box()])


def test_controls():
    masks = [np.eye(4, dtype=bool), np.zeros((4, 4), bool)]
    assert location_prior(masks)[0, 0] == 0.5
    centre = centre_map(5)
    assert pointing_hit(centre, np.pad([[True]], 2))
    assert not pointing_hit(centre, np.eye(5, dtype=bool) & (np.arange(5) != 2))
    with pytest.raises(ValueError, match="training mask"):
        location_prior([])
