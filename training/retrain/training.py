"""The stages that train: classifier, temperature, generators, and the bundle that is made of them."""

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explain_core import plugins
from explain_core.bundles.files import verify
from explain_core.children import bound_to_parent
from explain_core.classifier import Classifier, DecisionRule, offers, tempered
from explain_core.engine import choose_device, for_inference
from explain_core.files import read_json
from explain_core.generators.features import KIND
from explain_core.generators.kinds import Generators
from explain_core.geometry import InputSpec
from training import checkpoints, making, presets, scales
from training.cohort import TRAIN, VALIDATION
from training.errors import TrainingError
from training.retrain import joint, resources
from training.retrain.job import ON_PIXELS
from training.retrain.material import champion, champion_folder, champion_table, cohort
from training.retrain.stage import Context
from training.runs import cohort_classifier, generators, image_classifier, temperature
from training.runs.evidence_classifier import EvidenceSettings

_HINT = ', or [job] kind = "mediffusion"'


def is_joint(context: Context) -> bool:
    """Whether the job trains a joint diffusion model."""
    return context.job.job.kind == joint.KIND


def architecture(context: Context) -> str:
    """The classifier's: that of the job, else the champion's.

    Raises:
        TrainingError: it is a program without weights that could be trained, or a start from the champion is asked for
            with another architecture.
    """
    if is_joint(context):
        return joint.ARCHITECTURE
    job, own = context.job.classifier, str(champion_table(context)["classifier"]["architecture"])
    name = job.architecture or own
    try:
        plugin = plugins.load("explain_core.classifiers", name)
    except LookupError as error:
        raise TrainingError(f"[classifier] architecture: {error}") from error
    if getattr(plugin, "file_name", None) is not None:
        raise TrainingError(
            f"the champion's classifier ({name}) is a program that cannot be trained; set [classifier] architecture "
            f'and start = "random"{_HINT if name == joint.ARCHITECTURE else ""}'
        )
    if job.start == "champion" and name != own:
        raise TrainingError(
            f"[classifier] start: the champion is a {own}, so training of a {name} cannot start from it; "
            'set start = "random"'
        )
    return name


def classifier_settings(context: Context) -> image_classifier.ImageClassifierSettings:
    """The settings of the classifier's run."""
    job = context.job.classifier
    return image_classifier.ImageClassifierSettings(
        seed=context.job.job.seed,
        architecture=architecture(context),
        epochs=job.epochs,
        batch=job.batch,
        learning_rate=job.learning_rate,
        weight_decay=job.weight_decay,
        frozen_statistics=job.frozen_statistics,
        precision=job.precision,
        noise=_noise(context) if job.noise is None else job.noise,
        map_weight=job.map_weight,
        checkpoint_every=job.checkpoint_every,
        device=context.job.resources.device,
    )


def _noise(context: Context) -> float:
    """What fine-tuning of the job's classifier takes where the job does not say."""
    by_maps = offers(image_classifier.build(architecture(context), 1), "evidence")
    return EvidenceSettings().noise if by_maps else image_classifier.ImageClassifierSettings().noise


def train_classifier(context: Context) -> dict[str, Any]:
    """Train in this process, or in several that torchrun starts.

    Raises:
        TrainingError: the run cannot go on.
    """
    if is_joint(context):
        return joint.train_model(context)
    out = context.folder.stage("classifier")
    settings = classifier_settings(context)
    training, validation = (cohort(context, split).labelled() for split in (TRAIN, VALIDATION))
    initial = champion_folder(context) if context.job.classifier.start == "champion" else None
    processes = context.job.classifier.processes
    if processes == 1:
        image_classifier.train(settings, training, validation, out, initial, context.progress)
    else:
        asked = context.job.resources
        limits = cohort_classifier.Limits(
            nice=asked.nice, threads=resources.threads(asked), gpu_memory_fraction=asked.gpu_memory_fraction
        )
        cohort_classifier.write_request(out, settings, training, validation, initial, limits)
        cohort_classifier.launch(out, processes, context.progress, bound_to_parent(signal.SIGKILL))
        for name in ("training.npz", "validation.npz"):
            (out / name).unlink()
    state = torch.load(out / "classifier.pt", weights_only=True, map_location="cpu")
    return {"weights": checkpoints.fingerprint_of(state), "best": _best(out)}


