"""Palette, scale, blending and outlines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toy_explainer import ToyExplainer

from explain_core import display
from explain_core.explanation import Attribution, HeatmapScale
from explain_core.radiograph import Radiograph

SCALE = HeatmapScale(full_scale=0.2, unit="test")


def explained(image, explainer=None):
    """The explanation of an image by the toy's first method."""
    (explanation,) = (explainer or ToyExplainer()).explain(image, ["similar_adversarial"])
    return explanation


def plane(value, shape=(40, 30)):
    return np.full(shape, value, np.float32)


def test_palette_is_perceptually_uniform():
    lab = display.oklab(display.PALETTE)
    assert display.PALETTE.shape == (256, 3)
    assert np.diff(lab[:, 0]).min() >= 0, "lightness rises"
    assert np.diff(lab[::8, 0]).min() > 0.003
    steps = np.linalg.norm(np.diff(lab[::15], axis=0), axis=1)
    assert steps.max() / steps.min() < 1.2


def test_oklab_of_white_black_and_red():
    lab = display.oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    assert lab == pytest.approx(
        np.array([[1, 0, 0], [0, 0, 0], [0.62796, 0.22486, 0.12585]]), abs=2e-4
    )  # published values


def test_no_evidence_shows_the_grey_image_and_nothing_else():
    grey = np.linspace(0, 1, 1200, dtype=np.float32).reshape(40, 30)
    fused = display.fuse(grey, plane(0), SCALE)
    assert (fused[..., 0] == fused[..., 1]).all()
    assert (fused[..., 1] == fused[..., 2]).all()
    assert fused[..., 0] == pytest.approx(np.rint(grey * 255))


FLOORED = HeatmapScale(floor=0.04, full_scale=0.2, unit="test")


@pytest.mark.parametrize("value", [0, 0.02, 0.039999, 0.04])
def test_up_to_the_floor_the_grey_pixel_is_exactly_the_sources(value):
    grey = np.random.default_rng(0).random((40, 30), np.float32)
    fused = display.fuse(grey, plane(value), FLOORED)
    assert (fused == np.rint(grey * 255).astype(np.uint8)[..., np.newaxis]).all()


def test_paint_rises_from_the_floor_to_full_scale():
    values = np.array([[0.04, 0.08, 0.12, 0.16, 0.2, 0.3]], np.float32)
    assert display.evidence(values, FLOORED)[0] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], abs=1e-6)
    dark = display.fuse(plane(0, values.shape), values, FLOORED)
    bright = display.fuse(plane(1, values.shape), values, FLOORED)
    seen_through = (bright.astype(int) - dark)[0].mean(axis=1)
    assert seen_through == pytest.approx(255 * (1 - display.OPACITY * np.array([0, 0.25, 0.5, 0.75, 1, 1])), abs=1)


def test_a_floor_at_full_scale_paints_nothing_at_it_and_everything_above():
    shut = HeatmapScale(floor=0.2, full_scale=0.2, unit="test")
    values = np.array([[0.1, 0.2, 0.21]], np.float32)
    assert display.evidence(values, shut).tolist() == [[0, 0, 1]]


def test_the_colour_bar_runs_from_the_floor_to_full_scale():
    bar = display.colour_bar(3, 101, FLOORED)
    assert bar.shape == (3, 101, 3)
    assert np.ptp(bar[0, 0]) == 0, "no colour at the floor"
    for column, value in ((50, 0.12), (100, 0.2)):
        assert (bar[0, column] == display.fuse(plane(0.5), plane(value), FLOORED)[0, 0]).all()


def test_weak_evidence_is_not_stretched():
    values = plane(0)
    values[10:20, 10:20] = 0.01 * SCALE.full_scale  # the strongest of this image, and next to nothing
    fused = display.fuse(plane(0.5), values, SCALE).astype(int)
    assert np.ptp(fused, axis=2).max() <= 2


def test_a_value_has_one_colour_whatever_else_is_in_the_image():
    alone, beside = plane(0.07), plane(0.07)
    beside[0, 0] = 10 * SCALE.full_scale
    assert (display.fuse(plane(0.3), alone, SCALE)[5, 5] == display.fuse(plane(0.3), beside, SCALE)[5, 5]).all()


def test_opacity_rises_with_the_value_and_clips_at_full_scale():
    ramp = np.linspace(0, 2 * SCALE.full_scale, 30, dtype=np.float32)[np.newaxis].repeat(2, axis=0)
    dark, bright = display.fuse(plane(0, (2, 30)), ramp, SCALE), display.fuse(plane(1, (2, 30)), ramp, SCALE)
    seen_through = (bright.astype(int) - dark)[0].mean(axis=1)
    assert seen_through[0] == 255
    assert (np.diff(seen_through[:15]) < 0).all()
    assert (dark[0, 16:] == dark[0, 16]).all()
    assert seen_through[-1] == pytest.approx(255 * (1 - display.OPACITY), abs=1)


