"""What both bundles say of each image: probabilities, counterfactuals, maps; kept on disk, so that a stop costs little.

A file of the cache is named by the bundle's digest and the hash of the images, so that it never serves others.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.explainer import BundleExplainer
from explain_core.files import fresh
from explain_core.quality.similarity import psnr, ssim
from training.progress import Progress

Floats = NDArray[np.float64]
Map = NDArray[np.float32]
BATCH = 32
MAPS_A_FILE = 8
NAMES = (
    "f_x", "f_x_s", "f_x_a", "psnr_similar", "ssim_similar", "psnr_adversarial", "ssim_adversarial",
)  # fmt: skip
SCORE_COST, MAP_COST = 1.0, 9.0  # of an image, relative


class Meter:
    """How far a comparison is, in units of work: adds up what is done and reports it.

    Args:
        progress: told the part that is done.
        total: units of work in all.
    """

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress = progress
        self._total = max(total, 1e-9)
        self._done = 0.0
        self.doing = ""

    def add(self, units: float, **figures: float | str) -> None:
        """Report `units` more.

        Raises:
            Cancelled: the run is to stop here; what was kept stays.
        """
        self._done += units
        self._progress(min(1.0, self._done / self._total), doing=self.doing, **figures)


def save(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays to an .npz file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh(path) as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # the names are no options of savez


def kept(path: Path | None, names: tuple[str, ...], count: int) -> dict[str, NDArray[np.generic]] | None:
    """The arrays of `save`, of `count` rows each; None where the file is absent or no such file."""
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if all(len(array) == count for array in arrays.values()) else None


def score(explainer: BundleExplainer, images: Tensor, name: str, cache: Path | None, meter: Meter) -> dict[str, Floats]:
    """f(x), f(x_s), f(x_a), PSNR in dB and SSIM of every image, shape (N,) each.

    Args:
        explainer: the bundle.
        images: uint8, shape (N, 1, S, S).
        name: of the file in the cache.
        cache: the folder, None keeps nothing.
        meter: told after every batch.
    """
    path = None if cache is None else cache / f"scores-{name}.npz"
    columns = kept(path, NAMES, len(images)) or {key: np.full(len(images), np.nan) for key in NAMES}
    scores = {key: np.array(column, np.float64) for key, column in columns.items()}
    for start in range(0, len(images), BATCH):
        part = slice(start, min(start + BATCH, len(images)))
        if np.isnan(scores["f_x"][part]).any():
            for key, values in zip(NAMES, _of_batch(explainer, images[part]), strict=True):
                scores[key][part] = values
            if path is not None:
                save(path, scores)
        meter.add(SCORE_COST * (part.stop - part.start), images=part.stop)
    return scores


@torch.no_grad()
def _of_batch(explainer: BundleExplainer, images: Tensor) -> list[Floats]:
    x = (images.float() / 255).to(explainer.device)
    f_x = explainer.probabilities(x)
    x_s, x_a = explainer.counterfactuals(x, explainer.decisions(f_x))
    values = (
        f_x, explainer.probabilities(x_s), explainer.probabilities(x_a), psnr(x, x_s), ssim(x, x_s), psnr(x, x_a),
        ssim(x, x_a),
    )  # fmt: skip
    return [value.double().cpu().numpy() for value in values]


def maps(
    explainer: BundleExplainer, images: Tensor, name: str, cache: Path | None, meter: Meter
) -> tuple[list[Map], list[Map]]:
    """Maps of one pass, unblurred, and maps as the bundle delivers them, of uint8 images; shape (S, S) each."""
    one_pass: list[Map] = []
    delivered: list[Map] = []
    for number, start in enumerate(range(0, len(images), MAPS_A_FILE)):
        part = images[start : start + MAPS_A_FILE]
        path = None if cache is None else cache / f"maps-{name}" / f"{number:04d}.npz"
        found = kept(path, ("one_pass", "delivered"), len(part))
        if found is None:
            pairs = list(_maps_of(explainer, part, meter))
            found = {"one_pass": np.stack([p for p, _ in pairs]), "delivered": np.stack([d for _, d in pairs])}
            if path is not None:
                save(path, found)
        else:
            meter.add(MAP_COST * len(part), maps=len(one_pass) + len(part))
        one_pass += list(found["one_pass"].astype(np.float32))
        delivered += list(found["delivered"].astype(np.float32))
    return one_pass, delivered


@torch.no_grad()
def _maps_of(explainer: BundleExplainer, images: Tensor, meter: Meter) -> Iterator[tuple[Map, Map]]:
    for image in images:
        x = (image[None].float() / 255).to(explainer.device)
        decision = explainer.decisions(explainer.probabilities(x))
        one_pass, delivered = explainer.heatmap(x, decision, augmentations=0)[0], explainer.shown(x, decision)[0]
        meter.add(MAP_COST)
        yield one_pass[0, 0].cpu().numpy(), delivered[0, 0].cpu().numpy()
