"""`python -m training run mediffusion --preset tiny --out DIR`: train, judge and show a joint diffusion model.

Half of the training patients train the model, the other half an oracle of another architecture and seed, which judges
its counterfactuals; labels of the model's half can be held back (`labels`). Everything is chosen before the test
patients are opened, and nothing after.
"""

import hashlib
import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from explain_core.classifiers.mediffusion import Mediffusion
from explain_core.diffusion.counterfactual import Settings
from explain_core.engine import choose_device, for_inference
from explain_core.files import fresh, read_json, write
from explain_core.geometry import AffineRange, InputSpec
from explain_core.second import Second
from training import calibration, cohort, datasets, making
from training.bundle import decision
from training.cohort import TEST, TRAIN, VALIDATION, Cohort
from training.errors import TrainingError
from training.measure import joint_diffusion
from training.measure.joint_diffusion import ENFORCE, REMOVE, Changed
from training.progress import Progress, silent
from training.report import model_card
from training.report.evaluation import cell, table
from training.runs import image_classifier, second_classifier, temperature
from training.runs.image_classifier import predict
from training.runs.mediffusion.run import train
from training.runs.mediffusion.settings import PRESETS, MediffusionSettings
from training.runs.spaces import needs_weights
from training.splits import draw

NAMES: Mapping[str, str] = {
    "reached": "own head decides as asked",
    "unguided": "control: the same noise without guidance",
    "oracle": "the oracle's probability moves that way by",
    "oracle_unguided": "control: without guidance",
    "oracle_flips": "the oracle's decision changes",
    "oracle_flips_unguided": "control: without guidance",
    "psnr": "PSNR to the decoded original, dB",
    "density": "mean change inside the boxes over outside",
    "density_unguided": "control: without guidance",
    "density_shuffled": "control: another image's boxes",
}
SHOWN = 6
LIMITS = """- Research use only. It is no medical device and has not been tested for any clinical purpose.
- A counterfactual is drawn by a network: what it shows was never seen in this patient. Compare it with the control, the
  same noise without an aim, and with what the second classifier says; both stand in the report.
- The whole image is denoised: fine detail is lost everywhere, not where the finding is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a run.

    Attributes:
        data: a reader and folder.
        out: folder of the run; the same request again goes on from there.
        settings: of the training.
        labels: part of the model's training patients whose labels are used, above 0 to 1.
        most: counterfactuals of each kind at most.
        oracle_epochs: of the oracle's training.
        bundle: folder for a model bundle of the model and the oracle; None makes none.
        label: the finding, as results name it.
    """

    data: str
    out: Path
    settings: MediffusionSettings
    labels: float = 1.0
    most: int = 64
    oracle_epochs: int = 12
    bundle: Path | None = None
    label: str = "Lung opacity"


