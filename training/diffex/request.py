"""What is asked of a run of DiffEx, and what it works on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explain_core.bundles.files import CLASSIFIERS, digest_of
from explain_core.diffex.subject import Subject
from explain_core.engine import choose_device
from explain_core.geometry import InputSpec
from explain_core.second import Second
from training import checkpoints, cohort, datasets, subjects
from training.cohort import TEST, TRAIN, VALIDATION, Cohort
from training.datasets.samples import Factor, Redraw
from training.errors import TrainingError
from training.measure.factors import Meter, meter
from training.mediffusion import halves
from training.runs.diffex.settings import PRESETS, DiffexSettings
from training.runs.spaces import needs_weights

DATA: Mapping[str, str] = {"phantom": "thorax", "cells": "cells"}
"""Of presets that bring their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a run.

    Attributes:
        data: a reader and folder.
        out: folder of the run; the same request again goes on from there.
        settings: of the training.
        classifier: a bundle's folder, or a file with what must be known of it; None trains one on the labels.
        gate: whether a model whose code is not used stops the run; False goes on, for the control that shows it.
    """

    data: str
    out: Path
    settings: DiffexSettings
    classifier: Path | subjects.File | None = None
    gate: bool = True


def request(preset: str, data: str, out: Path, *, weights: str = "", seed: int = 0, **more: Any) -> Request:
    """A request by the name of a preset; `more` are settings instead of the preset's, None for those that stay.

    Raises:
        TrainingError: no such preset, no data, or no weights where they are needed.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there is: {', '.join(PRESETS)}")
    found = data or DATA.get(preset, "")
    if not found:
        raise TrainingError(f"the preset {preset} brings no data: name them with --data READER:FOLDER")
    changes = {name: value for name, value in more.items() if value is not None}
    settings = replace(PRESETS[preset], weights=weights, seed=seed, **changes)
    if needs_weights(settings.space) and not weights:
        raise TrainingError(f"the preset {preset} works in the latents of an autoencoder: name its --weights")
    return Request(data=found, out=out, settings=settings)


@dataclass(frozen=True, slots=True)
class Explained:
    """The classifier that is explained.

    Attributes:
        subject: the classifier.
        architecture: its name, "" where nobody knows.
        digest: SHA-256 of its file or its weights.
    """

    subject: Subject
    architecture: str
    digest: str


@dataclass(frozen=True, slots=True)
class Materials:
    """What a run works on, made from the data once.

    Attributes:
        own: training images of the autoencoder.
        validation: images that directions are ranked on.
        test: images that choose nothing.
        subject: the classifier.
        oracle: another one; None where there is none.
        reader: of the factors of drawn images; None where they are not drawn.
        explains: SHA-256 of the classifier.
        redraw: see `Dataset`.
    """

    own: Cohort
    validation: Cohort
    test: Cohort
    subject: Subject
    oracle: Second | None
    reader: Meter | None
    explains: str
    redraw: Redraw | None = None


def materials(asked: Request) -> Materials:
    """Read the data, and make or open the classifiers.

    Raises:
        DatasetError, TrainingError, BundleError: they cannot be used.
    """
    if asked.settings.threads:
        torch.set_num_threads(asked.settings.threads)
    dataset = datasets.read(asked.data)
    images, _ = cohort.load(dataset, InputSpec(size=asked.settings.size))
    asked.out.mkdir(parents=True, exist_ok=True)
    given = asked.classifier
    explained = None
    if isinstance(given, subjects.File):
        explained = Explained(subjects.of_file(given), "", digest_of(given.path))
    elif given is not None:
        explained = of_bundle(given, asked.settings)
    return replace(prepared(asked, images, explained, dataset.factors), redraw=dataset.redraw)


def of_bundle(folder: Path, settings: DiffexSettings) -> Explained:
    """A bundle's classifier.

    Raises:
        BundleError: it cannot be read.
    """
    subject, architecture = subjects.of_bundle(folder, choose_device(settings.device))
    explains = next(digest_of(folder / name) for name in CLASSIFIERS if (folder / name).is_file())
    return Explained(subject, architecture, explains)


def prepared(
    asked: Request, images: Cohort, explained: Explained | None, factors: tuple[Factor, ...] = ()
) -> Materials:
    """Part the images, and train what judges.

    Args:
        asked: the run; its folder is there.
        images: of all three splits, on the grid of the autoencoder.
        explained: the classifier; None trains one on the labels.
        factors: by which the images were drawn.

    Raises:
        TrainingError: a split is empty, or there are no labels where they are needed.
    """
    settings, out = asked.settings, asked.out
    device = choose_device(settings.device)
    subjects.splits_needed(images)
    if explained is not None:
        check(settings, explained.subject)
    own, others = halves(images.part(TRAIN))
    validation, test = images.part(VALIDATION), images.part(TEST)
    labelled = [part.labelled() for part in (own, others, validation)]
    can_learn = all(len(np.unique(part.targets)) > 1 for part in labelled)
    if explained is None:
        if not can_learn:
            raise TrainingError(f"--data {asked.data} has no labels of two classes: name a --classifier to explain")
        made = subjects.own(labelled[0], labelled[2], out / "classifier", seed=settings.seed, device=device)
        explained = Explained(made, subjects.OWN.architecture, checkpoints.fingerprint(made.classifier))
    judge = None
    if can_learn and not images.exclusive and not explained.subject.exclusive:
        judge = subjects.oracle(
            labelled[1], labelled[2], out / "oracle",
            architecture=explained.architecture, seed=settings.seed + 100, device=device,
        )  # fmt: skip
    reader = meter(others, validation, factors, out, seed=settings.seed) if factors else None
    return Materials(own, validation, test, explained.subject, judge, reader, explained.digest)


def check(settings: DiffexSettings, subject: Subject) -> None:
    """Refuse settings that the classifier cannot serve, before anything is trained.

    Raises:
        TrainingError: it gives no gradients and they are asked for, or there is nothing to choose attributes of.
    """
    places = settings.parts and settings.apart_by == "place"
    needs = settings.pull or places or settings.effect or settings.features == "classifier"
    if needs and not subject.differentiable:
        raise TrainingError(
            "the classifier gives no gradients (ONNX, TorchScript): attributes can be ranked, but it cannot pull the "
            "autoencoder, nor tell parts apart by place; say --pull 0 --apart-by independence"
        )
    if settings.candidates == "parts" and not settings.parts:
        raise TrainingError(
            "attributes are chosen of the parts of the evidence, and there are none: --candidates learnt"
        )