def test_nan_is_no_evidence():
    values = plane(0)
    values[0, 0] = np.nan
    assert (display.fuse(plane(0.5), values, SCALE)[0, 0] == 128).all()


def test_fuse_refuses_another_grid():
    with pytest.raises(ValueError, match="differ in shape"):
        display.fuse(plane(0), plane(0, (30, 40)), SCALE)


def attribution(values, covered=None, scale=FLOORED):
    values = np.asarray(values, np.float32)
    return Attribution(values=values, covered=np.ones(values.shape, bool) if covered is None else covered, scale=scale)


def smallest_half(values, floor):
    """The slow way: pixels by descending value until they carry half, then those that tie with the last."""
    above = {place: max(float(value) - floor, 0) for place, value in np.ndenumerate(values)}
    total, carried, taken, last = sum(above.values()), 0.0, set(), 0.0
    for place in sorted(above, key=lambda one: -above[one]):
        if total == 0 or (carried >= total / 2 and above[place] < last):
            break
        taken.add(place)
        carried, last = carried + above[place], above[place]
    return taken


@given(st.lists(st.integers(0, 12), min_size=12, max_size=12))
def test_half_of_the_evidence_is_the_smallest_such_set(numbers):
    values = np.array(numbers, np.float64).reshape(3, 4) / 64  # exact sums
    scale = HeatmapScale(floor=2 / 64, full_scale=1.0, unit="test")
    found = attribution(values, scale=scale).half_of_evidence
    assert set(map(tuple, np.argwhere(found).tolist())) == smallest_half(values, 2 / 64)


def test_half_of_the_evidence_is_none_up_to_the_floor_and_where_nothing_was_examined():
    assert not attribution(plane(0.04)).half_of_evidence.any()
    assert not attribution(plane(0), scale=SCALE).half_of_evidence.any()
    covered = plane(1).astype(bool)
    covered[:20] = False
    assert (attribution(plane(0.1), covered).half_of_evidence == covered).all(), "ties stay together"
    broken = plane(0.03)
    broken[3, 3], broken[5, 5] = np.nan, 0.1
    assert np.argwhere(attribution(broken).half_of_evidence).tolist() == [[5, 5]]


def test_outlines_of_a_large_smooth_region_are_smooth():
    y, x = np.mgrid[:2500, :2000]
    (line,) = display.outlines((y - 1201) ** 2 + (x - 997) ** 2 < 600**2)
    assert np.abs(np.hypot(line[:, 0] - 997.5, line[:, 1] - 1201.5) - 600).max() < 1.6, "a third of a cell"


def test_outlines_are_drawn_with_smooth_edges_where_they_are():
    image = Image.new("L", (60, 40))
    display.draw_outlines(image, (np.array([[10.0, 5], [50, 5], [50, 30], [10, 30], [10, 5]]),), colour=255, width=2)
    drawn = np.asarray(image)
    assert drawn[15, [9, 10, 49, 50]].min() >= 190
    assert drawn[15, [7, 12, 47, 52]].max() == 0
    tilted = Image.new("L", (60, 40))
    display.draw_outlines(tilted, (np.array([[10.0, 5], [50, 12], [10, 5]]),), colour=255, width=2)
    assert len(np.unique(np.asarray(tilted))) > 5


def test_resize_keeps_the_mean_when_it_shrinks():
    noise = np.random.default_rng(0).random((512, 384), dtype=np.float32)
    small = display.resize(noise, (64, 48))
    assert small.shape == (64, 48)
    assert small.mean() == pytest.approx(noise.mean(), abs=0.005)
    assert small.std() < 0.1, "averaged, not picked"


def test_outline_of_a_rectangle_is_its_border():
    mask = np.zeros((60, 80), bool)
    mask[10:30, 20:60] = True
    (line,) = display.outlines(mask)
    assert (line[0] == line[-1]).all()
    assert line.min(axis=0).tolist() == [20, 10]
    assert line.max(axis=0).tolist() == [60, 30]
    assert display.inside(line, mask.shape)[12:28, 22:58].all()
    assert display.inside(line, mask.shape).sum() == pytest.approx(mask.sum(), rel=0.1)