def request(
    preset: str, data: str, out: Path, *, weights: str = "", labels: float = 1.0, seed: int = 0, **more: Any
) -> Request:
    """A request by the name of a preset.

    Raises:
        TrainingError: no such preset, or labels outside their range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there is: {', '.join(PRESETS)}")
    if not 0 < labels <= 1:
        raise TrainingError(f"--labels is a part of the patients, above 0 to 1, not {labels}")
    changes = {name: value for name, value in more.items() if value is not None}
    settings = replace(PRESETS[preset], weights=weights, seed=seed, **changes)
    if needs_weights(settings.space) and not weights:
        raise TrainingError(f"the preset {preset} works in the latents of an autoencoder: name its --weights")
    return Request(data=data, out=out, settings=settings, labels=labels)


def run(asked: Request, progress: Progress = silent) -> dict[str, Any]:
    """Train the model and its oracle, and judge the model on the test patients.

    Returns:
        the content of figures.json; tables are in figures.md, pictures in remove.png and enforce.png.

    Raises:
        DatasetError, TrainingError: the data cannot be used, or the folder is another run's.
    """
    dataset = datasets.read(asked.data)
    if dataset.exclusive:
        raise TrainingError(f"--data {asked.data}: one finding is learnt, and this dataset has exclusive classes")
    images, _ = cohort.load(dataset, InputSpec(size=asked.settings.size))
    own, others = halves(images.part(TRAIN))
    targets = held_back(own, asked.labels)
    asked.out.mkdir(parents=True, exist_ok=True)
    model = train(asked.settings, own.images, targets, asked.out / "model", progress)
    oracle = oracle_of(others.labelled(), images.part(VALIDATION).labelled(), asked)
    on_device = oracle.on(choose_device(asked.settings.device))
    found, changed = joint_diffusion.figures(model, images.part(TEST), on_device, Settings(), most=asked.most)
    found |= {
        "data": {"train": len(own), "labelled": int(torch.isfinite(targets).sum()), "oracle": len(others)},
        "settings": asdict(asked.settings) | {"labels": asked.labels},
        "parameters": sum(value.numel() for value in model.network.parameters()),
    }
    write(asked.out / "figures.json", json.dumps(found, indent=1))
    write(asked.out / "figures.md", markdown(found))
    for target, name in ((REMOVE, "remove"), (ENFORCE, "enforce")):
        if len(changed[target].places):
            with fresh(asked.out / f"{name}.png") as file:
                Image.fromarray(sheet(changed[target])).save(file, format="PNG", optimize=True)
    if asked.bundle is not None:
        make_bundle(asked, asked.bundle, own, images.part(VALIDATION), oracle, markdown(found))
    return found


def make_bundle(asked: Request, out: Path, training: Cohort, validation: Cohort, second: Second, numbers: str) -> str:
    """A bundle of the model that `run` has trained, with the oracle for a second opinion; returns its digest.

    Args:
        asked: the run.
        out: the bundle's folder.
        training: what the model learnt from.
        validation: what temperature, threshold and scale are found on.
        second: the oracle.
        numbers: what the test patients say, for the model card.
    """
    spec = InputSpec(size=asked.settings.size)
    classifier = Mediffusion(asked.out / "model" / "model.safetensors", 1, spec.size).eval()
    found = decision(for_inference(classifier, choose_device(asked.settings.device)), validation.labelled())
    name, version, reader = f"joint-{asked.settings.size}", "1.0.0", asked.data.partition(":")[0].partition("?")[0]
    calibrated = making.make(
        out,
        classifier=classifier,
        architecture="mediffusion",
        outputs=[asked.label],
        generators=None,
        generator_settings=None,
        spec=spec,
        label=asked.label,
        name=name,
        version=version,
        threshold=found["threshold"],
        temperature=found["temperature"],
        augmentation=AffineRange(),
        dataset_summary=f"{len(training)} images of {len(set(training.patients))} patients from {reader}",
        training=training,
        validation=validation,
        extra={"augmentations": 0},
        second=second,
        device=asked.settings.device,
    )
    card = model_card.sheet(
        name=name,
        version=version,
        purpose=model_card.says(asked.label, model_card.BY_DIFFUSION),
        training=f"- {reader}: {datasets.attribution(reader) or 'the site answers for it'}",
        numbers=numbers,
        calibration=f"{calibration.HEADING}\n{calibration.markdown(calibrated)}",
        limits=LIMITS,
        settings=json.dumps(asdict(asked.settings), indent=1),
        history=json.dumps(read_json(asked.out / "model" / "model.json")["history"]),
    )
    return making.finish(out, card)


def halves(training: Cohort) -> tuple[Cohort, Cohort]:
    """The training patients in two halves, by the SHA-256 of their names."""
    first = np.array([hashlib.sha256(patient.encode()).digest()[0] % 2 == 0 for patient in training.patients])
    if first.all() or not first.any():
        raise TrainingError("too few training patients for a model and an oracle")
    return training.take(np.flatnonzero(first)), training.take(np.flatnonzero(~first))


def held_back(own: Cohort, labels: float) -> Tensor:
    """Targets, shape (N, 1): NaN where nobody said, and where the patient is not among the part whose labels are used.

    Which patients these are follows from their names alone: a smaller part lies within a larger one. At least one
    patient of either kind stays.
    """
    places = np.array([draw(f"label {patient}") for patient in own.patients])
    targets = np.where(own.targets >= 0, own.targets, np.nan).astype(np.float32)
    kept = places < labels
    for value in (0, 1):
        among = np.flatnonzero(targets == value)
        if len(among):
            kept[among[np.argmin(places[among])]] = True
    return torch.from_numpy(np.where(kept, targets, np.nan).astype(np.float32))[:, None]


def oracle_of(training: Cohort, validation: Cohort, asked: Request) -> Second:
    """A ResNet-20 on the other half of the patients, with all their labels, its threshold from validation patients.

    On the CPU, as trained.
    """
    settings = replace(second_classifier.SETTINGS, seed=asked.settings.seed + 1, epochs=asked.oracle_epochs)
    (asked.out / "oracle").mkdir(exist_ok=True)
    network = image_classifier.train(settings, training, validation, asked.out / "oracle")
    ready = for_inference(network, choose_device(settings.device))
    chances = torch.sigmoid(predict(ready, validation.images)[:, 0]).numpy()
    threshold = temperature.youden(chances, validation.targets)
    return Second("resnet20", network.cpu().eval(), threshold, asked.settings.size)


def markdown(found: Mapping[str, Any]) -> str:
    """The figures as tables."""
    data = found["data"]
    kinds = ("remove", "enforce")
    rows = [[text, *(cell(found[kind].get(name)) for kind in kinds)] for name, text in NAMES.items()]
    heads = ["", *(f"{kind} ({found[kind]['images']} images)" for kind in kinds)]
    said = (
        f"{data['labelled']} labelled of {data['train']} training images, {found['parameters']:,} parameters; test AUC "
        f"{cell(found['auc'])}; the oracle, trained on {data['oracle']} images of other patients, "
        f"{cell(found['oracle_auc'])}."
    )
    lines = [
        said,
        "",
        *table("Counterfactuals, 95 % intervals by patient", heads, rows),
    ]
    return "\n".join(lines) + "\n"


def sheet(changed: Changed, scale: int = 4) -> NDArray[np.uint8]:
    """Rows of decoded original, counterfactual, unguided image and |change| (white is 0.5), uint8, (rows, columns)."""
    columns = [changed.of("original"), changed.of("changed"), changed.of("unguided")]
    columns.append((columns[1] - columns[0]).abs() * 2)
    rows = [
        torch.cat([column[index, 0] for column in columns], dim=1) for index in range(min(SHOWN, len(changed.places)))
    ]
    plane = np.rint(torch.cat(rows).clamp(0, 1).numpy() * 255).astype(np.uint8)
    factor = scale if columns[0].shape[-1] < 100 else 1  # noqa: PLR2004 - tiny images are enlarged
    return np.repeat(np.repeat(plane, factor, axis=0), factor, axis=1)


def command(arguments: Namespace) -> dict[str, Any]:
    """What `python -m training run mediffusion` does."""
    asked = replace(
        request(
            arguments.preset,
            arguments.data,
            arguments.out,
            weights=arguments.weights,
            labels=arguments.labels,
            seed=arguments.seed,
            steps=arguments.steps,
            unlabelled=arguments.unlabelled,
            diffusion=False if arguments.no_diffusion else None,
            size=arguments.size,
        ),
        bundle=arguments.bundle,
    )

    def told(done: float, **figures: float | str) -> None:
        print(json.dumps({"done": round(done, 4)} | figures), flush=True)

    found = run(asked, told)
    print(markdown(found))
    return found
