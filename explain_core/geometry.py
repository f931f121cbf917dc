"""Preprocessing as recorded, invertible steps, and random affine transforms with their true inverses.

A model sees a square grid. `Preprocessing` records how a radiograph came to that grid (normalise, pad to a
square, resize) and takes a map on it back to the source's pixel grid. One sampling convention holds everywhere:
pixel centres, half a pixel from the border (PyTorch's align_corners=False).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from explain_core.errors import GeometryError


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a model expects of its input.

    Attributes:
        size: rows and columns of the square input grid in pixels.
        percentiles: luminance percentiles of the source mapped to 0 and 1; values outside are clipped.

    Raises:
        ValueError: a size that is no whole number above 0, or percentiles that do not rise within 0 to 100.
    """

    size: int = 224
    percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"the size of the input is a whole number of pixels above 0, got {self.size!r}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:  # noqa: PLR2004
            raise ValueError(f"the percentiles of the input rise within 0 to 100, got {low} and {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The recorded steps from one source image to the model's input grid.

    Attributes:
        source_shape: rows and columns of the source in pixels.
        size: rows and columns of the model's input grid.
        low, high: source luminances mapped to 0 and 1.
    """

    source_shape: tuple[int, int]
    size: int
    low: float
    high: float

    @classmethod
    def of(cls, pixels: NDArray[np.float32], spec: InputSpec) -> "Preprocessing":
        """Choose the parameters for `pixels` (float32, shape (rows, columns)).

        Raises:
            GeometryError: the image is constant or not finite, so there is nothing to normalise.
        """
        if not np.isfinite(pixels).all():
            raise GeometryError("the image has values that are not finite")
        low, high = (float(value) for value in np.percentile(pixels, spec.percentiles))
        if high <= low:
            low, high = float(pixels.min()), float(pixels.max())
        if high <= low:
            raise GeometryError("the image is constant: there is nothing to explain")
        rows, columns = pixels.shape
        return cls(source_shape=(rows, columns), size=spec.size, low=low, high=high)

    @property
    def side(self) -> int:
        """Side of the padded square in source pixels."""
        return max(self.source_shape)

    @property
    def offset(self) -> tuple[int, int]:
        """Row and column of the source's first pixel in the padded square."""
        rows, columns = self.source_shape
        return (self.side - rows) // 2, (self.side - columns) // 2

    def apply(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Source pixels, shape `source_shape` -> model input, float32 in [0, 1], shape (size, size)."""
        normalised = np.clip((pixels - self.low) / (self.high - self.low), 0.0, 1.0)
        square = np.zeros((self.side, self.side), np.float32)
        top, left = self.offset
        square[top : top + self.source_shape[0], left : left + self.source_shape[1]] = normalised
        resized = _resize(torch.from_numpy(square), self.size, antialias=True)
        return resized.clamp_(0, 1).numpy()

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map on the model grid, shape (size, size) -> the same map on the source's pixel grid."""
        if values.shape != (self.size, self.size):
            raise GeometryError(f"expected a map of shape {(self.size, self.size)}, got {values.shape}")
        square = _resize(torch.from_numpy(np.ascontiguousarray(values)), self.side, antialias=False).numpy()
        top, left = self.offset
        return np.ascontiguousarray(square[top : top + self.source_shape[0], left : left + self.source_shape[1]])

    def unpad(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The part of the model grid that shows the source, in its aspect ratio to the nearest grid pixel.

        Args:
            values: on the model grid, shape (size, size).

        Returns:
            What is left when the padding is cut away; its longer side is `size`, its shorter at least 1.
        """
        if values.shape != (self.size, self.size):
            raise GeometryError(f"expected a map of shape {(self.size, self.size)}, got {values.shape}")
        rows, columns = (max(1, round(length * self.size / self.side)) for length in self.source_shape)
        top, left = (min(round(start * self.size / self.side), self.size - 1) for start in self.offset)
        return np.ascontiguousarray(values[top : top + rows, left : left + columns])


def resized(images: Tensor, side: int) -> Tensor:
    """Square images, shape (N, C, S, S), with `side` rows and columns: bilinear, without aliases; float32."""
    if images.shape[-1] == side:
        return images
    return functional.interpolate(images.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)


def _resize(image: Tensor, side: int, *, antialias: bool) -> Tensor:
    return functional.interpolate(
        image[None, None].float(), (side, side), mode="bilinear", align_corners=False, antialias=antialias
    )[0, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineRange:
    """Ranges from which random affine transforms are drawn (method of arXiv:2012.07332, Table II).

    Attributes:
        degrees: rotation is uniform in [-degrees, degrees].
        height_shift: vertical shifts are uniform in [-height_shift, height_shift], a fraction of the image side.
        width_shift: the same of horizontal shifts.
        zoom: isotropic zoom is uniform in [1 - zoom, 1 + zoom].
        horizontal_flip: probability of mirroring left and right.
        vertical_flip: probability of turning upside down.
    """

    degrees: float = 10.0
    height_shift: float = 10 / 224
    width_shift: float = 10 / 224
    zoom: float = 0.1
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0


def draw_affine(ranges: AffineRange, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` transforms: float32 matrices, shape (count, 3, 3), in normalised coordinates [-1, 1].

    A matrix composes flips, zoom, rotation and shift, in this order, and maps source coordinates to transformed
    ones; its inverse undoes them in the reverse order.
    """
    drawn = _uniform(count, generator)
    return _moves(ranges, drawn) @ _flips(ranges, drawn)


def draw_opposites(ranges: AffineRange, count: int, generator: torch.Generator) -> Tensor:
    """As `draw_affine`, in pairs: each transform is followed by its opposite (antithetic variates).

    What is seen turns, zooms and shifts the other way in the opposite, and is mirrored where it is not in the first
    (for a probability of one half). One transform has the distribution that it has without pairs; a mean over them
    varies less, since what is odd in the movement cancels out. Flips come last here: where they come first, a mirrored
    image turns the same way as one that is not, by the opposite angle. The last of an odd number stands alone.
    """
    drawn = _uniform((count + 1) // 2, generator)
    drawn = torch.stack([drawn, 1 - drawn], dim=-1).flatten(1)[:, :count]
    return _flips(ranges, drawn) @ _moves(ranges, drawn)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    """In [0, 1), shape (6, count): the places of angle, zoom, two flips and two shifts in their ranges."""
    return torch.stack([torch.rand(count, generator=generator) for _ in range(6)])


def _moves(ranges: AffineRange, drawn: Tensor) -> Tensor:
    angle, zoom, _, _, width, height = 2 * drawn - 1
    angle, zoom = torch.deg2rad(angle * ranges.degrees), 1 + zoom * ranges.zoom
    matrices = torch.eye(3).repeat(len(angle), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = zoom * torch.cos(angle)
    matrices[:, 1, 0] = zoom * torch.sin(angle)
    matrices[:, 0, 1] = -matrices[:, 1, 0]
    matrices[:, 0, 2] = width * 2 * ranges.width_shift
    matrices[:, 1, 2] = height * 2 * ranges.height_shift
    return matrices


def _flips(ranges: AffineRange, drawn: Tensor) -> Tensor:
    matrices = torch.eye(3).repeat(drawn.shape[1], 1, 1)
    matrices[:, 0, 0] -= 2.0 * (drawn[2] < ranges.horizontal_flip)
    matrices[:, 1, 1] -= 2.0 * (drawn[3] < ranges.vertical_flip)
    return matrices


def warp(images: Tensor, matrices: Tensor, *, padding: str = "zeros") -> Tensor:
    """Move `images` by `matrices` (source -> transformed), bilinear.

    Args:
        images: shape (N, C, S, S).
        matrices: shape (N, 3, 3), invertible; see `draw_affine`.
        padding: what lies outside the image: "zeros" or "border".

    Returns:
        The transformed images, same shape. `warp(y, torch.linalg.inv(matrices))` is the true inverse.
    """
    exact = torch.promote_types(images.dtype, torch.float32)  # no place of a pixel fits in 16 bits
    sampling = torch.linalg.inv(matrices)[:, :2].to(images.device, exact)
    grid = functional.affine_grid(sampling, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode=padding, align_corners=False
    )
