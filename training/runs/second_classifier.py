"""A second classifier of another backbone, to see whether changes carry over: `python -m training second`.

    python -m training second --data nih:DIR --parts rsna_lungs:DIR --out DIR

On the training patients alone, with noise. One of the bundle's own quality decides by maps on EfficientNet-Lite2, from
that network's ImageNet weights; ResNet-20 starts from nothing and has no map: it shares the patients with the one that
is explained, and neither its start nor its design. The threshold is Youden's on the validation patients. Test patients
are never opened. A model bundle may stand in its place.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from explain_core.bundles.bundle import load as load_bundle
from explain_core.engine import choose_device, for_inference
from explain_core.files import write
from explain_core.geometry import AffineRange, InputSpec
from explain_core.second import Second
from training import cohort, datasets
from training.cohort import TRAIN, VALIDATION
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs import evidence_classifier, image_classifier, temperature
from training.runs.evidence_classifier import EvidenceSettings
from training.runs.evidence_targets import lessons_of, usable_parts
from training.runs.image_classifier import ImageClassifierSettings, predict
from training.runs.weights import imagenet_weights

FILE = "second.json"
SETTINGS = ImageClassifierSettings(
    seed=1,
    architecture="resnet20",
    epochs=24,
    batch=16,
    noise=0.1,
    average_decay=0.98,
    affine=AffineRange(degrees=12, height_shift=0.06, width_shift=0.06, zoom=0.15),
)
"""Ten minutes on two cores with the thousand images of the NIH subset."""
MAPS = EvidenceSettings(seed=1, architecture="evidence_lite2", noise_epochs=4)
SIZE, SIZE_OF_MAPS = 112, 224


def open_second(folder: Path, device: str = "auto") -> Second:
    """What `train` left in a folder, or a model bundle.

    Raises:
        TrainingError: the folder holds neither.
        BundleError: the bundle cannot be read.
    """
    where = choose_device(device)
    if (folder / "bundle.toml").is_file():
        bundle = load_bundle(folder)
        name = f"{bundle.identity.name} {bundle.identity.version}"
        return Second(name, bundle.tempered(), bundle.threshold, bundle.input_spec.size).on(where)
    if not (folder / FILE).is_file() or not (folder / "classifier.pt").is_file():
        raise TrainingError(f"{folder}: no bundle, and no {FILE} and classifier.pt of `python -m training second`")
    made = json.loads((folder / FILE).read_text())
    network = image_classifier.trained(folder, made["architecture"], made["outputs"])
    return Second(made["architecture"], network, made["threshold"], made["size"]).on(where)


def train(
    data: str,
    out: Path,
    *,
    settings: ImageClassifierSettings | EvidenceSettings = MAPS,
    parts: str = "",
    size: int | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Train on the training patients of `data` and find the threshold on its validation patients.

    Args:
        data: a reader and folder, with labelled patients in both splits.
        out: for the run; the same call again goes on from there.
        settings: of the run, of one kind or the other.
        parts: images of which only a part is visible, as for a bundle, or ""; only maps learn from them.
        size: rows and columns of its input in pixels; None: 224 of one that decides by maps, 112 of another.
        progress: told after every step.

    Returns:
        the content of second.json: architecture, size, threshold, and the figures on the validation patients.

    Raises:
        DatasetError, TrainingError: the data cannot be used, or the folder is another run's.
    """
    dataset = datasets.read(data)
    if dataset.exclusive:
        raise TrainingError(f"--data {data}: a second classifier decides about one finding")
    maps = isinstance(settings, EvidenceSettings)
    if parts and not maps:
        raise TrainingError(f"--parts {parts}: {settings.architecture} learns from whole images alone")
    spec = InputSpec(size=size or (SIZE_OF_MAPS if maps else SIZE))
    labelled = tuple(one for one in dataset if one.split in {TRAIN, VALIDATION} and one.target is not None)
    images, problems = cohort.load(replace(dataset, samples=labelled), spec)
    training, validation = images.part(TRAIN), images.part(VALIDATION)
    if not len(training) or not len(validation):
        raise TrainingError(f"--data {data}: a second classifier needs labelled patients for {TRAIN} and {VALIDATION}")
    out.mkdir(parents=True, exist_ok=True)
    network: nn.Module
    if isinstance(settings, EvidenceSettings):
        lessons = lessons_of(dataset, usable_parts(parts, dataset) if parts else [], spec)
        network = evidence_classifier.train(settings, *lessons, out, imagenet_weights(settings.architecture), progress)
    else:
        network = image_classifier.train(settings, training, validation, out, progress=progress)
    logits = predict(for_inference(network, choose_device(settings.device)), validation.images)
    probabilities = torch.sigmoid(logits[:, 0]).numpy()
    threshold = temperature.youden(probabilities, validation.targets)
    called, positive = probabilities >= threshold, validation.targets == 1
    made = {
        "architecture": settings.architecture,
        "outputs": len(logits[0]),
        "size": spec.size,
        "threshold": threshold,
        "data": data.partition(":")[0],
        "training_images": len(training),
        "validation_images": len(validation),
        "problems": len(problems),
        "validation_auc": image_classifier.auc(cast("Any", validation.targets), logits[:, :1]),
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called)[~positive].mean()),
    }
    write(out / FILE, json.dumps(made, indent=1) + "\n")
    return made
