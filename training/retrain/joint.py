"""What the stages of a job of kind "mediffusion" do: a joint diffusion model, and a second classifier that judges it.

All training images teach the denoiser, labelled or not. The labels of a part of the patients (`second_share`) are kept
from the model and teach the second classifier alone, which goes into the bundle: what it says of a counterfactual
stands in every report.
"""

from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import torch

from explain_core.classifiers.mediffusion import Mediffusion
from explain_core.diffusion.files import load_model
from explain_core.diffusion.joint_unet import JointConfig
from explain_core.diffusion.model import JointDiffusion
from explain_core.engine import choose_device, for_inference
from explain_core.files import read_json, write_json
from explain_core.second import Second
from training import checkpoints
from training.cohort import TRAIN, VALIDATION
from training.errors import TrainingError
from training.retrain.material import champion_folder, champion_table, cohort
from training.retrain.stage import Context
from training.runs import image_classifier, second_classifier, temperature
from training.runs.mediffusion.run import train
from training.runs.mediffusion.settings import PRESETS, MediffusionSettings, build
from training.runs.spaces import Space, needs_weights
from training.splits import draw

KIND, ARCHITECTURE = "mediffusion", "mediffusion"
MODEL = "model.safetensors"
_SHAPE = tuple(field.name for field in fields(JointConfig) if hasattr(PRESETS["tiny"], field.name))


def settings(context: Context) -> MediffusionSettings:
    """The settings of the model's run, on the champion's grid.

    Raises:
        TrainingError: a start from a champion that is no joint diffusion model, a grid that the preset cannot have, or
            a space whose weights are not named or cannot be read.
    """
    job, size = context.job.mediffusion, int(champion_table(context)["input"]["size"])
    named = job.model_dump(include={"steps", "batch", "unlabelled", "checkpoint_every", "report_every"})
    asked = replace(
        PRESETS[job.preset],
        size=size,
        weights=job.weights,
        seed=context.job.job.seed,
        device=context.job.resources.device,
        **{name: value for name, value in named.items() if value is not None},
    )
    if job.start == "champion":
        own = initial(context)
        shape = {name: getattr(own.network.config, name) for name in _SHAPE if name != "size"}
        return replace(asked, space=cast("Space", own.space.name), **shape)
    if needs_weights(asked.space) and not job.weights:
        raise TrainingError(
            f"[mediffusion] weights: the preset {job.preset} works in the latents of an autoencoder; name its weights"
        )
    build(asked, 1)
    return asked


def initial(context: Context) -> JointDiffusion:
    """The champion's model.

    Raises:
        TrainingError: it is none of this kind.
    """
    own = champion_table(context)["classifier"]["architecture"]
    if own != ARCHITECTURE:
        raise TrainingError(f'[mediffusion] start: the champion is a {own}; set start = "random"')
    return load_model(champion_folder(context) / Mediffusion.file_name)


def check(context: Context, targets: Any) -> None:
    """Refuse what cannot come to a good end.

    Args:
        context: of the job.
        targets: by patient and image of the training split: pairs of a patient's name and "0", "1" or "".

    Raises:
        TrainingError: see `settings`; or too few labels for the model or for the second classifier.
    """
    settings(context)
    share = context.job.mediffusion.second_share
    for name, own in (("the second classifier", True), ("the model", False)):
        known = [target for patient, target in targets if target and (_second(patient, share) is own)]
        if (share or not own) and len(set(known)) < 2:  # noqa: PLR2004 - presence and absence
            raise TrainingError(
                f"{len(known)} labelled training images for {name}, not of both classes; label more, or change "
                "[mediffusion] second_share"
            )


def _second(patient: str, share: float) -> bool:
    """Whether a patient's labels teach the second classifier."""
    return draw(f"second {patient}") < share


def train_model(context: Context) -> dict[str, Any]:
    """Train the model on all training images.

    Raises:
        TrainingError: the run cannot go on.
    """
    out, images = context.folder.stage("classifier"), cohort(context, TRAIN)
    share = context.job.mediffusion.second_share
    held = np.array([_second(patient, share) for patient in images.patients])
    targets = np.where((images.targets >= 0) & ~held, images.targets, np.nan).astype(np.float32)[:, None]
    start = initial(context) if context.job.mediffusion.start == "champion" else None
    model = train(settings(context), images.images, torch.from_numpy(targets), out, context.progress, start)
    write_json(out / "classifier.json", {"history": read_json(out / "model.json")["history"]})
    weights = checkpoints.fingerprint_of(model.state_dict())
    return {"weights": weights, "labelled": int(np.isfinite(targets).sum()), "images": len(images)}


def trained_model(context: Context) -> Mediffusion:
    """The model of the job as a classifier, in eval mode."""
    size = read_json(context.folder.stage("collect") / "manifest.json")["size"]
    return Mediffusion(context.folder.stage("classifier") / MODEL, 1, size).eval()


def train_second(context: Context) -> dict[str, Any]:
    """Train the second classifier, of another backbone and seed, on the labels that the model never had.

    Raises:
        TrainingError: the run cannot go on.
    """
    job = context.job.mediffusion
    if not job.second_share:
        return {}
    out, training = context.folder.stage("generators"), cohort(context, TRAIN).labelled()
    own = np.flatnonzero([_second(patient, job.second_share) for patient in training.patients])
    training = training.take(own)
    validation = cohort(context, VALIDATION).labelled()
    asked = replace(
        second_classifier.SETTINGS,
        seed=context.job.job.seed + 1,
        epochs=job.second_epochs,
        batch=min(second_classifier.SETTINGS.batch, len(training)),
        device=context.job.resources.device,
    )
    network = image_classifier.train(asked, training, validation, out, progress=context.progress)
    logits = image_classifier.predict(for_inference(network, choose_device(asked.device)), validation.images)
    threshold = temperature.youden(torch.sigmoid(logits[:, 0]).numpy(), validation.targets)
    weights = checkpoints.fingerprint_of(network.state_dict())
    return {"weights": weights, "threshold": threshold, "architecture": asked.architecture}


def second(context: Context) -> Second | None:
    """The second classifier of the job; None where none was asked for."""
    made = context.made("generators")
    if not made:
        return None
    network = image_classifier.trained(context.folder.stage("generators"), made["architecture"], 1)
    size = read_json(context.folder.stage("collect") / "manifest.json")["size"]
    return Second(made["architecture"], network.eval(), made["threshold"], size)
