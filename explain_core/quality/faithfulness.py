"""Whether a map shows what the classifier uses: imputed pixels, stability, and a randomised classifier.

Every figure is per image, and the figure of one image does not depend on the batch it came in.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from explain_core.classifier import Classifier, DecisionRule
from explain_core.errors import GradientsNeeded
from explain_core.method import Method
from explain_core.quality.imputation import impute
from explain_core.quality.removal import need_finite, rank_places
from explain_core.quality.similarity import ssim

Floats = NDArray[np.float64]
ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROAD_NOISE = 0.01


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
    need_finite(maps)
    need_finite(maps_of_randomised)
    first, second = (_centred_ranks(part) for part in (maps, maps_of_randomised))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    alike = ssim(_stretched(maps), _stretched(maps_of_randomised))
    return {
        "spearman": np.divide(products, lengths, out=np.zeros(len(maps)), where=lengths > 0),
        "ssim": alike.double().cpu().numpy(),
    }


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