@pytest.mark.parametrize("shape", [(400, 300), (2500, 2000)])
def test_outline_of_a_disc_encloses_it(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = shape[1] / 4
    mask = (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2 < radius**2
    (line,) = display.outlines(mask)
    distance = np.hypot(line[:, 0] - shape[1] / 2, line[:, 1] - shape[0] / 2)
    assert np.abs(distance - radius).max() < 1.5 * -(-shape[0] // display.MAX_GRID)
    assert len(line) < 300


def test_outlines_come_largest_first_and_specks_are_dropped():
    mask = np.zeros((200, 200), bool)
    mask[10:20, 10:20] = mask[50:150, 50:150] = True
    mask[190, 190] = True
    found = display.outlines(mask)
    assert [line.min(axis=0).tolist() for line in found] == [[50, 50], [10, 10]]
    assert len(display.outlines(mask, most=1)) == 1


def test_holes_are_outlined_only_when_asked_for():
    mask = np.zeros((100, 100), bool)
    mask[10:90, 10:90] = True
    mask[40:60, 40:60] = False
    assert len(display.outlines(mask)) == 1
    outer, hole = display.outlines(mask, holes=True)
    assert outer.min() == 10
    assert (hole.min(), hole.max()) == (40, 60)


@pytest.mark.parametrize("flip", [False, True])
def test_regions_that_touch_at_a_corner_stay_apart(flip):
    mask = np.zeros((100, 100), bool)
    mask[10:40, 10:40] = mask[40:60, 40:60] = True
    found = display.outlines(mask[:, ::-1] if flip else mask)
    assert len(found) == 2
    assert sorted(np.ptp(line, axis=0).max() for line in found) == [20, 30]


def test_outlines_of_nothing_and_of_everything():
    assert display.outlines(np.zeros((50, 50), bool)) == ()
    (line,) = display.outlines(np.ones((2500, 2000), bool))
    assert line.min(axis=0).tolist() == [0, 0]
    assert line.max(axis=0).tolist() == [2000, 2500]


def test_outlines_of_noise_end():
    noise = np.random.default_rng(1).random((250, 250)) > 0.5
    found = display.outlines(noise, holes=True)
    assert len(found) > 50
    assert all((line[0] == line[-1]).all() for line in found)


def test_drawn_outlines_lie_on_the_border():
    mask = np.zeros((100, 100), bool)
    mask[20:80, 30:70] = True
    image = Image.new("L", (100, 100))
    display.draw_outlines(image, display.outlines(mask), colour=255, width=1)
    drawn = np.argwhere(np.asarray(image) > 0)
    assert len(drawn) > 150
    edge = np.zeros((100, 100), bool)
    edge[18:82, 28:72] = True
    edge[22:78, 32:68] = False
    assert edge[tuple(drawn.T)].all()


def test_toy_explainer_finds_the_bright_spot_and_nothing_in_a_smooth_image():
    smooth = np.linspace(0.2, 0.7, 256, dtype=np.float32)[:, np.newaxis].repeat(200, axis=1)
    spot = smooth.copy()
    spot[95:135, 75:115] += 0.3
    empty, found = (
        explained(Radiograph(pixels=image, spacing=None, orientation=None, source_id="x")) for image in (smooth, spot)
    )
    assert empty.attribution.values.max() == 0
    assert not empty.prediction.positive
    assert found.prediction.positive
    row, column = np.unravel_index(found.attribution.values.argmax(), spot.shape)
    assert 95 <= row < 135
    assert 75 <= column < 115
    assert found.decision_changed


def test_fusing_a_few_rows_at_a_time_changes_no_pixel():
    generator = np.random.default_rng(3)
    shape = (2 * display._AT_ONCE + 5, 41)
    luminance = generator.uniform(-0.1, 1.1, shape).astype(np.float32)
    values = generator.uniform(-0.5, 1.5, shape).astype(np.float32)
    values[generator.random(shape) < 0.05] = np.nan
    scale = HeatmapScale(full_scale=1.1, floor=0.2, unit="u")
    share = display.evidence(values, scale)
    colour = display.PALETTE[np.rint(share * 255).astype(np.uint8)]
    alpha = (display.OPACITY * share)[..., np.newaxis]
    grey = (np.clip(luminance, 0, 1) * 255)[..., np.newaxis]
    assert (display.fuse(luminance, values, scale) == np.rint(grey * (1 - alpha) + colour * alpha)).all()


@pytest.mark.parametrize("step", [2, 5, 300])
def test_a_cell_holds_its_share_of_the_mask(step):
    mask = np.random.default_rng(0).random((601, 643)) < 0.95
    rows, columns = (-(-side // step) for side in mask.shape)
    padded = np.zeros((rows * step, columns * step))
    padded[: mask.shape[0], : mask.shape[1]] = mask
    expected = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    assert np.allclose(display._coarse(mask, step), expected, atol=1e-12)
