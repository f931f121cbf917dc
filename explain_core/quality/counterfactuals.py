"""Whether the generated images do what they are for: Table IV of arXiv:2012.07332, validity, proximity, transfer.

Logits have shape (N, K). With findings of their own (sigmoid) the first output is in question and its decision is 0 or
1; with exclusive classes (softmax) the decision is the winning class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explain_core.classifier import DecisionRule
from explain_core.quality.resampling import Estimate, bootstrap, mean, one_vs_rest_auc, share

Floats = NDArray[np.floating]
GREY_LEVEL = 1 / 255


def decisions(logits: Floats, rule: DecisionRule) -> NDArray[np.int64]:
    """y(x) of each image, shape (N,)."""
    decided: NDArray[np.int64] = rule.decide(_tensor(logits), torch.zeros(len(logits), dtype=torch.long)).numpy()
    return decided


def flipped(logits: Floats, changed: Floats, rule: DecisionRule) -> NDArray[np.bool_]:
    """Whether the decision about each changed image is another than about the image, shape (N,).

    Given a second classifier's logits on x and on x_a it tells whether x_a carries over to that classifier, measured
    against its own decision on x.
    """
    return np.asarray(decisions(logits, rule) != decisions(changed, rule))


def counterfactual_figures(
    logits: Floats,
    adversarial: Floats,
    similar: Floats | None = None,
    *,
    rule: DecisionRule,
    draws: int = 2000,
    groups: Sequence[Any] | None = None,
) -> dict[str, Estimate]:
    """Table IV and the rates of kept and changed decisions, each with its interval.

    Args:
        logits: f(x), shape (N, K).
        adversarial: f(x_a), shape (N, K).
        similar: f(x_s), shape (N, K); None for a method without one.
        rule: how logits decide.
        draws: number of resamples.
        groups: patient of each image, to resample patients whole; None resamples images.

    Returns:
        similar_auc: AUC of f(x_s) against y(x). adversarial_auc: AUC of f(x_a) against 1 - y(x). For exclusive classes
        both are one class against the rest, averaged over the classes that are decided for some images and not for
        others. kept_rate: y(x_s) = y(x). flip_rate: y(x_a) != y(x), with flip_rate_positive and flip_rate_negative by
        y(x), or flip_rate_class_k for exclusive classes. A figure that no image defines is absent.
    """

    def estimate(statistic: Any, *arrays: NDArray[Any]) -> Estimate:
        return bootstrap(statistic, arrays, draws=draws, groups=groups)

    decided = decisions(logits, rule)
    labels = decided[:, None] == (np.arange(logits.shape[1]) if rule.exclusive else np.ones(1))
    figures: dict[str, Estimate] = {}
    defined = (labels.any(axis=0) & ~labels.all(axis=0)).nonzero()[0]
    if similar is not None:
        if len(defined):
            scores = _scores(similar, rule)
            figures["similar_auc"] = estimate(one_vs_rest_auc, labels[:, defined], scores[:, defined])
        figures["kept_rate"] = estimate(mean, ~flipped(logits, similar, rule))
    if len(defined):
        scores = _scores(adversarial, rule)
        figures["adversarial_auc"] = estimate(one_vs_rest_auc, ~labels[:, defined], scores[:, defined])
    changed = flipped(logits, adversarial, rule)
    figures["flip_rate"] = estimate(mean, changed)
    for name, among in _decided_as(decided, rule):
        figures[f"flip_rate_{name}"] = estimate(share, changed, among)
    return figures


def distances(images: Floats, generated: Floats, threshold: float = GREY_LEVEL) -> dict[str, NDArray[np.float64]]:
    """How far generated images lie from their sources, per image, shape (N,) each.

    Args:
        images: in [0, 1], shape (N, ...).
        generated: of the same shape.
        threshold: a pixel has changed where it differs by more; one grey level of eight bits by default.

    Returns:
        l1: mean absolute difference; l2: root of the mean squared difference; both as fractions of full luminance.
        changed: share of the pixels that have changed.

    Raises:
        ValueError: images of another shape.
    """
    if images.shape != generated.shape:
        raise ValueError(f"images of shape {images.shape}, generated of shape {generated.shape}")
    difference = np.abs(generated.astype(np.float64) - images).reshape(len(images), -1)
    return {
        "l1": difference.mean(axis=1),
        "l2": np.sqrt(np.square(difference).mean(axis=1)),
        "changed": (difference > threshold).mean(axis=1),
    }


def _tensor(logits: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(logits, np.float64))


def _scores(logits: Floats, rule: DecisionRule) -> Floats:
    """What ranks images as their probabilities do, without the ties of saturated ones; shape (N, K) or (N, 1)."""
    if rule.exclusive:
        scores: Floats = torch.log_softmax(_tensor(logits), dim=1).numpy()
        return scores
    return np.asarray(logits)[:, :1]


def _decided_as(decided: NDArray[np.int64], rule: DecisionRule) -> list[tuple[str, NDArray[np.bool_]]]:
    names = {0: "negative", 1: "positive"}
    return [(f"class_{k}" if rule.exclusive else names[k], decided == k) for k in np.unique(decided).tolist()]
