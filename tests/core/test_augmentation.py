import numpy as np
import torch

from explain_core import engine
from explain_core.augmentation import registered_average
from explain_core.geometry import AffineRange, draw_opposites


def naive_average(explain, image, ranges, count, seed):
    """Equation (11) pixel by pixel: every copy sampled and returned by hand, one at a time."""
    size = image.shape[-1]
    matrices = draw_opposites(ranges, count, torch.Generator().manual_seed(seed)).numpy().astype(np.float64)
    total, seen = np.zeros((size, size)), np.zeros((size, size))
    for matrix in matrices:
        copy = sample(image[0].numpy().astype(np.float64), np.linalg.inv(matrix), border=True)
        values = explain(torch.from_numpy(copy)[None, None].float())[0, 0].numpy().astype(np.float64)
        total += sample(values, matrix, border=False)
        seen += sample(np.ones_like(values), matrix, border=False)
    return np.divide(total, seen, out=np.zeros_like(total), where=seen > 1e-6), seen / count


def sample(image, matrix, *, border):
    """Bilinear sampling of `image` at matrix @ (x, y, 1) in normalised coordinates, pixel centres."""
    size = image.shape[0]
    out = np.zeros_like(image)
    for i in range(size):
        for j in range(size):
            x, y, _ = matrix @ np.array([(2 * j + 1) / size - 1, (2 * i + 1) / size - 1, 1])
            column, row = ((x + 1) * size - 1) / 2, ((y + 1) * size - 1) / 2
            if border:
                column, row = np.clip(column, 0, size - 1), np.clip(row, 0, size - 1)
            r, c = int(np.floor(row)), int(np.floor(column))
            for rr, cc in ((r, c), (r, c + 1), (r + 1, c), (r + 1, c + 1)):
                weight = (1 - abs(row - rr)) * (1 - abs(column - cc))
                if 0 <= rr < size and 0 <= cc < size and weight > 0:
                    out[i, j] += weight * image[rr, cc]
    return out


def test_the_batched_average_equals_the_slow_one():
    image = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(3))
    ranges = AffineRange(degrees=15, height_shift=0.1, width_shift=0.05, zoom=0.1, vertical_flip=0.5)

    def explain(batch):
        return (batch - 0.3).abs()

    other = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(4))
    fast, coverage = registered_average(
        lambda copies, _: explain(copies), torch.stack([image, other]), ranges, 4, seed=5
    )
    for single, result in zip((image, other), fast, strict=True):
        slow, slow_coverage = naive_average(explain, single, ranges, 4, seed=5)
        np.testing.assert_allclose(coverage[0, 0].numpy(), slow_coverage, atol=1e-4)
        inside = slow_coverage > 0.05
        np.testing.assert_allclose(result[0].numpy()[inside], slow[inside], atol=1e-3)


def test_coverage_keeps_borders_from_darkening():
    ranges = AffineRange(height_shift=0.2, width_shift=0.2)
    flat, coverage = registered_average(
        lambda copies, _: torch.ones_like(copies), torch.rand(1, 1, 32, 32), ranges, 10, seed=0
    )
    assert float(coverage.min()) < 0.9
    seen = coverage > 0
    assert torch.allclose(flat[seen], torch.ones_like(flat[seen]), atol=1e-5)


def test_copies_run_in_batches_as_large_as_the_device_likes(monkeypatch):
    seen, images = [], torch.rand(3, 1, 16, 16)

    def explain(batch, of):
        seen.append((len(batch), of.tolist()))
        return batch * (1 + of[:, None, None, None])

    whole, _ = registered_average(explain, images, AffineRange(degrees=9), 10, seed=0)
    assert seen == [(30, [0] * 10 + [1] * 10 + [2] * 10)]
    monkeypatch.setattr(engine, "PIXELS_CPU", 4 * 256 + 255)
    parts, _ = registered_average(explain, images, AffineRange(degrees=9), 10, seed=0)
    assert [count for count, _ in seen[1:]] == [4] * 7 + [2]
    assert torch.equal(parts, whole)