def _best(out: Path) -> dict[str, Any]:
    history: list[dict[str, Any]] = read_json(out / "classifier.json").get("history", [])
    best: dict[str, Any] = max(history, key=lambda row: float(row.get("validation_auc", 0.0)), default={})
    return {name: value for name, value in best.items() if name != "images_per_second"}


def trained_classifier(context: Context) -> nn.Module:
    """The classifier of the job, in eval mode, as trained."""
    if is_joint(context):
        return joint.trained_model(context)
    return image_classifier.trained(context.folder.stage("classifier"), architecture(context), 1).eval()


def calibrate(context: Context) -> dict[str, Any]:
    """Temperature and threshold, on the labelled validation images."""
    validation = cohort(context, VALIDATION).labelled()
    logits = _logits(context, trained_classifier(context), validation.images)
    context.progress(0.5)
    own = champion(context)
    found = {"temperature": round(float(temperature.fit(logits, validation.targets)), 4), "threshold": own.threshold}
    if context.job.classifier.threshold == "matched":
        before = torch.sigmoid(_logits(context, cast("nn.Module", own.tempered()), validation.images)[:, 0])
        now = torch.sigmoid(logits[:, 0] / found["temperature"])
        negative = torch.from_numpy(validation.targets == 0)
        found["threshold"] = matched_threshold(now[negative].numpy(), before[negative].numpy(), own.threshold)
    return found


def _logits(context: Context, model: nn.Module, images: Tensor) -> Tensor:
    on_device = for_inference(model, choose_device(context.job.resources.device))
    return image_classifier.predict(on_device, images)


def matched_threshold(now: NDArray[np.floating], before: NDArray[np.floating], threshold: float) -> float:
    """The threshold at which a model calls no more negative images positive than another does at its own.

    Args:
        now: probabilities of the negative images by the new model, shape (N,).
        before: by the other, shape (N,).
        threshold: the other's.

    Returns:
        between 0.01 and 0.99: half-way between the lowest probability that is called positive and the highest that
        is not, rounded up to four decimals where these tell the two apart; the other's own threshold where it calls
        as many. Of equal probabilities all are called positive or none.
    """
    called = int((before >= threshold).sum())
    if int((now >= threshold).sum()) == called:
        return threshold
    ordered = np.sort(now.astype(np.float64))[::-1]
    below = ordered[called] if called < len(ordered) else 0.0
    above = ordered[ordered > below].min(initial=1.0)
    middle = (below + above) / 2
    rounded = math.ceil(middle * 1e4) / 1e4
    return float(np.clip(rounded if rounded <= above else middle, 0.01, 0.99))


def generator_settings(context: Context, threshold: float = 0.5) -> generators.GeneratorSettings:
    """The settings of the generators' run: the champion's architecture, or the preset's on a random start.

    Args:
        context: of the job.
        threshold: of the decision that they keep or change.

    Raises:
        TrainingError: a start from the champion with other filters.
    """
    job, own = context.job.generators, champion_table(context)["generators"]
    preset = presets.load(job.preset or _preset_of(own))
    asked: dict[str, Any] = {} if preset.kind == KIND else dict(ON_PIXELS)
    asked |= job.model_dump(include=set(ON_PIXELS), exclude_none=True)
    settings = generators.GeneratorSettings(
        seed=context.job.job.seed,
        filters=tuple(job.filters or own.get("filters", generators.GeneratorSettings().filters)),
        rule=DecisionRule(threshold=threshold),
        steps=job.steps,
        report_every=job.report_every,
        device=context.job.resources.device,
    )
    settings = generators.from_preset(settings, preset.name)
    names = {"generator_distance": "generators"}
    weights = {names.get(key, key): value for key, value in asked.items() if key in _LOSSES}
    settings = replace(
        settings,
        weights=replace(settings.weights, **weights),
        **{key: value for key, value in asked.items() if key not in _LOSSES},
    )
    if job.start == "random":
        return settings
    if (preset.kind == KIND) != (own["kind"] == KIND):
        raise TrainingError(
            f"[generators] preset: the champion's generators are of the kind {own['kind']!r}, so training of "
            f'{preset.name!r} cannot start from them; set start = "random"'
        )
    if job.filters is not None and list(job.filters) != list(own.get("filters", ())):
        raise TrainingError(
            f"[generators] filters: the champion has {own.get('filters', 'none')}, so training cannot start from it "
            f'with {list(job.filters)}; set start = "random"'
        )
    kept: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    return replace(settings, **kept)


