"""Whether a map shows what the classifier uses: its probability while pixels are removed or returned, best first.

Every figure is per image, and the figure of one image does not depend on the batch it came in.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.blur import gaussian_blur
from explain_core.classifier import Classifier, DecisionRule
from explain_core.engine import at_once
from explain_core.quality.localisation import ranking

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blurred:
    """Replaces pixels by the image under a Gaussian.

    Attributes:
        width: of the Gaussian, as a share of the image's side.
    """

    width: float = 0.05

    def __call__(self, images: Tensor) -> Tensor:
        """What takes the place of each pixel, shape (N, 1, S, S)."""
        return gaussian_blur(images, self.width * images.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRemoval:
    """Settings of deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421, section 3.3).

    Attributes:
        steps: in how many equal parts the pixels are removed.
        replacement: what removed pixels show.
        rule: how logits become the probability that is followed.
    """

    steps: int = 50
    replacement: Callable[[Tensor], Tensor] = field(default_factory=Blurred)
    rule: DecisionRule = field(default_factory=DecisionRule)


def deletion_insertion(
    classifier: Classifier, images: Tensor, classes: Tensor, maps: Tensor, settings: PixelRemoval | None = None
) -> dict[str, Floats]:
    """Mean probability while pixels go (deletion) or come back (insertion), most salient first, per image, shape (N,).

    Args:
        classifier: in eval mode.
        images: in [0, 1], shape (N, 1, S, S).
        classes: the output that the maps explain, shape (N,).
        maps: of the images' shape.
        settings: defaults of `PixelRemoval`.

    Returns:
        deletion (lower is better), insertion (higher is better): areas under the probability of the class over the
        share of pixels removed or returned, in [0, 1]. What a map must beat are those of `random_maps`.

    Raises:
        ValueError: maps that are not finite or of another shape; the message names the image.
    """
    deletion, insertion = removal_curves(classifier, images, classes, maps, settings)
    return {"deletion": area(deletion), "insertion": area(insertion)}


def random_maps(images: Tensor, seed: int = 0) -> Tensor:
    """The control for every ranking: one uniform random map, the same for every image, of the images' shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(images.shape[-2:], generator=generator).to(images.device).expand(images.shape)


@torch.no_grad()
def removal_curves(
    classifier: Classifier, images: Tensor, classes: Tensor, maps: Tensor, settings: PixelRemoval | None = None
) -> tuple[Floats, Floats]:
    """Probability of the class after k of `steps` parts are removed, and after k are returned, k = 0..steps.

    Args and errors as for `deletion_insertion`.

    Returns:
        The deletion and the insertion curve of each image, shape (N, steps + 1) each.
    """
    how = settings or PixelRemoval()
    places = torch.from_numpy(rank_places(images, maps)).to(images.device)
    pixels = places[0].numel()
    counts = torch.from_numpy(np.rint(np.arange(how.steps + 1) * pixels / how.steps).astype(np.int64)).to(images.device)
    removed_by = counts[:, None, None, None]
    replaced = how.replacement(images)
    curves = []
    for image, other, place, wanted in zip(images, replaced, places, classes, strict=True):
        first = place < removed_by
        changed = torch.cat([torch.where(first, other, image), torch.where(first, image, other)])
        logits = torch.cat([classifier(part) for part in changed.split(at_once(changed))])
        curves.append(how.rule.probabilities(logits)[:, int(wanted)].double().cpu().numpy())
    both = np.stack(curves).reshape(len(images), 2, -1)
    return both[:, 0], both[:, 1]


@torch.no_grad()
def deletion(probability: Callable[[Tensor], Tensor], image: Tensor, heatmap: Tensor, *, steps: int) -> float:
    """Deletion of one image alone: the cheap part of `deletion_insertion`, in one batch of `steps` + 1 images.

    Args:
        probability: images, shape (N, 1, S, S) -> probability of the decision that the map explains, shape (N,).
        image: in [0, 1], shape (1, 1, S, S).
        heatmap: of the image's shape.
        steps: in how many equal parts the pixels are replaced by the blurred image.

    Returns:
        The area under the probability over the share of pixels removed, in [0, 1]; lower is better.

    Raises:
        ValueError: a map that is not finite or of another shape.
    """
    place = torch.from_numpy(rank_places(image, heatmap)).to(image.device)
    removed_by = torch.from_numpy(np.rint(np.arange(steps + 1) * place.numel() / steps)).to(image.device)
    changed = torch.where(place < removed_by[:, None, None, None], Blurred()(image), image)
    return float(area(probability(changed).double().cpu().numpy()[np.newaxis])[0])


def rank_places(images: Tensor, maps: Tensor) -> NDArray[np.int64]:
    """Place of each pixel in its map's ranking, 0 for the highest, ties as in `localisation`; of the images' shape.

    Raises:
        ValueError: maps that are not finite or of another shape; the message names the image.
    """
    if maps.shape != images.shape:
        raise ValueError(f"maps of shape {tuple(maps.shape)} for images of shape {tuple(images.shape)}")
    places = np.empty((len(maps), maps[0].numel()), np.int64)
    need_finite(maps)
    for index, heatmap in enumerate(maps.detach().cpu().numpy()):
        places[index, ranking(heatmap)] = np.arange(heatmap.size)
    return places.reshape(tuple(maps.shape))


def need_finite(maps: Tensor) -> None:
    """Refuse maps that are not finite.

    Raises:
        ValueError: naming the first image whose map has NaN or infinity.
    """
    finite = torch.isfinite(maps).flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"image {int(finite.int().argmin())}: NaN or infinity in the map")


def area(curves: Floats) -> Floats:
    """Area under curves at equal steps over [0, 1], shape (N,)."""
    return np.asarray((curves[:, :-1] + curves[:, 1:]).mean(axis=1) / 2)
