"""Maps and their scores, one row at a time, kept on disk so that a stopped benchmark goes on with the next row."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core import blur
from explain_core.augmentation import registered_average
from explain_core.blur import weighted_blur
from explain_core.classifier import Classifier
from explain_core.files import fresh
from explain_core.method import DecisionMethod, Method
from explain_core.quality import controls, localisation
from training.benchmark.profiles import SEARCHING
from training.benchmark.stages import Bench, floats
from training.checkpoints import fingerprint
from training.measure.localisation import shuffled

AUGMENTED, SMOOTHED, BLUR, CHANCE = "+aug", "+blur", "blur:", "random classifier:"
BATCH = 16
SIGMA_IMAGES = 32

Columns = dict[str, NDArray[np.float64]]
Maps = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row's maps and scores over the images with boxes.

    Attributes:
        maps: shape (N, S, S).
        columns: per-image scores, see `localisation.columns`.
    """

    maps: Maps
    columns: Columns


def explain(bench: Bench, method: Method, images: Tensor, *, augmented: bool) -> Maps:
    """Maps of uint8 images, shape (N, 1, S, S), by equation (11) where `augmented`; shape (N, S, S)."""
    classes = torch.from_numpy(bench.classes(images)).to(bench.device)
    batch = BATCH // 4 if augmented else BATCH
    maps = [
        explain_batch(bench, method, floats(chunk, bench.device), wanted, augmented=augmented).float().cpu()
        for chunk, wanted in zip(images.split(batch), classes.split(batch), strict=True)
    ]
    return torch.cat(maps)[:, 0].numpy()


def explain_batch(bench: Bench, method: Method, x: Tensor, classes: Tensor, *, augmented: bool) -> Tensor:
    """Maps of one batch of images in [0, 1], shape (N, 1, S, S).

    Methods that can be told a decision explain the copies of an image under the image's own, as a bundle does.
    """
    if not augmented:
        return method(bench.classifier, x, classes)
    profile = bench.profile

    decided: Tensor | None = None
    if isinstance(method, DecisionMethod):
        decided = bench.decisions(x).to(x.device)

    def copies(images: Tensor, of: Tensor) -> Tensor:
        if decided is not None and isinstance(method, DecisionMethod):
            return method.maps(bench.classifier, images, decided[of]).detach()
        return method(bench.classifier, images, classes[of])

    return registered_average(copies, x, profile.ranges, profile.augmentations, profile.seed)[0]


def suffixes(bench: Bench, name: str) -> tuple[str, ...]:
    """Of the rows of a method: plain, and augmented where the profile wants that."""
    return ("",) if name in SEARCHING and not bench.profile.augment_searching else ("", AUGMENTED)


def method_rows(bench: Bench, name: str, advance: Callable[[str], None]) -> dict[str, Row]:
    """A method's row: plain, smoothed as delivered maps are, augmented, and as smooth as that by a blur alone."""
    rows: dict[str, Row] = {}
    for suffix in suffixes(bench, name):
        rows[name + suffix] = method_row(bench, name, suffix)
        advance(name + suffix)
    truths = _truths(bench)
    rows[name + SMOOTHED] = score(smoothed(rows[name].maps), truths)
    if name + AUGMENTED not in rows:
        return rows
    plain, averaged = rows[name].maps, rows[name + AUGMENTED].maps
    sigma = controls.matched_sigma(list(plain[:SIGMA_IMAGES]), list(averaged[:SIGMA_IMAGES]))
    blurred = np.stack([controls.blurred(heatmap, sigma) for heatmap in plain])
    rows[f"{BLUR}{name}{AUGMENTED}"] = score(blurred, truths)
    return rows


def method_row(bench: Bench, name: str, suffix: str = "") -> Row:
    """A method's maps of the images with boxes as they are, or with `AUGMENTED` averaged over augmentations."""
    method, truths = bench.method(name), _truths(bench)
    settings = (bench.profile.augmentations, bench.profile.ranges, bench.profile.seed) if suffix else ()
    return kept(
        bench.out / "rows" / f"{name}{suffix}.npz",
        fingerprint(method_fingerprint(bench, method), bench.boxed.images, np.stack(truths), *settings),
        lambda: score(explain(bench, method, bench.boxed.images, augmented=bool(suffix)), truths),
    )


