"""Make a model bundle of trained parts: what `python -m training bundle` and a retraining share.

`make` writes a bundle that is complete but for its model card; `finish` puts that in. The weights are stored in
float16, and everything that the bundle says of itself is measured with those (`calibration.py`). Generators on features
change an image no more than they must (`strength.py`); by how much of what was trained stands in bundle.toml.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from explain_core.bundles.files import (
    ATTRIBUTES,
    GENERATORS,
    OUTLIER,
    REQUIRED,
    SECOND,
    SUMS,
    WEIGHTS,
    toml_text,
    verify,
    write_sums,
)
from explain_core.classifier import Classifier, DecisionRule, Tempered, tempered
from explain_core.classifiers.mediffusion import Mediffusion
from explain_core.diffusion.files import save_model
from explain_core.engine import choose_device
from explain_core.explainer import open_bundle
from explain_core.generators.features import FeatureGenerators
from explain_core.generators.kinds import NONE, Generators, description_of
from explain_core.geometry import AffineRange, InputSpec
from explain_core.second import Second
from explain_core.statistics import REFERENCE
from training import calibration, scales, strength
from training.calibration import NEXT_HEADING
from training.cohort import Cohort
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs.generators import GeneratorSettings

USE = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
_NAMES = ("negative", "positive")
UNMEASURED = {"full_scale": 1.0, "unit": "not measured yet"}
FILES = frozenset({*REQUIRED, ATTRIBUTES, GENERATORS, Mediffusion.file_name, OUTLIER, REFERENCE, SECOND, WEIGHTS, SUMS})


def make(
    out: Path,
    *,
    classifier: nn.Module,
    architecture: str,
    outputs: Sequence[str],
    generators: Generators | None,
    generator_settings: GeneratorSettings | None,
    spec: InputSpec,
    label: str,
    name: str,
    version: str,
    threshold: float,
    temperature: float,
    augmentation: AffineRange,
    dataset_summary: str,
    training: Cohort,
    validation: Cohort,
    extra: Mapping[str, Any] | None = None,
    blurs: Mapping[str, float] | None = None,
    second: Second | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a bundle to `out`; what an earlier call left there is replaced.

    Args:
        out: the bundle's folder, made where it is missing.
        classifier: as trained, not fused for inference; its tempered form is unwrapped.
        architecture: a module of explain_core/classifiers.
        outputs: names of the classifier's outputs; the first one is the finding.
        generators: as trained against the tempered classifier, not fused; None where no method needs them.
        generator_settings: their architecture.
        spec: the model's input.
        label: the finding, as results name it.
        name: of the model.
        version: of the model.
        threshold: of the probability.
        temperature: of the logits; see `runs/temperature.py`.
        augmentation: ranges of the averaged copies.
        dataset_summary: one line on the training data.
        training: images on the model's grid whose look the outlier model learns.
        validation: others, that scale, margin, limit and reference are measured on.
        extra: further keys of bundle.toml, strings or numbers.
        blurs: methods to serve besides the usual, or the blur of their maps; see `scales.default_blurs`.
        second: another classifier for a second opinion, named by its architecture; its first output is stored.
        device: where the measuring runs.
        progress: told after every validation image of every method.

    Returns:
        the figures of the calibration, which the provisional model card states too.

    Raises:
        TrainingError: `out` holds other files, a cohort is empty or on another grid, or a weight is not finite.
        BundleError: the weights do not fit the architectures.
        Cancelled: by `progress`; a later call begins anew.
    """
    for images in (training, validation):
        if not len(images) or images.size != spec.size:
            raise TrainingError(f"a bundle of input {spec.size} needs training and validation images of that size")
    _empty(out)
    weights = classifier.classifier if isinstance(classifier, Tempered) else classifier
    strengths: dict[int, float] = {}
    if isinstance(generators, FeatureGenerators):
        explained = cast("nn.Module", tempered(cast("Classifier", weights), temperature))
        rule, where = DecisionRule(threshold=threshold), choose_device(device)
        strengths = strength.measure(generators, explained, rule, validation.images, where)
        generators = deepcopy(generators)
        for decision, factor in strengths.items():
            generators.strengthen(decision, factor)
    if isinstance(weights, Mediffusion):
        exact = dict(weights.model.named_buffers(recurse=False))  # of probabilities near 1 float16 would leave nothing
        save_model(out / weights.file_name, weights.model, half(weights.model.state_dict()) | exact)
    else:
        save_file(half(weights.state_dict()), out / WEIGHTS)
    if second is not None:
        save_file(half(second.network.state_dict()), out / SECOND)
    described: dict[str, Any] = {"kind": NONE}
    if generators is not None and generator_settings is not None:
        save_file(half(generators.state_dict()), out / GENERATORS)
        described = description_of(asdict(generator_settings))
    networks = () if generators is None else ("generators",)
    served = scales.default_blurs(cast("Classifier", weights), blurs, networks)
    table = {
        "name": name,
        "version": version,
        "label": label,
        "threshold": threshold,
        "temperature": temperature,
        "use": USE,
        "training_data": dataset_summary,
        "classifier": {"architecture": architecture, "outputs": list(outputs)},
        "generators": described,
        "input": asdict(spec),
        "augmentation": asdict(augmentation),
        "heatmap": {name: {"blur": blur} | UNMEASURED for name, blur in served.items()},
        **({"strength": {_NAMES[decision]: factor for decision, factor in strengths.items()}} if strengths else {}),
        **({} if second is None else {"second": _second_table(second)}),
        **(extra or {}),
    }
    (out / "bundle.toml").write_text(toml_text(table))
    (out / "model_card.md").write_text(f"# Model card: {name} {version}\n\n{USE}. In the making.\n\n{NEXT_HEADING}")
    write_sums(out)
    found = calibration.measure(open_bundle(out, device=device), training, validation, progress=progress)
    calibration.write(found, out)
    return found.figures


def _second_table(second: Second) -> dict[str, Any]:
    return {"architecture": second.name, "threshold": second.threshold, "size": second.size}


def finish(out: Path, card: str) -> str:
    """Put the model card into a bundle that `make` wrote; the same call again changes nothing.

    Returns:
        the bundle's digest.

    Raises:
        BundleError: the bundle is not whole.
        TrainingError: the folder holds other files.
    """
    (out / "model_card.md").write_text(card)
    if strange := _strange(out):
        raise TrainingError(f"{out} holds files that are not the bundle's: {', '.join(strange)}")
    write_sums(out)
    return verify(out)


def half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16, those beyond its range (a batch norm's variance can be) in float32.

    Raises:
        TrainingError: one is not finite.
    """
    stored = {}
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(f"the weight {name} is not finite; train with a lower learning rate")
        small = value.half() if value.is_floating_point() else value
        fits = not small.is_floating_point() or bool(torch.isfinite(small).all())
        stored[name] = (small if fits else value.float()).cpu().contiguous()
    return stored


def _strange(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name not in FILES)


def need_room(out: Path) -> None:
    """Refuse a folder that no bundle can be made in, before anything is trained for it; nothing is written.

    Raises:
        TrainingError: it is a file, or holds what is not a bundle's.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file; name a folder for the bundle")
    if out.exists() and (strange := _strange(out)):
        raise TrainingError(f"{out} holds files that are not a bundle's: {', '.join(strange)}; take another folder")


def _empty(out: Path) -> None:
    need_room(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)
