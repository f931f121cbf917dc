"""Equations (6) to (10) of arXiv:2012.07332, each a pure function of tensors; images are in [0, 1]."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from explain_core.classifier import DecisionRule


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Every weight of L = L_sim + L_cls + L_g + L_reg; the defaults are Table I's row Single_2 (W,TV).

    Attributes:
        similar: D(x, x_s) in equation (6).
        adversarial: D(x, x_a) in equation (6).
        between: D(x_s, x_a) in equation (6).
        squared: the squared part of D beside its absolute part.
        decision_similar: BCE(f(x_s), y(x)) in equation (7), or the margin of x_s in equation (10).
        decision_adversarial: BCE(f(x_a), 1 - y(x)) in equation (7), or the margin of x_a in equation (10).
        margin: kappa of equation (10), in logits; not used by equation (7).
        generators: squared distance of the paired parameters, equation (8).
        total_variation: total variation of x_s - x_a, equation (9).
    """

    similar: float = 3.0
    adversarial: float = 1.0
    between: float = 0.2
    squared: float = 1.0
    decision_similar: float = 0.001
    decision_adversarial: float = 0.001
    margin: float = 1.0
    generators: float = 0.2
    total_variation: float = 0.2


def distance(u: Tensor, v: Tensor, squared: float = 1.0) -> Tensor:
    """D(u, v) = mean|u - v| + squared * mean (u - v)^2, equation (6)."""
    difference = u - v
    return difference.abs().mean() + squared * difference.square().mean()


def similarity(x: Tensor, x_s: Tensor, x_a: Tensor, weights: LossWeights) -> Tensor:
    """L_sim, equation (6): the three weighted distances."""
    return (
        weights.similar * distance(x, x_s, weights.squared)
        + weights.adversarial * distance(x, x_a, weights.squared)
        + weights.between * distance(x_s, x_a, weights.squared)
    )


def decision(logit_s: Tensor, logit_a: Tensor, y: Tensor, weights: LossWeights) -> Tensor:
    """L_cls, equation (7): binary cross-entropies of the logits f(x_s) with y and f(x_a) with 1 - y.

    Args:
        logit_s: classifier logits of the first M images' x_s, shape (M,), M <= N.
        logit_a: classifier logits of x_a, shape (N,).
        y: the classifier's own decision about x, 0 or 1, shape (N,).
        weights: decision_similar and decision_adversarial are used.
    """
    keep = functional.binary_cross_entropy_with_logits(logit_s, y[: len(logit_s)])
    change = functional.binary_cross_entropy_with_logits(logit_a, 1 - y)
    return weights.decision_similar * keep + weights.decision_adversarial * change


def exclusive_decision(logits_s: Tensor, logits_a: Tensor, c: Tensor, weights: LossWeights) -> Tensor:
    """L_cls of exclusive classes, equation (10): Carlini and Wagner's margins, keep c and leave c.

    Args:
        logits_s: classifier logits of the first M images' x_s, shape (M, outputs), at least two outputs, M <= N.
        logits_a: classifier logits of x_a, shape (N, outputs).
        c: the classifier's own class of x, its argmax, shape (N,).
        weights: decision_similar, decision_adversarial and margin are used.
    """
    margin = DecisionRule(exclusive=True).margin
    keep = (-margin(logits_s, c[: len(logits_s)])).clamp(min=-weights.margin).mean()
    change = margin(logits_a, c).clamp(min=-weights.margin).mean()
    return weights.decision_similar * keep + weights.decision_adversarial * change


def generator_distance(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """L_g without its weight, equation (8): the sum of squares over paired parameters; 0 without pairs."""
    return sum(((a - b).square().sum() for a, b in pairs), torch.zeros(()))


def total_variation(difference: Tensor) -> Tensor:
    """L_reg without its weight, equation (9): anisotropic, mean over pixels, of x_s - x_a, shape (N, 1, S, S)."""
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
