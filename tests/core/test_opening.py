"""Opening: narrow things go, the others stay where and as high as they are."""

import numpy as np
import pytest
import torch

from explain_core.opening import opened


def plane(*squares, size=24):
    maps = torch.zeros(1, 1, size, size)
    for row, column, side, value in squares:
        maps[0, 0, row : row + side, column : column + side] = value
    return maps


def test_a_square_of_the_width_stays_where_it_is_and_a_narrower_one_goes():
    kept, lost = (10, 3, 5, 0.7), (2, 14, 4, 0.9)
    assert torch.equal(opened(plane(kept, lost), 5), plane(kept))


@pytest.mark.parametrize("corner", [(0, 0), (0, 19), (19, 0), (19, 19)])
def test_a_square_in_a_corner_stays(corner):
    maps = plane((*corner, 5, 0.4))
    assert torch.equal(opened(maps, 5), maps)


def test_nothing_is_added_and_twice_is_once():
    maps = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    once = opened(maps, 3)
    assert (once <= maps).all()
    assert torch.equal(opened(once, 3), once)
    assert not torch.equal(once, maps)


def test_it_is_the_highest_level_of_a_whole_square():
    maps = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    values = maps[0, 0].numpy()
    squares = [(row, column) for row in range(4, 7) for column in range(4, 7)]
    levels = [values[row - 2 : row + 1, column - 2 : column + 1].min() for row, column in squares]
    centre = opened(maps, 3)[0, 0, 4, 4].item()
    assert centre == np.float32(max(levels))


def test_width_one_changes_nothing():
    maps = torch.rand(1, 1, 8, 8)
    assert torch.equal(opened(maps, 1), maps)
