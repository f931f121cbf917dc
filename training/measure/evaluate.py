"""Every figure of a bundle on held-out patients: classification, generated images, where maps point, and controls.

`python -m training evaluate --bundle DIR --data nih:DIR --json FILE`. The maps are those that are delivered: made and
smoothed as the bundle says. Figures are given for all images and per view, because the view is a confounder;
localisation stands beside controls that see no image, faithfulness beside a random tenth, transfer beside random
changes and real opacities.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.quality.localisation import location_prior
from training import datasets
from training.datasets import loading, masks
from training.datasets.samples import Sample
from training.errors import TrainingError
from training.measure import decisions, localisation, stability
from training.measure.classification import classification
from training.measure.estimates import DRAWS
from training.measure.localisation import Boxed
from training.runs.second_classifier import open_second
from training.splits import TEST_FOLDS, VALIDATION_FOLDS

Figures = dict[str, Any]
Say = Callable[[str], None]


def evaluate(
    bundle: Path,
    data: str,
    *,
    folds: frozenset[int] = TEST_FOLDS,
    second: Path | None = None,
    optimum: bool = False,
    draws: int = DRAWS,
    say: Say = lambda _: None,
) -> Figures:
    """All figures of `bundle` on the patients of `data` in `folds`.

    Args:
        bundle: its folder; maps are delivered as it says.
        data: a reader and folder.
        folds: of the patients that are looked at.
        second: a classifier of `python -m training second`, or a bundle, to carry changes over to.
        optimum: whether the best change an image is sought for the localisation, forty passes an image.
        draws: resamples of the patients for each interval.
        say: told what is being measured.

    Raises:
        BundleError: a bundle cannot be read.
        DatasetError: the data cannot be read.
        TrainingError: no patient of the folds, or no second classifier.
    """
    explainer = open_bundle(bundle)
    everyone = datasets.read(data)
    samples = [sample for sample in everyone if sample.fold in folds]
    if not samples:
        raise TrainingError(f"--data {data}: no image of a patient in folds {sorted(folds)}")
    other = None if second is None else open_second(second)
    training = [s for s in everyone if s.boxes and s.fold not in TEST_FOLDS | VALIDATION_FOLDS | folds]
    images = loading.load_inputs(samples, explainer.bundle.input_spec)
    patients = np.array([sample.patient_id for sample in samples])
    views = decisions.views_of([sample.view for sample in samples])
    threshold = explainer.bundle.threshold
    say(f"decisions and generated images of {len(samples)} images")
    found = decisions.scores(explainer, images, other, _opacities(training, explainer) if training and other else None)
    figures: Figures = {
        "bundle": _described(explainer),
        "data": {"folds": sorted(folds), "images": len(samples), "patients": len(set(patients.tolist()))},
        "classification": {v: classification(samples, found["f_x"], use, draws) for v, use in views.items()},
        "counterfactuals": {
            v: decisions.counterfactuals(found, threshold, patients, use, draws) for v, use in views.items()
        },
        "faithfulness": decisions.faithfulness(found, threshold, patients, draws),
    }
    if other is not None:
        figures["transfer"] = {"second": other.name} | decisions.transfer(found, threshold, patients, draws)
    say("stability")
    figures["stability"] = stability.stability(explainer, images, patients, draws)
    boxed = [index for index, sample in enumerate(samples) if sample.boxes]
    if training and boxed:
        say(f"maps of {len(boxed)} images with boxes")
        marked = boxed_images([samples[i] for i in boxed], images[boxed], training)
        rows = localisation.scored(localisation.maps_of(explainer, marked.images, optimum=optimum), marked)
        called = found["f_x"][boxed] >= threshold
        figures["localisation"] = localisation.localisation(rows, marked, called, len(training), draws)
    return figures


def _opacities(samples: Sequence[Sample], explainer: BundleExplainer) -> decisions.Opacities:
    spec = explainer.bundle.input_spec
    found = [torch.from_numpy(masks.box_mask(sample, spec.size)) for sample in samples]
    return decisions.Opacities(loading.load_inputs(samples, spec), torch.stack(found)[:, None])


def boxed_images(samples: Sequence[Sample], images: Tensor, training: Sequence[Sample]) -> Boxed:
    """Images with boxes, and the prior of the training images' boxes.

    Args:
        samples: with boxes.
        images: theirs, uint8, shape (N, 1, S, S).
        training: others with boxes, at least one.
    """
    size = images.shape[-1]
    return Boxed(
        images=images,
        truths=[masks.box_mask(sample, size) for sample in samples],
        patients=np.array([sample.patient_id for sample in samples]),
        views=[sample.view for sample in samples],
        boxes=[len(sample.boxes) for sample in samples],
        prior=location_prior([masks.box_mask(sample, size) for sample in training]),
    )


def _described(explainer: BundleExplainer) -> Figures:
    identity = explainer.identity
    return {
        "name": identity.name,
        "version": identity.version,
        "digest": identity.digest,
        "augmentations": explainer.augmentations,
        "blur": explainer.bundle.heatmaps[explainer.method].blur,
    }