def smoothed_row(bench: Bench, row: Row) -> Row:
    """A row's maps under the Gaussian of delivered maps."""
    return score(smoothed(row.maps), _truths(bench))


def smoothed(maps: Maps) -> Maps:
    """Maps, shape (N, S, S), under the Gaussian of delivered maps."""
    planes = torch.from_numpy(maps)[:, None]
    return weighted_blur(planes, blur.BLUR * maps.shape[-1])[:, 0].numpy()


def delivered_row(bench: Bench) -> Row:
    """The map that the bundle delivers, made and smoothed as it says."""
    explainer, maps = bench.explainer, []
    with torch.no_grad():
        for chunk in bench.boxed.images.split(BATCH // 4):
            x = floats(chunk, bench.device)
            shown = explainer.shown(x, explainer.decisions(explainer.probabilities(x)))[0]
            maps.append(shown[:, 0].float().cpu())
    return score(torch.cat(maps).numpy(), _truths(bench))


def chance_row(bench: Bench, name: str, chance: Classifier) -> Row:
    """A method's smoothed map of a classifier with random weights; networks are trained anew against that one."""
    classes = torch.zeros(len(bench.boxed), dtype=torch.long, device=bench.device)
    method = bench.method(name, chance, "_random_classifier")
    parts = zip(bench.boxed.images.split(BATCH), classes.split(BATCH), strict=True)
    maps = [method(chance, floats(chunk, bench.device), wanted).float().cpu() for chunk, wanted in parts]
    return score(smoothed(torch.cat(maps)[:, 0].numpy()), _truths(bench))


def control_rows(bench: Bench, best: Row) -> dict[str, Row]:
    """The controls that look at no image, and the best row's maps against other images' boxes."""
    truths = _truths(bench)
    trained = [truth for truth in bench.training.truths if truth is not None]
    rows: dict[str, Row] = {}
    prior = localisation.location_prior(trained) if trained else np.zeros_like(truths[0], np.float64)
    for name, maps in controls.control_maps(truths, prior, seed=bench.profile.seed).items():
        if trained or name != "location_prior":
            rows[name] = Row(maps=np.zeros((0, 0, 0), np.float32), columns=_columns(maps, truths))
    if len(truths) > 1:
        rows["shuffled_boxes"] = Row(maps=best.maps[:0], columns=shuffled(list(best.maps), truths, bench.profile.seed))
    return rows


def score(maps: Maps, truths: Sequence[localisation.Mask]) -> Row:
    """Maps, shape (N, S, S), with their scores."""
    return Row(maps=maps, columns=_columns(list(maps), truths))


def _columns(maps: Sequence[localisation.Heatmap], truths: Sequence[localisation.Mask]) -> Columns:
    return localisation.columns(localisation.score_maps(maps, truths))


def kept(path: Path, mark: str, make: Callable[[], Row]) -> Row:
    """The row in `path` where it was made from the same things (`mark`), else made anew and written there."""
    if path.is_file():
        with np.load(path) as file:
            if str(file["mark"]) == mark:
                columns = {name.removeprefix("column_"): file[name] for name in file if name.startswith("column_")}
                return Row(maps=file["maps"].astype(np.float32), columns=columns)
    row = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {f"column_{name}": values for name, values in row.columns.items()}
    with fresh(path) as file:
        np.savez_compressed(file, mark=np.array(mark), maps=row.maps, **columns)
    return row


def method_fingerprint(bench: Bench, method: Method) -> str:
    """Of a method's file, settings and network, and the classifier that it explains."""
    settings: dict[str, Any] = {name: getattr(method, name) for name in getattr(method, "__dataclass_fields__", {})}
    network = settings.pop("network", None)
    source = inspect.getsource(inspect.getmodule(type(method)) or type(method))
    networks = [part for part in (network, bench.network_of(bench.classifier)) if part is not None]
    return fingerprint(source, {name: str(value) for name, value in settings.items()}, *networks)


def _truths(bench: Bench) -> list[localisation.Mask]:
    return [truth for truth in bench.boxed.truths if truth is not None]
