"""Shapes that drawn images are made of, on a grid of positions as fractions of the image's side."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]


def grid(size: int) -> tuple[Field, Field]:
    """Positions x and y of the middles of the pixels, 0 to 1, shape (size, size) each."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return np.broadcast_to(axis[None], (size, size)), np.broadcast_to(axis[:, None], (size, size))


def step(distance: Field, edge: float) -> Field:
    """1 where `distance` < 0, 0 beyond `edge`, smooth between."""
    t = np.clip(0.5 - distance / np.float32(edge), 0, 1)
    smooth: Field = t * t * (3 - 2 * t)
    return smooth


def ellipse(x: Field, y: Field, centre: tuple[float, float], radii: tuple[float, float], power: float = 2.0) -> Field:
    """Signed distance of sorts to a superellipse: below 0 inside, in fractions of the image side."""
    level = np.abs((x - centre[0]) / radii[0]) ** power + np.abs((y - centre[1]) / radii[1]) ** power
    signed: Field = ((level ** (1 / power) - 1) * min(radii)).astype(np.float32)
    return signed


def texture(size: int, scale: float, generator: np.random.Generator) -> Field:
    """Smooth noise of unit variance with a grain of `scale` image sides."""
    noise = ndimage.gaussian_filter(generator.normal(size=(size, size)).astype(np.float32), max(scale * size, 0.5))
    textured: Field = noise / max(float(noise.std()), 1e-6)
    return textured


def corner(size: int) -> NDArray[np.bool_]:
    """Where a corner tag lies: a square of an eighth of the side, near the upper left corner; shape (size, size)."""
    mask = np.zeros((size, size), np.bool_)
    edge, side = max(1, size // 32), size // 8
    mask[edge : edge + side, edge : edge + side] = True
    return mask
