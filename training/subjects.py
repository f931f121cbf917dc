"""Where a classifier that DiffEx explains comes from: a bundle, a file of any TorchScript or ONNX, or a training."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from explain_core.bundles.bundle import load as load_bundle
from explain_core.classifiers.onnx import OnnxClassifier
from explain_core.classifiers.torchscript import TorchScriptClassifier
from explain_core.diffex.subject import Subject
from explain_core.engine import for_inference
from explain_core.geometry import AffineRange
from explain_core.second import Second
from training.cohort import TRAIN, VALIDATION, Cohort
from training.errors import TrainingError
from training.runs import image_classifier, second_classifier, temperature
from training.runs.image_classifier import ImageClassifierSettings, predict

OWN = ImageClassifierSettings(
    architecture="resnet20",
    epochs=12,
    noise=0.05,
    affine=AffineRange(degrees=0, height_shift=0.02, width_shift=0.02, zoom=0),
)
"""Of a classifier of drawn images: they are moved hardly, for their factors are places and sizes."""
OTHER = {"resnet20": "efficientnet_lite0"}
"""The oracle's architecture where it is not ResNet-20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What must be known of a classifier that is one file.

    Attributes:
        path: of a TorchScript (.pt) or ONNX (.onnx) file.
        outputs: names of its outputs.
        size: rows and columns of its input in pixels.
        exclusive, low, high, channels: see `Subject`.
    """

    path: Path
    outputs: tuple[str, ...]
    size: int
    exclusive: bool = False
    low: float = 0.0
    high: float = 1.0
    channels: int = 1


def of_file(given: File) -> Subject:
    """A classifier of a file, run without gradients.

    Raises:
        TrainingError: the file is of another kind, or what is said of it is wrong.
        BundleError: it cannot be read, or does not take such images.
    """
    kinds = {".onnx": OnnxClassifier, ".pt": TorchScriptClassifier}
    if given.path.suffix not in kinds:
        raise TrainingError(f"{given.path}: a classifier is a bundle, a TorchScript file (.pt) or an ONNX file (.onnx)")
    if not given.path.is_file():
        raise TrainingError(f"{given.path}: there is no such file")
    if not given.outputs:
        raise TrainingError(f"{given.path}: name what its outputs stand for: --outputs NAME NAME ...")
    network = kinds[given.path.suffix](given.path, len(given.outputs), given.size, given.channels)
    names = ("outputs", "size", "exclusive", "low", "high", "channels")
    try:
        return Subject(classifier=network, **{name: getattr(given, name) for name in names})
    except ValueError as error:
        raise TrainingError(f"{given.path}: {error}") from error


def of_bundle(folder: Path, device: torch.device) -> tuple[Subject, str]:
    """A bundle's classifier with its temperature and threshold, and its architecture.

    Raises:
        BundleError: the bundle cannot be read.
    """
    bundle = load_bundle(folder)
    classifier = bundle.tempered()
    ready = for_inference(classifier, device) if isinstance(classifier, nn.Module) else classifier
    table = bundle.description["classifier"]
    names = tuple(table["outputs"])
    subject = Subject(
        classifier=ready,
        outputs=(bundle.label, *names[1:]),
        size=bundle.input_spec.size,
        threshold=bundle.threshold,
    )
    return subject, table["architecture"]


def own(training: Cohort, validation: Cohort, out: Path, *, seed: int, device: torch.device) -> Subject:
    """A ResNet-20 trained on labelled images, its threshold from validation images."""
    out.mkdir(parents=True, exist_ok=True)
    settings = replace(OWN, seed=seed, device=str(device))
    network = image_classifier.train(settings, training, validation, out)
    ready = for_inference(network, device)
    if training.exclusive:
        return Subject(classifier=ready, outputs=training.classes, size=training.size, exclusive=True)
    chances = torch.sigmoid(predict(ready, validation.images)[:, 0]).numpy()
    threshold = temperature.youden(chances, validation.targets)
    return Subject(classifier=ready, outputs=(training.classes[1],), size=training.size, threshold=threshold)


def oracle(
    training: Cohort, validation: Cohort, out: Path, *, architecture: str, seed: int, device: torch.device
) -> Second:
    """A classifier of another architecture than `architecture`, from other images, with a threshold of its own."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = OTHER.get(architecture, "resnet20")
    settings = replace(second_classifier.SETTINGS, architecture=chosen, seed=seed, epochs=12, device=str(device))
    if len(training.factors[0]):
        settings = replace(settings, epochs=8, batch=32, average_decay=0.9, affine=OWN.affine)
    network = image_classifier.train(settings, training, validation, out)
    ready = for_inference(network, device)
    chances = torch.sigmoid(predict(ready, validation.images)[:, 0]).numpy()
    return Second(chosen, ready, temperature.youden(chances, validation.targets), training.size, device)


def splits_needed(images: Cohort) -> None:
    """Refuse data without training, validation and test images.

    Raises:
        TrainingError: which are missing.
    """
    for split in (TRAIN, VALIDATION, "test"):
        if split not in images.splits:
            raise TrainingError(f"there is no image for {split}; split the images in a table, or give more of them")
