"""Opening of a map: what is left when everything narrower than a square is taken away."""

from torch import Tensor
from torch.nn import functional


def opened(maps: Tensor, width: int) -> Tensor:
    """The highest level that a whole square around each pixel reaches (grey opening, Serra 1982).

    It adds nothing and moves nothing: values only fall, and where a map is at a level over a whole square they stay.

    Args:
        maps: float, shape (N, 1, S, S).
        width: side of the square in pixels, odd; 1 returns the maps as they are.

    Returns:
        Maps of the same shape.
    """
    eroded = -functional.max_pool2d(-maps, width, stride=1, padding=width // 2)
    return functional.max_pool2d(eroded, width, stride=1, padding=width // 2)
