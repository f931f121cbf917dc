"""How unlike a model's training images an image is: one distance in the input space, for any classifier.

The image is shrunk to a small grid. Its coordinates on the leading principal components of the training images, the
logarithm of what the components leave over, the logarithm of the contrast on the small grid and the logarithm of what
the shrinking takes away are each standardised on the training images; the score is the length of that vector. The
contrast is there for what averages out to grey when shrunk, such as noise of a film's size. The score is the
Mahalanobis distance of Lee et al. 2018 (arXiv:1807.03888) with one class, on principal components of the input
(Tipping and Bishop 1999, doi:10.1111/1467-9868.00196) in place of a network's features.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from explain_core.explanation import OutOfDistribution

Image = NDArray[np.float32]
Floats = NDArray[np.float64]

REFERENCE = "Mahalanobis distance after arXiv:1807.03888, on principal components of the input"
_LEAST = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierModel:
    """What the training images look like, as principal components.

    Attributes:
        mean: float32, shape (side * side,): the mean image on the small grid.
        components: float32, shape (k, side * side), orthonormal rows.
        centre: float32, shape (k + 3,): mean over the training images of each feature: k coordinates, what they leave
            over, contrast, detail.
        spread: float32, shape (k + 3,): its standard deviation, > 0.
    """

    mean: Image
    components: Image
    centre: Image
    spread: Image

    def __post_init__(self) -> None:
        count, pixels = self.components.shape
        side = round(pixels**0.5)
        if self.mean.shape != (pixels,) or side * side != pixels:
            raise ValueError(f"components of {pixels} pixels do not fit a mean of shape {self.mean.shape}")
        if not self.centre.shape == self.spread.shape == (count + 3,):
            raise ValueError(f"{count} components need {count + 3} centres and spreads")
        if not (self.spread > 0).all():
            raise ValueError("a spread is not above 0")

    @classmethod
    def fit(cls, copies: Iterable[Image], originals: Iterable[Image], *, side: int, components: int) -> "OutlierModel":
        """Learn what the training images look like.

        Args:
            copies: training images and randomly transformed copies of them, as the model meets them in training;
                float32, luminance 0 to 1, shapes (rows, columns).
            originals: the images without transformed copies, which are smoother than images are.
            side: rows and columns of the small grid.
            components: how many principal components are kept; fewer than there are copies and grid pixels.
        """
        shrunk = np.stack([_shrink(image, side).ravel() for image in copies]).astype(np.float64)
        mean = shrunk.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov(shrunk.T))
        leading = np.ascontiguousarray(axes.T[::-1][:components])
        features = _project(shrunk, mean, leading)
        details = np.array([_detail(image, side) for image in originals])
        return cls(
            mean=mean.astype(np.float32),
            components=leading.astype(np.float32),
            centre=np.append(features.mean(axis=0), details.mean()).astype(np.float32),
            spread=np.maximum(np.append(features.std(axis=0), details.std()), _LEAST).astype(np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> "OutlierModel":
        """Read what `save` wrote.

        Raises:
            KeyError, ValueError: the file holds something else.
        """
        arrays = load_file(path)
        return cls(**{name: arrays[name] for name in ("mean", "components", "centre", "spread")})

    def save(self, path: Path) -> None:
        """Write the arrays to a safetensors file."""
        save_file({name: getattr(self, name) for name in ("mean", "components", "centre", "spread")}, path)

    def score(self, image: Image) -> float:
        """Distance of an image from the training images; higher is farther.

        Args:
            image: float32, luminance 0 to 1, shape (rows, columns), without padding.
        """
        side = round(self.mean.size**0.5)
        shrunk = _shrink(image, side).ravel()[np.newaxis].astype(np.float64)
        features = np.append(_project(shrunk, self.mean, self.components), _detail(image, side))
        return float(np.linalg.norm((features - self.centre) / self.spread))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierTest:
    """An outlier model with the limit beyond which its score calls an image far from the training data.

    Attributes:
        model: what the training images look like.
        limit: of the score.
        measure: one short ASCII sentence for a legend.
    """

    model: OutlierModel
    limit: float
    measure: str

    def __call__(self, image: Image) -> OutOfDistribution:
        """Judge one image, as for `OutlierModel.score`; the score is rounded to 3 decimals."""
        score = round(self.model.score(image), 3)
        return OutOfDistribution(score=score, limit=self.limit, measure=self.measure, reference=REFERENCE)


def _project(shrunk: Floats, mean: NDArray[np.floating], components: NDArray[np.floating]) -> Floats:
    """Coordinates on the components, logarithms of what they leave over and of the contrast, shape (N, k + 2)."""
    rest = shrunk - mean
    coordinates = rest @ components.T
    left = np.square(rest).sum(axis=1) - np.square(coordinates).sum(axis=1)
    contrast = shrunk.std(axis=1)
    return np.column_stack([coordinates, np.log(np.maximum(left, 0) + _LEAST), np.log(contrast + _LEAST)])


def _shrink(image: Image, side: int) -> Image:
    return _resized(image, (side, side)).numpy()


def _detail(image: Image, side: int) -> float:
    """Logarithm of the root mean square of what is lost when an image is shrunk: high for noise."""
    back = functional.interpolate(_resized(image, (side, side))[None, None], image.shape, mode="bilinear")
    lost = np.asarray(image, np.float64) - back[0, 0].numpy()
    return float(np.log(np.sqrt(np.square(lost).mean()) + _LEAST))


def _resized(image: Image, shape: tuple[int, int]) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(image, np.float32, order="C"))[None, None]
    return functional.interpolate(tensor, shape, mode="bilinear", antialias=True)[0, 0]
