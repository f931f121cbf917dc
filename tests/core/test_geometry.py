import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explain_core.errors import GeometryError
from explain_core.geometry import AffineRange, InputSpec, Preprocessing, draw_affine, draw_opposites, warp


def blob(rows, columns, row, column, sigma):
    y, x = np.mgrid[:rows, :columns]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)).astype(np.float32)


@given(
    rows=st.integers(64, 400),
    columns=st.integers(64, 400),
    where=st.tuples(st.floats(0.25, 0.75), st.floats(0.25, 0.75)),
)
@settings(max_examples=40, deadline=None)
def test_a_point_returns_to_where_it_came_from(rows, columns, where):
    row, column = where[0] * rows, where[1] * columns
    pixels = blob(rows, columns, row, column, max(rows, columns) / 20)
    preprocessing = Preprocessing.of(pixels, InputSpec(size=96, percentiles=(0, 100)))
    restored = preprocessing.restore(preprocessing.apply(pixels))
    assert restored.shape == pixels.shape
    found = np.unravel_index(np.argmax(restored), restored.shape)
    assert np.hypot(found[0] - row, found[1] - column) <= 1.5 * max(1.0, max(rows, columns) / 96)


def test_aspect_ratio_is_kept_and_padding_is_black():
    pixels = np.ones((100, 50), np.float32)
    pixels[0, 0] = 0
    prepared = Preprocessing.of(pixels, InputSpec(size=64, percentiles=(0, 100))).apply(pixels)
    assert prepared[:, :14].max() == 0
    assert prepared[:, 50:].max() == 0
    assert prepared[32, 32] == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.zeros((8, 8)), np.full((8, 8), np.nan)])
def test_an_image_without_content_is_refused(bad):
    with pytest.raises(GeometryError):
        Preprocessing.of(bad.astype(np.float32), InputSpec())


def test_the_inverse_of_a_random_affine_is_true():
    matrices = draw_affine(
        AffineRange(degrees=20, height_shift=0.1, width_shift=0.1, zoom=0.2, vertical_flip=0.5),
        8,
        torch.Generator().manual_seed(1),
    )
    image = torch.from_numpy(blob(96, 96, 40, 55, 6))[None, None].expand(8, -1, -1, -1)
    back = warp(warp(image, matrices), torch.linalg.inv(matrices))
    for restored in back:
        found = np.unravel_index(int(restored[0].argmax()), (96, 96))
        assert np.hypot(found[0] - 40, found[1] - 55) <= 1
    # negated parameters are not the inverse: the author's published shortcut leaves pixels of error
    wrong = warp(warp(image, matrices), matrices)
    worst = max(np.hypot(*(np.array(np.unravel_index(int(w[0].argmax()), (96, 96))) - (40, 55))) for w in wrong)
    assert worst > 4


def test_the_same_seed_draws_the_same_transforms():
    one, two = (draw_affine(AffineRange(), 5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, draw_affine(AffineRange(), 5, torch.Generator().manual_seed(8)))


@given(count=st.integers(1, 9), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_what_is_seen_moves_the_other_way_in_an_opposite_and_is_mirrored_where_it_is_not_in_the_first(count, seed):
    drawn = draw_opposites(AffineRange(), count, torch.Generator().manual_seed(seed))
    assert len(drawn) == count
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirrored = torch.linalg.det(drawn) < 0
    seen = torch.where(mirrored[:, None, None], mirror @ drawn, drawn)
    ones, others = seen[0 : count - count % 2 : 2], seen[1::2]
    assert torch.equal(mirrored[0 : count - count % 2 : 2], ~mirrored[1::2])
    assert torch.allclose(ones[:, :2, 2], -others[:, :2, 2], atol=1e-6)
    turned = [torch.atan2(moves[:, 1, 0], moves[:, 0, 0]) for moves in (ones, others)]
    assert torch.allclose(turned[0], -turned[1], atol=1e-6)
    zoomed = [moves[:, :2, 0].norm(dim=1) for moves in (ones, others)]
    assert torch.allclose(zoomed[0] + zoomed[1], torch.full((len(ones),), 2.0), atol=1e-5)


def test_an_opposite_is_drawn_as_the_first_is():
    drawn = draw_opposites(AffineRange(vertical_flip=0.2), 40_000, torch.Generator().manual_seed(5))
    for half in (drawn[::2], drawn[1::2]):
        assert (torch.linalg.det(half) < 0).float().mean().item() == pytest.approx(0.5 * 0.8 + 0.5 * 0.2, abs=0.02)
        assert (half[:, 1, 1] < 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
        assert half[:, 0, 2].std().item() == pytest.approx(2 * 10 / 224 / 3**0.5, rel=0.03)


@given(rows=st.integers(1, 700), columns=st.integers(1, 700), size=st.sampled_from([32, 96, 224]))
@settings(max_examples=60, deadline=None)
def test_unpadding_leaves_the_sources_aspect_ratio_and_no_padding(rows, columns, size):
    whole = Preprocessing(source_shape=(rows, columns), size=size, low=0.0, high=1.0)
    cut = whole.unpad(whole.apply(np.ones((rows, columns), np.float32)))
    assert max(cut.shape) == size
    assert abs(cut.shape[0] - max(1, rows * size / whole.side)) <= 0.5
    assert abs(cut.shape[1] - max(1, columns * size / whole.side)) <= 0.5
    inner = cut[1:-1] if rows < columns else cut[:, 1:-1]
    assert inner.size == 0 or inner.min() > 0.5


def test_unpadding_a_portrait_film():
    whole = Preprocessing(source_shape=(2000, 1600), size=224, low=0.0, high=1.0)
    assert whole.unpad(np.zeros((224, 224), np.float32)).shape == (224, 179)
    with pytest.raises(GeometryError, match=r"expected a map of shape \(224, 224\)"):
        whole.unpad(np.zeros((224, 179), np.float32))


def test_unpadding_keeps_a_point_in_its_place():
    pixels = blob(300, 180, 90, 150, 8)
    whole = Preprocessing.of(pixels, InputSpec(size=96, percentiles=(0, 100)))
    cut = whole.unpad(whole.apply(pixels))
    row, column = np.unravel_index(int(cut.argmax()), cut.shape)
    assert (row + 0.5) / cut.shape[0] == pytest.approx(90 / 300, abs=1 / 96)
    assert (column + 0.5) / cut.shape[1] == pytest.approx(150 / 180, abs=1 / 57)
