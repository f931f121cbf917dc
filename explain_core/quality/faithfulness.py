"""Whether a map shows what the classifier uses: removal of pixels, stability, and a randomised classifier.

Every figure is per image, and the figure of one image does not depend on the batch it came in.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from explain_core.blur import gaussian_blur
from explain_core.classifier import Classifier, DecisionRule
from explain_core.errors import GradientsNeeded
from explain_core.method import Method
from explain_core.quality.imputation import impute
from explain_core.quality.localisation import ranking
from explain_core.quality.similarity import ssim

Floats = NDArray[np.float64]
ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROAD_NOISE = 0.01


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
class Constant:
    """Replaces pixels by one grey value.

    Attributes:
        value: in [0, 1].
    """

    value: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """What takes the place of each pixel, shape (N, 1, S, S)."""
        return torch.full_like(images, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRemoval:
    """Settings of deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421, section 3.3).

    Attributes:
        steps: in how many equal parts the pixels are removed.
        replacement: what removed pixels show.
        batch: images per call of the classifier.
        control: whether a random ranking is followed beside the maps; it is the same for all methods on one image, so
            that one of them is enough to ask for it.
        seed: of the random ranking.
        rule: how logits become the probability that is followed.
    """

    steps: int = 50
    replacement: Callable[[Tensor], Tensor] = field(default_factory=Blurred)
    batch: int = 64
    control: bool = True
    seed: int = 0
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
        share of pixels removed or returned, in [0, 1]. deletion_random, insertion_random: the same for a random
        ranking, the same for every image, which a map must beat.

    Raises:
        ValueError: maps that are not finite or of another shape; the message names the image.
    """
    how = settings or PixelRemoval()
    rows = {"": maps} | ({"_random": random_maps(images, how.seed)} if how.control else {})
    figures: dict[str, Floats] = {}
    for suffix, ranked in rows.items():
        deletion, insertion = removal_curves(classifier, images, classes, ranked, how)
        figures[f"deletion{suffix}"] = _area(deletion)
        figures[f"insertion{suffix}"] = _area(insertion)
    return figures


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
        logits = torch.cat([classifier(part) for part in changed.split(how.batch)])
        curves.append(how.rule.probabilities(logits)[:, int(wanted)].double().cpu().numpy())
    both = np.stack(curves).reshape(len(images), 2, -1)
    return both[:, 0], both[:, 1]


def rank_places(images: Tensor, maps: Tensor) -> NDArray[np.int64]:
    """Place of each pixel in its map's ranking, 0 for the highest, ties as in `localisation`; of the images' shape.

    Raises:
        ValueError: maps that are not finite or of another shape; the message names the image.
    """
    if maps.shape != images.shape:
        raise ValueError(f"maps of shape {tuple(maps.shape)} for images of shape {tuple(images.shape)}")
    places = np.empty((len(maps), maps[0].numel()), np.int64)
    _need_finite(maps)
    for index, heatmap in enumerate(maps.detach().cpu().numpy()):
        places[index, ranking(heatmap)] = np.arange(heatmap.size)
    return places.reshape(tuple(maps.shape))


@torch.no_grad()
def road(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor,
    maps: Tensor,
    *,
    rule: DecisionRule | None = None,
    shares: Sequence[float] = ROAD_SHARES,
    seed: int = 0,
) -> Floats:
    """ROAD (Rong et al. 2022, arXiv:2202.00449), combined, per image, shape (N,); higher is better, chance is 0.

    Half of what the probability of the class loses more when the most salient pixels go than when the least salient
    go, averaged over `shares` of the pixels. Pixels go by noisy linear imputation, so that no edge of a patch and no
    constant grey tells where they were. Errors as for `deletion_insertion`.

    Args:
        classifier: in eval mode.
        images: in [0, 1], shape (N, 1, S, S).
        classes: the output that the maps explain, shape (N,).
        maps: of the images' shape.
        rule: how logits become probabilities.
        shares: of the pixels that go, in (0, 1).
        seed: of the noise, the same for every image, of standard deviation 0.01.
    """
    probabilities = (rule or DecisionRule()).probabilities
    noise = ROAD_NOISE * np.random.default_rng(seed).standard_normal(tuple(images.shape[-2:]))
    places = rank_places(images, maps)[:, 0]
    pixels = places[0].size
    scores = np.zeros(len(images))
    for index, (image, place) in enumerate(zip(images.cpu().numpy()[:, 0], places, strict=True)):
        counts = [round(share * pixels) for share in shares]
        missing = [place >= pixels - count for count in counts] + [place < count for count in counts]
        changed = np.stack([impute(image, gone) + noise * gone for gone in missing]).astype(np.float32)
        logits = classifier(torch.from_numpy(changed)[:, None].to(images.device))
        least, most = probabilities(logits)[:, int(classes[index])].double().cpu().numpy().reshape(2, -1)
        scores[index] = (least - most).mean() / 2
    return scores


