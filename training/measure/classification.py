"""How well the classifier tells images with the finding from others, by who said what they show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain_core.quality.resampling import roc_auc_within
from training.datasets.samples import Sample
from training.measure.estimates import DRAWS, Use, estimate

Figures = dict[str, Any]
EXPERT, OTHER = "expert", "expert_other"
"""`target_source` of what radiologists called opacity or normal, and of what they called another abnormality."""
GROUPS: Mapping[str, str] = {
    "all_labelled": "all labelled",
    "expert": "expert labels",
    "opacity_against_other": "expert's opacity against other abnormal",
}


def classification(
    samples: Sequence[Sample],
    scores: NDArray[np.floating],
    use: Use | None = None,
    draws: int = DRAWS,
    judges: NDArray[Any] | None = None,
) -> Figures:
    """ROC AUC of `scores`, shape (N,), among the images in `use`, for each of `GROUPS`.

    Args:
        samples: the images.
        scores: the classifier's, shape (N,).
        use: of these images, shape (N,); None is all.
        draws: of the intervals.
        judges: which of several classifiers scored each image, shape (N,): only its own scores are held against
            each other.

    Returns:
        by group "images", "positive" and, where both classes are there, "auc" with its interval.
    """
    patients = np.array([sample.patient_id for sample in samples])
    opacity = np.array([sample.target == 1 for sample in samples])
    known = np.array([sample.target is not None for sample in samples])
    expert = np.array([sample.target_source == EXPERT for sample in samples])
    other = np.array([sample.target is None and sample.target_source == OTHER for sample in samples])
    wanted = {
        "all_labelled": known,
        "expert": known & expert,
        "opacity_against_other": (known & expert & opacity) | other,
    }
    chosen = {name: one if use is None else one & use for name, one in wanted.items()}
    by = np.zeros(len(samples), dtype=np.intp) if judges is None else judges
    return {name: _auc([opacity[one], scores[one], by[one]], patients[one], draws) for name, one in chosen.items()}


def _auc(arrays: Sequence[NDArray[Any]], patients: NDArray[Any], draws: int) -> Figures:
    labels = arrays[0]
    figures: Figures = {"images": len(labels), "positive": int(labels.sum())}
    if labels.any() and not labels.all():
        figures["auc"] = estimate(roc_auc_within, arrays, patients, draws)
    return figures
