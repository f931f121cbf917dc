"""What the generated images do to decisions: kept, changed, by which part of the change, and for whom else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.explainer import BundleExplainer
from explain_core.quality.hottest import reversed_by_parts
from explain_core.quality.resampling import roc_auc
from explain_core.quality.similarity import psnr, ssim
from explain_core.quality.transfer import carried_over, of_others, smooth_noise, transplanted
from explain_core.second import Second
from training.measure.estimates import DRAWS, Use, estimate, mean_of

Figures = dict[str, Any]
Floats = NDArray[np.float64]
BATCH = 32
SMOOTH = 0.035
"""Blur of the random change that transfer is held against, a fraction of the width."""
CHANGES = ("x_a", "twice", "smooth", "other", "opacity")
"""What a second classifier is shown: the change, twice the change, and the controls."""
SEAM = 0.03
"""Width of the seam around an opacity that is put into another image, a fraction of the width."""
PARTS = ("whole", "hottest", "without", "random", "random_pixels")
_PAIRS = {"x_s": (0, 1), "x_a": (0, 2), "s_a": (1, 2)}


@dataclass(frozen=True, slots=True)
class Opacities:
    """Real opacities that radiologists marked, to be put into images without one.

    Attributes:
        images: uint8, shape (M, 1, S, S), of patients who are not looked at.
        masks: of the boxes, bool, shape (M, 1, S, S).
    """

    images: Tensor
    masks: Tensor


@torch.no_grad()
def scores(
    explainer: BundleExplainer, images: Tensor, second: Second | None = None, opacities: Opacities | None = None
) -> dict[str, Floats]:
    """Everything about each uint8 image's decision and generated images, shape (N,) each.

    Args:
        explainer: the bundle.
        images: uint8, shape (N, 1, S, S).
        second: another classifier to carry changes over to.
        opacities: put one each, drawn at random, into the images called negative; None leaves that control out.

    Returns:
        f_x, f_x_s, f_x_a; psnr_* in dB and ssim_* of the pairs x_s (x and x_s), x_a and s_a; each of `PARTS` of the
        change x_a - x that reverses the decision; with `second`, for each of `CHANGES`, its decisions on the changed
        image (second_*; second_x on x), the first one's (first_*) and the PSNR in dB to x (psnr_of_*): x_a, x and twice
        the change, a random smooth change of the same energy, another image's change, and a real opacity, NaN for
        images called positive.
    """
    columns: dict[str, list[Floats]] = {}
    drawn = np.random.default_rng(0).integers(0, 1 if opacities is None else len(opacities.images), len(images))
    for rows in torch.arange(len(images)).split(BATCH):
        x = (images[rows].float() / 255).to(explainer.device)
        given = None
        if opacities is not None:
            chosen = torch.from_numpy(drawn)[rows]
            given = Opacities(opacities.images[chosen], opacities.masks[chosen])
        for name, values in _of_batch(explainer, x, second, given).items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _of_batch(
    explainer: BundleExplainer, x: Tensor, second: Second | None, opacities: Opacities | None
) -> dict[str, Floats]:
    f_x = explainer.probabilities(x)
    decided = explainer.decisions(f_x)
    x_s, x_a = explainer.counterfactuals(x, decided)
    found = {"f_x": f_x, "f_x_s": explainer.probabilities(x_s), "f_x_a": explainer.probabilities(x_a)}
    made = (x, x_s, x_a)
    for name, (one, two) in _PAIRS.items():
        found |= {f"psnr_{name}": psnr(made[one], made[two]), f"ssim_{name}": ssim(made[one], made[two])}
    columns = {name: np.asarray(values.double().cpu().numpy()) for name, values in found.items()}

    def decide(images: Tensor) -> Tensor:
        return explainer.decisions(explainer.probabilities(images))

    columns |= reversed_by_parts(decide, x, x_a, (x_s - x_a).abs())
    if second is not None:
        change, side = x_a - x, x.shape[-1]
        others = {
            "x_a": x_a,
            "twice": (x + 2 * change).clamp(0, 1),
            "smooth": (x + smooth_noise(change, SMOOTH * side)).clamp(0, 1),
            "other": (x + of_others(change, decided)).clamp(0, 1),
        }
        if opacities is not None:
            donors, masks = opacities.images.to(x.device).float() / 255, opacities.masks.to(x)
            others["opacity"] = transplanted(x, donors, masks, SEAM * side)
        columns["second_x"] = second.decide(x).astype(np.float64)
        called = decided.cpu().numpy() == 1
        for name, images in others.items():
            seen = {
                f"second_{name}": second.decide(images),
                f"first_{name}": decide(images).cpu().numpy(),
                f"psnr_of_{name}": psnr(x, images).cpu().numpy(),
            }
            left_out = called if name == "opacity" else np.zeros_like(called)
            columns |= {key: np.where(left_out, np.nan, values.astype(np.float64)) for key, values in seen.items()}
    return columns


def counterfactuals(
    found: dict[str, Floats], threshold: float, patients: NDArray[Any], use: Use, draws: int = DRAWS
) -> Figures:
    """Kept and changed decisions, PSNR in dB and SSIM, over the images in `use` (Tables IV and V), with intervals."""
    f_x, f_x_s, f_x_a = (found[name][use] for name in ("f_x", "f_x_s", "f_x_a"))
    who = patients[use]
    called = f_x >= threshold
    changed = ((f_x_a >= threshold) != called).astype(np.float64)
    figures: Figures = {"images": int(use.sum())}
    if called.any() and not called.all():
        figures["similar_auc"] = estimate(roc_auc, [called, f_x_s], who, draws)
        figures["adversarial_auc"] = estimate(roc_auc, [~called, f_x_a], who, draws)
    columns = {
        "kept_rate": ((f_x_s >= threshold) == called).astype(np.float64),
        "flip_rate": changed,
        "flip_rate_positive": np.where(called, changed, np.nan),
        "flip_rate_negative": np.where(called, np.nan, changed),
    }
    columns |= {f"{kind}_{pair}": found[f"{kind}_{pair}"][use] for pair in _PAIRS for kind in ("psnr", "ssim")}
    return figures | {name: mean_of(values, who, draws) for name, values in columns.items()}


def faithfulness(
    found: dict[str, Floats], threshold: float, patients: NDArray[Any], draws: int = DRAWS
) -> dict[str, Figures]:
    """Share of decisions that each of `PARTS` reverses, with its interval, by group of images.

    The groups: all, those that the whole change reverses, those called positive, and those called negative.
    """
    called, changed = found["f_x"] >= threshold, found["whole"] > 0
    everyone = np.ones(len(called), np.bool_)
    groups = {"all": everyone, "changed": changed, "positive": called, "negative": ~called}
    return {
        group: {"images": int(use.sum())}
        | {name: mean_of(np.where(use, found[name], np.nan), patients, draws) for name in PARTS}
        for group, use in groups.items()
    }


def transfer(found: dict[str, Floats], threshold: float, patients: NDArray[Any], draws: int = DRAWS) -> Figures:
    """How often x_a, and each control, changes the second classifier's decision; see `carried_over`.

    Returns:
        "agreed": how often both decide alike about x, "agreed_positive" and "agreed_negative" of images that the first
        one decides so; and by change, of `CHANGES`, the rates of `carried_over`, "psnr" in dB, and as "own" how often
        the first one's decision is reversed.
    """
    first = (found["f_x"] >= threshold).astype(np.int64)
    before = found["second_x"].astype(np.int64)
    agree = (first == before).astype(np.float64)
    figures: Figures = {
        "agreed": mean_of(agree, patients, draws),
        "agreed_positive": mean_of(np.where(first == 1, agree, np.nan), patients, draws),
        "agreed_negative": mean_of(np.where(first == 0, agree, np.nan), patients, draws),
    }
    for name in (name for name in CHANGES if f"second_{name}" in found):
        after, shown = found[f"second_{name}"], ~np.isnan(found[f"second_{name}"])
        columns = carried_over(first, before, after)
        columns |= {"own": (found[f"first_{name}"] != first).astype(np.float64), "psnr": found[f"psnr_of_{name}"]}
        figures[name] = {
            key: mean_of(np.where(shown, values, np.nan), patients, draws) for key, values in columns.items()
        }
    return figures


def views_of(views: Sequence[str]) -> dict[str, Use]:
    """All images, and those of each view that there is, shape (N,) each."""
    named = np.array(list(views))
    return {"all": np.ones(len(named), np.bool_)} | {str(v): named == v for v in sorted(set(views)) if v}