_LOSSES = ("decision_similar", "decision_adversarial", "generator_distance", "total_variation")


def _preset_of(own: dict[str, Any]) -> str:
    """The preset of the champion's kind of generators."""
    if own["kind"] != KIND:
        return "single_2_w_tv"
    return "features_gated" if own["gated"] else "features"


def explained_classifier(context: Context) -> nn.Module:
    """What the generators explain: the classifier with its temperature, frozen, on its device."""
    found = tempered(cast("Classifier", trained_classifier(context)), context.made("calibrate")["temperature"])
    return for_inference(cast("nn.Module", found), choose_device(context.job.resources.device))


def train_generators(context: Context) -> dict[str, Any]:
    """Train the generators against the new classifier; a joint diffusion model has none, but a second classifier.

    Raises:
        TrainingError: the run cannot go on.
    """
    if is_joint(context):
        return joint.train_second(context)
    out = context.folder.stage("generators")
    initial = (
        champion_folder(context) / "generators.safetensors" if context.job.generators.start == "champion" else None
    )
    validation = cohort(context, VALIDATION)
    network = generators.train(
        generator_settings(context, context.made("calibrate")["threshold"]),
        cohort(context, TRAIN).images,
        validation.images,
        explained_classifier(context),
        out,
        initial,
        context.progress,
        validation.truths,
    )
    return {"weights": checkpoints.fingerprint_of(network.state_dict())}


def make_bundle(context: Context) -> dict[str, Any]:
    """Make the bundle, with everything but its final model card.

    Raises:
        TrainingError: there is nothing to measure it on.
    """
    out = context.folder.stage("bundle") / "bundle"
    shutil.rmtree(out, ignore_errors=True)
    table, own, job = champion_table(context), champion(context), context.job
    summary = read_json(context.folder.stage("collect") / "manifest.json")
    size = summary["size"]
    settings, network = (None, None) if is_joint(context) else _generators(context, size)
    label = job.data.label or str(table["label"])
    making.make(
        out,
        classifier=trained_classifier(context),
        architecture=architecture(context),
        outputs=[label],
        generators=network,
        generator_settings=settings,
        spec=InputSpec(size=size, percentiles=tuple(summary["percentiles"])),
        label=label,
        name=job.bundle.name or own.identity.name,
        version=job.bundle.version or context.folder.name,
        threshold=context.made("calibrate")["threshold"],
        temperature=context.made("calibrate")["temperature"],
        augmentation=own.augmentation,
        extra={"augmentations": 0 if is_joint(context) else own.augmentations},
        blurs=scales.blurs_of(own),
        second=joint.second(context) if is_joint(context) else None,
        dataset_summary=dataset_summary(context),
        training=cohort(context, TRAIN),
        validation=cohort(context, VALIDATION),
        device=job.resources.device,
        progress=context.progress,
    )
    return {"digest": verify(out)}


def _generators(context: Context, size: int) -> tuple[generators.GeneratorSettings, Generators]:
    """What the job's generators are, and themselves, in eval mode."""
    settings = generator_settings(context, context.made("calibrate")["threshold"])
    settings = settings.fitted(explained_classifier(context), size)
    network = settings.network()
    state = torch.load(context.folder.stage("generators") / "checkpoint.pt", weights_only=True, map_location="cpu")
    network.load_state_dict(state["generators"])
    return settings, network.eval()


def dataset_summary(context: Context) -> str:
    """What was learnt from, in one line."""
    made = context.made("split")["counts"][TRAIN]
    names = ", ".join(source.partition("=")[0] for source in context.job.data.sources)
    return f"{made['images']} images of {made['patients']} patients from {names}; see model_card.md"
