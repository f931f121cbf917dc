"""The scale on which the maps of a method are shown: a table [heatmap.METHOD] of bundle.toml for each method.

Maps are taken as the node shows them: averaged over as many copies as the bundle says, then smoothed by a Gaussian. The
floor is the 85th percentile of all pixels of the validation images called positive, so that most of a film stays clear;
the 95th percentile of their maps' largest values is full scale. Of an image called negative nothing is painted whatever
its map says: there it is what would have to be added, and no evidence.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core import display, plugins
from explain_core.blur import BLUR
from explain_core.bundles.bundle import Bundle
from explain_core.classifier import Classifier
from explain_core.explainer import BundleExplainer
from explain_core.method import obstacle, stated
from explain_core.plugins import METHODS
from training.progress import Progress, silent

CALIBRATED = ("similar_adversarial", "evidence", "mediffusion")
"""Methods that a new bundle serves, where its classifier and generators allow it."""
MOST_OF_SLOW = 64
"""Maps that are made of a method that searches anew for each image."""
FLOOR_PERCENTILE, FULL_SCALE_PERCENTILE = 85, 95

Floats = NDArray[np.float64]
Image = NDArray[np.float32]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What was measured of one method's maps.

    Attributes:
        table: [heatmap.METHOD] of bundle.toml.
        shown: what it does to the validation images called positive.
    """

    table: Figures
    shown: Figures


def default_blurs(
    classifier: Classifier, wanted: Mapping[str, float] | None = None, networks: Container[str] = ("generators",)
) -> dict[str, float]:
    """The methods that a new bundle of this classifier serves, each with the blur of its maps.

    Args:
        classifier: of the bundle.
        wanted: further methods or other blurs, such as the champion's; what is not there, or cannot explain the
            classifier, is left out.
        networks: of the bundle, by the names of the runs that made them.
    """
    asked = dict.fromkeys(CALIBRATED, BLUR) | dict(wanted or {})
    known = plugins.available(METHODS)
    return {
        name: blur
        for name, blur in asked.items()
        if name in known and obstacle(plugins.load(METHODS, name), classifier, networks) is None
    }


def blurs_of(bundle: Bundle) -> dict[str, float]:
    """The methods that a bundle serves, each with the blur of its maps."""
    return {name: heatmap.blur for name, heatmap in bundle.heatmaps.items()}


def measure_scales(
    explainer: BundleExplainer, images: Tensor, blurs: Mapping[str, float], progress: Progress = silent
) -> tuple[Floats, dict[str, Scale]]:
    """Probabilities, shape (N,), and the scale of each method.

    Args:
        explainer: the bundle as it will run.
        images: of validation patients, uint8, shape (N, 1, S, S); at least one.
        blurs: by method, the standard deviation of the Gaussian on its maps, a fraction of the width.
        progress: told after every image of every method.

    Raises:
        BundleError: a method is not registered, or cannot explain this bundle.
        AttributionError: a map that cannot be used.
        Cancelled: by `progress`.
    """
    probabilities = _probabilities(explainer, images)
    positive = probabilities >= explainer.bundle.threshold
    scales = {}
    for number, (name, blur) in enumerate(blurs.items()):
        chosen = _chosen(positive, name)
        maps = []
        for done, place in enumerate(chosen, start=1):
            maps.append(_map(explainer, images[place], name, blur))
            progress((number + done / len(chosen)) / len(blurs), method=name)
        planes = np.stack(maps)
        table = heatmap_table(planes) | {"blur": blur, "unit": unit(explainer, name)}
        scales[name] = Scale(table=table, shown=shares_shown(planes[positive[chosen]], table))
    return probabilities, scales


def _chosen(positive: NDArray[np.bool_], method: str) -> list[int]:
    """The images whose maps are measured: those called positive, or all where none is; of a slow method a draw."""
    among = np.flatnonzero(positive) if positive.any() else np.arange(len(positive))
    if method in plugins.available(METHODS) and stated(plugins.load(METHODS, method), "slow"):
        among = np.sort(np.random.default_rng(0).permutation(among)[:MOST_OF_SLOW])
    return [int(place) for place in among]


@torch.no_grad()
def _probabilities(explainer: BundleExplainer, images: Tensor) -> Floats:
    """f(x) of uint8 images one by one, as the node computes it, shape (N,)."""
    device = explainer.device
    return np.array([float(explainer.probabilities(image[None].to(device).float() / 255)) for image in images])


@torch.no_grad()
def _map(explainer: BundleExplainer, image: Tensor, method: str, blur: float) -> Image:
    """The map of one uint8 image as it is shown, shape (S, S)."""
    x = image[None].to(explainer.device).float() / 255
    decision = explainer.decisions(explainer.probabilities(x))
    plane: Image = explainer.shown(x, decision, method, blur)[0][0, 0].cpu().numpy()
    return plane


def unit(explainer: BundleExplainer, method: str) -> str:
    """What a value of a method's shown map means, for legends."""
    means = str(stated(plugins.load(METHODS, method), "unit"))
    return f"{means}; mean of registered copies" if explainer.augmentations else means


def heatmap_table(loud: NDArray[np.floating]) -> Figures:
    """Floor and full scale of maps as they are shown, of images called positive, shape (N, H, W)."""
    floor = short(np.percentile(loud, FLOOR_PERCENTILE))
    full_scale = max(floor, short(np.percentile(loud.max(axis=(1, 2)), FULL_SCALE_PERCENTILE)), 1e-6)
    return {"floor": floor, "full_scale": full_scale}


def shares_shown(maps: Image, table: Mapping[str, Any]) -> Figures:
    """How many maps, shape (N, S, S), show any paint, more than specks, and their mean painted share of the area."""
    if not len(maps):
        return {"images": 0}
    painted = maps > table["floor"]
    regions = [bool(display.outlines(part, most=1)) for part in painted]
    return {
        "images": len(maps),
        "painted": float(painted.any(axis=(1, 2)).mean()),
        "more_than_specks": float(np.mean(regions)),
        "painted_area": float(painted.mean()),
    }


def short(value: np.floating) -> float:
    """Three digits, as bundle.toml and the legend state them."""
    return float(f"{value:.3g}")


def markdown(method: str, scale: Scale) -> str:
    """The figures of one method as text and a table, under a heading of their own."""
    table, shown = scale.table, scale.shown
    lines = [
        heading(method),
        "",
        f"Maps are smoothed by a Gaussian of {table['blur']:.1%} of the width. Floor {table['floor']:g}, full scale",
        f"{table['full_scale']:g} ({table['unit']}).",
    ]
    if shown["images"]:
        lines += [
            f"Of {shown['images']} images called positive {shown['painted']:.1%} show paint,",
            f"{shown['more_than_specks']:.1%} more than specks; {shown['painted_area']:.1%} of their area is painted.",
        ]
    return "\n".join(lines) + "\n"


def heading(method: str) -> str:
    """Of a method's part of the model card."""
    return f"### Heatmap: {method}"