def max_sensitivity(
    method: Method,
    classifier: Classifier,
    images: Tensor,
    classes: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Floats:
    """Largest relative change of a map under small noise (Yeh et al. 2019, arXiv:1901.09392) of captum, shape (N,).

    Args:
        method: what makes the maps.
        classifier: in eval mode.
        images: in [0, 1], shape (N, 1, S, S).
        classes: the output to explain for each image, shape (N,).
        radius: the noise is uniform in [-radius, radius]; noisy images are clipped to [0, 1].
        samples: noisy images per image; the same noise for every image.
        seed: of the noise.
    """
    from captum.metrics import (  # noqa: PLC0415 - extra "benchmark"
        sensitivity_max,
    )

    generator = torch.Generator().manual_seed(seed)
    noise = (torch.rand((samples, *images.shape[1:]), generator=generator) * 2 - 1) * radius

    def perturb(repeated: Tensor) -> Tensor:
        return (repeated + noise.to(repeated)).clamp(0, 1)

    scores = np.zeros(len(images))
    for index in range(len(images)):

        def explain(inputs: Any, index: int = index) -> tuple[Tensor]:
            batch = inputs[0] if isinstance(inputs, tuple) else inputs
            return (method(classifier, batch, classes[index].expand(len(batch))),)  # captum 0.9 sums over a bare tensor

        scores[index] = float(sensitivity_max(explain, images[index, None], perturb, n_perturb_samples=samples)[0])
    return scores


def randomised(
    classifier: Classifier, seed: int = 0, *, layers: int | None = None, calibration: Tensor | None = None
) -> Classifier:
    """A copy of a classifier with re-initialised parameters, for the sanity check of Adebayo et al. (arXiv:1810.03292).

    A layer is a module that holds parameters itself, in the order in which the network registers them. One seed gives
    the same values to a layer whatever the number of layers, so that rising `layers` are a cascade from the top.

    Args:
        classifier: a PyTorch module; it is left as it is.
        seed: of the new parameters.
        layers: how many layers from the top are re-initialised; None for all.
        calibration: images, shape (N, 1, S, S), from which batch statistics are taken anew, so that an untrained
            network does not answer every image alike; None leaves them at mean 0 and variance 1.

    Returns:
        The copy, in eval mode, its parameters frozen, on the classifier's device.

    Raises:
        GradientsNeeded: the classifier is no PyTorch module.
    """
    if not isinstance(classifier, nn.Module):
        raise GradientsNeeded(
            f"model randomisation needs the parameters of {type(classifier).__name__}, which are hidden"
        )
    devices = {parameter.device for parameter in classifier.parameters()}
    network = copy.deepcopy(classifier).cpu()
    owners = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    top_first = owners[::-1]
    for index, module in enumerate(top_first[:layers]):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed * 10_007 + index)
            _reinitialise(module)
    network.to(next(iter(devices), torch.device("cpu"))).eval().requires_grad_(requires_grad=False)
    if calibration is not None:
        _calibrate(network, calibration)
    return network


def randomisation_similarity(maps: Tensor, maps_of_randomised: Tensor) -> dict[str, Floats]:
    """How much of a map survives when its classifier is randomised, per image, shape (N,) each; lower is better.

    Args:
        maps: of the classifier, shape (N, 1, S, S).
        maps_of_randomised: of its randomised copy, of the same shape. A method with a network of its own must have
            trained it on the copy: otherwise nothing can change.

    Returns:
        spearman: rank correlation of the pixels, equal values sharing their mean rank; 0 where either map is constant.
        ssim: of the maps, each stretched from its own minimum and maximum to [0, 1], a constant one to 0.

    Raises:
        ValueError: maps that are not finite, naming the image, or of unequal shape.
    """
    if maps.shape != maps_of_randomised.shape:
        raise ValueError(f"maps of shape {tuple(maps.shape)} and {tuple(maps_of_randomised.shape)}")
    _need_finite(maps)
    _need_finite(maps_of_randomised)
    first, second = (_centred_ranks(part) for part in (maps, maps_of_randomised))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    alike = ssim(_stretched(maps), _stretched(maps_of_randomised))
    return {
        "spearman": np.divide(products, lengths, out=np.zeros(len(maps)), where=lengths > 0),
        "ssim": alike.double().cpu().numpy(),
    }


def _need_finite(maps: Tensor) -> None:
    finite = torch.isfinite(maps).flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"image {int(finite.int().argmin())}: NaN or infinity in the map")


def _area(curves: Floats) -> Floats:
    """Area under curves at equal steps over [0, 1], shape (N,)."""
    return np.asarray((curves[:, :-1] + curves[:, 1:]).mean(axis=1) / 2)


def _reinitialise(module: nn.Module) -> None:
    """New parameters by the module's own rule, or normal ones of the old spread where it has none."""
    if callable(getattr(module, "reset_parameters", None)):
        module.reset_parameters()  # type: ignore[operator]
        return
    for parameter in module.parameters(recurse=False):
        parameter.normal_(float(parameter.mean()), float(parameter.std(correction=0)))


@torch.no_grad()
def _calibrate(network: nn.Module, images: Tensor) -> None:
    """Batch statistics of `images` in one pass, each layer seeing what the calibrated layers below it give."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _centred_ranks(maps: Tensor) -> Floats:
    ranks = stats.rankdata(maps.flatten(1).cpu().numpy(), axis=1)
    return np.asarray(ranks - ranks.mean(axis=1, keepdims=True))


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))
