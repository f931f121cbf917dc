"""How two models' answers to the same images differ, from the rows that `explain.record` writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicom_node.models.drift import wilson
from dicom_node.storage.ledger.observations import Observation, ShadowFailure, unpack

TOP_SHARE: Final = 0.1
"""Part of a coarse heatmap that counts as its top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One image that two models decide differently."""

    study_instance_uid: str
    sop_instance_uid: str
    champion: float
    challenger: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two models' answers to the same images.

    Attributes:
        images, studies: that both answered.
        waiting: images that the challenger has not come to yet.
        agree, share, low, high: decisions that are the same: count, share and 95 % interval (Wilson).
        kappa: Cohen's, the agreement beyond chance; None where both always say the same.
        mean_difference, signed_difference, largest_difference: of the probabilities, challenger - champion, without
            its sign and with it.
        disagreements: the images decided differently, the largest difference first.
        heatmaps: images decided alike by both of which both have a map that is not empty.
        correlation: Pearson's, of coarse maps: quartiles.
        overlap: intersection over union of the maps' top tenths: quartiles.
        seconds: median per image, champion and challenger.
        failures: studies that the challenger could not answer.
    """

    images: int
    studies: int
    waiting: int
    agree: int
    share: float | None
    low: float | None
    high: float | None
    kappa: float | None
    mean_difference: float | None
    signed_difference: float | None
    largest_difference: float | None
    disagreements: tuple[Disagreement, ...]
    heatmaps: int
    correlation: tuple[float, float, float] | None
    overlap: tuple[float, float, float] | None
    seconds: tuple[float, float] | None
    failures: tuple[ShadowFailure, ...]


def agreement(
    champion: Sequence[Observation], challenger: Sequence[Observation], failures: Sequence[ShadowFailure] = ()
) -> Agreement:
    """Compare two models' answers, each image once.

    Args:
        champion: what the one said.
        challenger: what the other said; images that only one of them has count as waiting or not at all.
        failures: studies that the challenger could not answer.

    Raises:
        ConfigError: SciPy is missing.
    """
    others = {one.sop_instance_uid: one for one in challenger}
    pairs = [(one, others[one.sop_instance_uid]) for one in champion if one.sop_instance_uid in others]
    failed = {one.task_id for one in failures}
    waiting = [one for one in champion if one.sop_instance_uid not in others and one.task_id not in failed]
    differences = np.array([two.probability - one.probability for one, two in pairs])
    agree = sum(one.positive == two.positive for one, two in pairs)
    low, high = wilson(agree, len(pairs)) if pairs else (None, None)
    correlations, overlaps = _maps(pairs)
    return Agreement(
        images=len(pairs),
        studies=len({one.study_instance_uid for one, _ in pairs}),
        waiting=len(waiting),
        agree=agree,
        share=agree / len(pairs) if pairs else None,
        low=low,
        high=high,
        kappa=_kappa(pairs),
        mean_difference=float(np.abs(differences).mean()) if pairs else None,
        signed_difference=float(differences.mean()) if pairs else None,
        largest_difference=float(np.abs(differences).max()) if pairs else None,
        disagreements=_disagreements(pairs),
        heatmaps=len(overlaps),
        correlation=_quartiles(correlations),
        overlap=_quartiles(overlaps),
        seconds=_seconds(pairs),
        failures=tuple(failures),
    )


_Pairs = Sequence[tuple[Observation, Observation]]


def _kappa(pairs: _Pairs) -> float | None:
    """Cohen 1960, doi:10.1177/001316446002000104."""
    decisions = np.array([(one.positive, two.positive) for one, two in pairs], np.float64).reshape(-1, 2)
    if not len(decisions):
        return None
    first, second = decisions.mean(axis=0)
    chance = first * second + (1 - first) * (1 - second)
    return None if chance == 1 else float(((decisions[:, 0] == decisions[:, 1]).mean() - chance) / (1 - chance))


def _disagreements(pairs: _Pairs) -> tuple[Disagreement, ...]:
    found = [
        Disagreement(
            study_instance_uid=one.study_instance_uid,
            sop_instance_uid=one.sop_instance_uid,
            champion=one.probability,
            challenger=two.probability,
        )
        for one, two in pairs
        if one.positive != two.positive
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.challenger - one.champion)))


def _maps(pairs: _Pairs) -> tuple[list[float], list[float]]:
    """Correlations and overlaps of the coarse maps, where both models explain the same decision."""
    correlations, overlaps = [], []
    for one, two in pairs:
        if one.positive != two.positive or one.heatmap is None or two.heatmap is None:
            continue
        first, second = unpack(one.heatmap).ravel(), unpack(two.heatmap).ravel()
        if first.shape != second.shape or not first.any() or not second.any():
            continue
        count = max(1, round(TOP_SHARE * first.size))
        tops = [set(np.argsort(-cells, kind="stable")[:count].tolist()) for cells in (first, second)]
        overlaps.append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
        if first.std() > 0 and second.std() > 0:
            correlations.append(float(np.corrcoef(first, second)[0, 1]))
    return correlations, overlaps


def _quartiles(found: Sequence[float]) -> tuple[float, float, float] | None:
    if not found:
        return None
    low, middle, high = (float(value) for value in np.quantile(found, (0.25, 0.5, 0.75)))
    return low, middle, high


def _seconds(pairs: _Pairs) -> tuple[float, float] | None:
    if not pairs:
        return None
    first, second = (float(np.median([pair[side].seconds for pair in pairs])) for side in (0, 1))
    return first, second
