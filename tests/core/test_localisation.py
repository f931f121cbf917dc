import numpy as np
import pytest

from explain_core.quality.localisation import (
    bootstrap_interval,
    centre_map,
    iou,
    iou_at_percentiles,
    location_prior,
    pointing_hit,
    salient_mask,
)


def test_iou_at_percentiles_equals_the_published_rule_without_ties():
    generator = np.random.default_rng(0)
    heatmap = generator.random((40, 50))
    truth = np.zeros((40, 50), bool)
    truth[5:20, 10:30] = True
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


def test_controls():
    masks = [np.eye(4, dtype=bool), np.zeros((4, 4), bool)]
    assert location_prior(masks)[0, 0] == 0.5
    centre = centre_map(5)
    assert pointing_hit(centre, np.pad([[True]], 2))
    assert not pointing_hit(centre, np.eye(5, dtype=bool) & (np.arange(5) != 2))
    with pytest.raises(ValueError, match="training mask"):
        location_prior([])


def test_the_bootstrap_interval_covers_the_mean_and_narrows():
    values = np.random.default_rng(1).normal(3, 1, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low < 0.3
    few = bootstrap_interval(values[:20])
    assert few[1] - few[0] > high - low
