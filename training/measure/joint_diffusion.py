"""What a joint diffusion model is worth: its decisions, its counterfactuals, and its samples, each beside a control.

Counterfactuals are judged by an oracle: another architecture, trained with another seed on other patients. The unguided
chain with the same noise stands beside them, since noising alone removes findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.diffusion.counterfactual import Counterfactual, Settings, counterfactual
from explain_core.diffusion.model import JointDiffusion
from explain_core.quality.controls import derangement
from explain_core.quality.resampling import roc_auc
from explain_core.quality.similarity import psnr
from explain_core.second import Second
from training.cohort import Cohort
from training.measure.estimates import DRAWS, Figures, estimate, mean_of

Floats = NDArray[np.float64]
BATCH = 32
REMOVE, ENFORCE = 0, 1
THRESHOLD = 0.5


@torch.no_grad()
def probabilities(model: JointDiffusion, images: Tensor) -> Floats:
    """Of the finding, shape (N,), in uint8 images, shape (N, 1, S, S)."""
    parts = [model(part.float() / 255)[:, 0].sigmoid() for part in images.split(BATCH)]
    return np.asarray(torch.cat(parts).double().numpy())


@dataclass(frozen=True, slots=True)
class Changed:
    """Counterfactuals of the test images that are decided otherwise.

    Attributes:
        places: which images of the cohort, shape (M,).
        found: one batch after the other.
    """

    places: NDArray[np.int64]
    found: Sequence[Counterfactual]

    def of(self, name: str) -> Tensor:
        """An attribute of all of them, shape (M, ...)."""
        return torch.cat([getattr(one, name) for one in self.found])


def change(model: JointDiffusion, test: Cohort, target: int, settings: Settings, most: int) -> Changed:
    """Counterfactuals towards `target` of the first `most` labelled images that lack it by label and by the head."""
    called = probabilities(model, test.images) >= THRESHOLD
    places = np.flatnonzero((test.targets == 1 - target) & (called != bool(target)))[:most]
    parts = [
        counterfactual(model, test.images[torch.from_numpy(part)].float() / 255, 0, target, settings)
        for part in np.array_split(places, max(1, -(-len(places) // BATCH)))
        if len(part)
    ]
    return Changed(places, parts)


def counterfactual_figures(changed: Changed, test: Cohort, target: int, oracle: Second, draws: int = DRAWS) -> Figures:
    """Flips by the own head and by the oracle, with the unguided control, PSNR and, with boxes, where the change lies.

    Returns:
        "images"; "reached" and "unguided" (share that the own head decides as asked); "oracle" and "oracle_unguided"
        (mean movement of the oracle's probability towards the target), "oracle_flips" and "oracle_flips_unguided" (of
        those that the oracle decided otherwise); "psnr" in dB to the decoded original; "density" (mean change inside
        the boxes over outside), "density_unguided" and "density_shuffled". Each with a 95 % interval by patient.
    """
    figures: Figures = {"images": len(changed.places)}
    patients = np.array(test.patients)[changed.places]
    columns = counterfactual_columns(changed, test, target, oracle)
    return figures | {name: mean_of(values, patients, draws) for name, values in columns.items()}


def counterfactual_columns(changed: Changed, test: Cohort, target: int, oracle: Second) -> dict[str, Floats]:
    """The same for each image, shape (M,); NaN where it does not apply."""
    if not len(changed.places):
        return {}
    original, made, without = (changed.of(name) for name in ("original", "changed", "unguided"))
    sign = 1 if target == ENFORCE else -1
    before, after, control = (
        oracle.probabilities(images).double().cpu().numpy() for images in (original, made, without)
    )
    other = (before >= oracle.threshold) != bool(target)
    columns: dict[str, Floats] = {
        "reached": changed.of("reached").double().numpy(),
        "unguided": ((changed.of("control") >= THRESHOLD) == bool(target)).double().numpy(),
        "oracle": sign * (after - before),
        "oracle_unguided": sign * (control - before),
        "oracle_flips": np.where(other, ((after >= oracle.threshold) == bool(target)).astype(np.float64), np.nan),
        "oracle_flips_unguided": np.where(
            other, ((control >= oracle.threshold) == bool(target)).astype(np.float64), np.nan
        ),
        "psnr": psnr(original, made).double().numpy(),
    }
    return columns | _densities(test, changed.places, (made - original).abs(), (without - original).abs())


def _densities(test: Cohort, places: NDArray[np.int64], change: Tensor, control: Tensor) -> dict[str, Floats]:
    """Mean change inside the boxes over that outside, per image; NaN without boxes."""
    truths = [test.truths[place] for place in places.tolist()]
    boxed = [index for index, truth in enumerate(truths) if truth is not None and not truth.all()]
    found = {name: np.full(len(places), np.nan) for name in ("density", "density_unguided", "density_shuffled")}
    if not boxed:
        return found
    exchanged = derangement(len(boxed)) if len(boxed) > 1 else None
    for number, index in enumerate(boxed):
        found["density"][index] = density(change[index, 0], truths[index])
        found["density_unguided"][index] = density(control[index, 0], truths[index])
        if exchanged is not None:
            found["density_shuffled"][index] = density(change[index, 0], truths[boxed[int(exchanged[number])]])
    return found


def density(change: Tensor, truth: NDArray[np.bool_] | None) -> float:
    """Mean change inside a mask over that outside, both shape (S, S); NaN where nothing outside changed."""
    inside = torch.from_numpy(truth)
    outside = float(change[~inside].mean())
    return float(change[inside].mean()) / outside if outside > 0 else float("nan")


def figures(
    model: JointDiffusion, test: Cohort, oracle: Second, settings: Settings, *, most: int, draws: int = DRAWS
) -> tuple[Figures, dict[int, Changed]]:
    """Everything about a model of one finding, and the counterfactuals by their target."""
    labelled = test.labelled()
    scores, patients = probabilities(model, labelled.images), np.array(labelled.patients)
    found: Figures = {
        "auc": estimate(roc_auc, [labelled.targets == 1, scores], patients, draws),
        "oracle_auc": estimate(
            roc_auc, [labelled.targets == 1, _of_oracle(oracle, labelled.images.float() / 255)], patients, draws
        ),
    }
    changed = {target: change(model, labelled, target, settings, most) for target in (REMOVE, ENFORCE)}
    for target, name in ((REMOVE, "remove"), (ENFORCE, "enforce")):
        found[name] = counterfactual_figures(changed[target], labelled, target, oracle, draws)
    return found, changed


def _of_oracle(oracle: Second, images: Tensor) -> Floats:
    """Of images in [0, 1]."""
    parts = [oracle.probabilities(part) for part in images.split(BATCH)]
    return np.asarray(torch.cat(parts).double().cpu().numpy())
