"""`python -m training claims --preset tiny --out DIR`: what joint diffusion promises, each beside its control.

    few labels      AUC of the joint model against the same network, steps and labels without the denoising
    counterfactuals remove and enforce, judged by the own head and by an oracle, beside the same noise unguided
    generation      KID of samples of the joint model, of one that never classified, and of real images, by the features
                    of the oracle (Binkowski et al., arXiv:1801.01401)
    training data   a classifier from few labelled images, and from these with synthetic ones, same steps
    corner tag      whether counterfactuals move a mark that gives the label away, after training with it and without

All over several seeds; figures of images are pooled over them, and intervals resample patients. Nothing is chosen on
the test patients. Every training resumes, and every seed's figures are kept.
"""

import json
import multiprocessing
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain_core.diffusion.counterfactual import Settings, denoise
from explain_core.diffusion.files import load_model
from explain_core.diffusion.model import Guidance, JointDiffusion
from explain_core.engine import choose_device, for_inference
from explain_core.files import read_json, write, write_json
from explain_core.geometry import InputSpec
from explain_core.quality.resampling import roc_auc
from explain_core.second import Second
from training import cohort, datasets, mediffusion
from training.cohort import TEST, TRAIN, VALIDATION, Cohort
from training.datasets.shapes import corner
from training.errors import TrainingError
from training.measure import joint_diffusion
from training.measure.estimates import Figures, estimate, mean_of
from training.measure.joint_diffusion import ENFORCE, REMOVE
from training.measure.kid import kernel_distance
from training.mediffusion import halves, held_back, oracle_of
from training.report.evaluation import cell, table
from training.runs import image_classifier, second_classifier
from training.runs.mediffusion.run import train
from training.runs.mediffusion.settings import MediffusionSettings
from training.synthesis import SynthesisSettings, sample

Floats = NDArray[np.float64]
JOINT, PLAIN, PRIOR, TAGGED = "joint", "plain", "prior", "tagged"
FEW = 0.05
"""Up to this part of the labels synthetic images are tried."""
KINDS = {REMOVE: "remove", ENFORCE: "enforce"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tried.

    Attributes:
        data: a reader and folder; the corner tag needs the phantom.
        out: folder of everything.
        settings: of the trainings; seeds are put in.
        seeds: of the trainings.
        labels: parts of the patients whose labels are used; 1 is among them.
        processes: trainings at once.
        most: counterfactuals of each kind and seed at most.
        samples: images for KID.
        synthetic: images of either label that a classifier is given besides the few labelled ones.
        oracle_epochs: of the oracle.
        classifier_steps: of the classifiers that learn from real and synthetic images.
        how: counterfactuals are sought; samples take as many steps.

    Raises:
        TrainingError: 1 is not among the labels, or there is no seed.
    """

    data: str
    out: Path
    settings: MediffusionSettings
    seeds: tuple[int, ...] = (0, 1, 2)
    labels: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 1.0)
    processes: int = 2
    most: int = 64
    samples: int = 256
    synthetic: int = 64
    oracle_epochs: int = 12
    classifier_steps: int = 400
    how: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if 1.0 not in self.labels or not all(0 < one <= 1 for one in self.labels):
            raise TrainingError("labels are parts above 0 to 1, and 1 is among them: counterfactuals are of that model")
        if not self.seeds or self.processes < 1:
            raise TrainingError("claims need a seed and a process")

    def claim(self) -> None:
        """Make the folder this plan's; more seeds and labels go on in it.

        Raises:
            TrainingError: its models were made by another request.
        """
        free = {"out", "seeds", "labels", "processes"}
        mine = {name: value for name, value in asdict(self).items() if name not in free}
        mine, path = json.loads(json.dumps(mine, default=str)), self.out / "plan.json"
        if path.is_file() and read_json(path) != mine:
            raise TrainingError(f"{self.out} holds what another request has made (plan.json); name a new folder")
        if not path.is_file() and self.out.is_dir() and any(self.out.iterdir()):
            raise TrainingError(f"{self.out} holds something else; name a new folder")
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)

    @property
    def tagged(self) -> str:
        """The data with the corner tag on every image with an opacity; "" where they can have none."""
        if self.data.partition("?")[0] != "phantom":
            return ""
        return f"{self.data}{'&' if '?' in self.data else '?'}tag=100"


@dataclass(frozen=True, slots=True)
class _Training:
    """One model: its folder's name, its settings, its part of the labels, and its data."""

    name: str
    settings: MediffusionSettings
    labels: float
    data: str


def trainings(plan: Plan) -> Iterator[_Training]:
    """Every model that is needed, the dearest first."""
    for seed in plan.seeds:
        own = replace(plan.settings, seed=seed)
        if plan.tagged:
            yield _Training(f"{TAGGED}-{seed}", own, 1.0, plan.tagged)
        yield _Training(f"{PRIOR}-{seed}", replace(own, weight=0.0), 1.0, plan.data)
        for labels in sorted(plan.labels, reverse=True):
            yield _Training(f"{JOINT}-{labels:g}-{seed}", own, labels, plan.data)
            yield _Training(f"{PLAIN}-{labels:g}-{seed}", replace(own, diffusion=False), labels, plan.data)


def run(plan: Plan) -> Figures:
    """Train, judge and write claims.json and claims.md to the plan's folder."""
    plan.claim()
    with ProcessPoolExecutor(plan.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name in pool.map(_train, [(plan.out, one) for one in trainings(plan)]):
            print(json.dumps({"trained": name}), flush=True)
        judged = list(pool.map(_judge, [(plan, seed) for seed in plan.seeds]))
    found = figures(plan, judged)
    write_json(plan.out / "claims.json", found)
    write(plan.out / "claims.md", markdown(found))
    return found


def _train(asked: tuple[Path, _Training]) -> str:
    out, one = asked
    if not (out / one.name / "model.safetensors").is_file():
        own, _ = halves(_images(one.data, one.settings.size).part(TRAIN))
        train(one.settings, own.images, held_back(own, one.labels), out / one.name)
        (out / one.name / "latents.pt").unlink(missing_ok=True)
    return one.name


def _images(data: str, size: int) -> Cohort:
    return cohort.load(datasets.read(data), InputSpec(size=size))[0]


def _judge(asked: tuple[Plan, int]) -> dict[str, Any]:
    """Everything that one seed's models say of the test images, as lists for JSON; kept in its file."""
    plan, seed = asked
    kept = plan.out / f"judged-{seed}.json"
    if kept.is_file() and {*(found := read_json(kept))["scores"]} == {f"{labels:g}" for labels in plan.labels}:
        return found
    if plan.settings.threads:
        torch.set_num_threads(plan.settings.threads)
    images = _images(plan.data, plan.settings.size)
    own, others = halves(images.part(TRAIN))
    test, validation = images.part(TEST).labelled(), images.part(VALIDATION).labelled()
    request = mediffusion.Request(
        data=plan.data, out=plan.out / f"oracle-{seed}", settings=replace(plan.settings, seed=seed),
        oracle_epochs=plan.oracle_epochs,
    )  # fmt: skip
    request.out.mkdir(exist_ok=True)
    oracle = oracle_of(others.labelled(), validation, request).on(choose_device(plan.settings.device))

    def model(kind: str, labels: float | None = None) -> JointDiffusion:
        part = "" if labels is None else f"-{labels:g}"
        return load_model(plan.out / f"{kind}{part}-{seed}" / "model.safetensors")

    found = {
        "patients": list(test.patients),
        "targets": test.targets.tolist(),
        "scores": {
            f"{labels:g}": {
                kind: joint_diffusion.probabilities(model(kind, labels), test.images).tolist()
                for kind in (JOINT, PLAIN)
            }
            for labels in plan.labels
        },
        "counterfactuals": {},
    }
    for target, name in KINDS.items():
        changed = joint_diffusion.change(model(JOINT, 1.0), test, target, plan.how, plan.most)
        columns = joint_diffusion.counterfactual_columns(changed, test, target, oracle)
        found["counterfactuals"][name] = _listed(columns) | {
            "patients": [test.patients[place] for place in changed.places]
        }
    found["kid"] = _generation(plan, own, test, oracle, {kind: model(*kind) for kind in ((JOINT, 1.0), (PRIOR, None))})
    found["synthetic"] = {
        f"{labels:g}": _with_synthetic(plan, seed, labels, model(JOINT, labels), own, validation, test)
        for labels in plan.labels
        if labels <= FEW
    }
    if plan.tagged:
        marked = _images(plan.tagged, plan.settings.size).part(TEST).labelled()
        found["tag"] = {
            "with": _tag(model(TAGGED), marked, plan),
            "without": _tag(model(JOINT, 1.0), marked, plan),
        }
    write_json(kept, found)
    return found


def _listed(columns: Mapping[str, Floats]) -> dict[str, list[float | None]]:
    """For JSON, which has no NaN."""
    return {name: [float(v) if np.isfinite(v) else None for v in values] for name, values in columns.items()}


@torch.no_grad()
def _drawn(model: JointDiffusion, count: int, steps: int, seed: int, batch: int = 64) -> Tensor:
    """Unguided samples from pure noise, in [0, 1], shape (N, 1, S, S)."""
    config, chain = model.network.config, Settings(start=1000, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for start in range(0, count, batch):
        rows = min(batch, count - start)
        noise = torch.randn(rows, config.latent_channels, config.size, config.size, generator=generator)
        latents = denoise(model, noise, Guidance(0, 1, torch.zeros(rows)), chain)
        made.append(model.decode(latents).clamp(0, 1))
    return torch.cat(made)


def _generation(
    plan: Plan, own: Cohort, test: Cohort, oracle: Second, models: Mapping[tuple[str, float | None], JointDiffusion]
) -> dict[str, list[float]]:
    """KID against the test images, with its spread: samples of each model, and real training images."""
    real = test.images[: plan.samples].float() / 255
    sets = {kind: _drawn(model, plan.samples, plan.how.steps, seed=1) for (kind, _), model in models.items()}
    sets["real"] = own.images[: plan.samples].float() / 255
    return {name: [*kernel_distance(oracle.network, real, images)] for name, images in sets.items()}


def _with_synthetic(
    plan: Plan, seed: int, labels: float, model: JointDiffusion, own: Cohort, validation: Cohort, test: Cohort
) -> dict[str, list[float]]:
    """Scores of the test images by classifiers of the few labelled images alone, and of synthetic ones besides."""
    few = own.take(np.flatnonzero(torch.isfinite(held_back(own, labels)[:, 0]).numpy()))
    asked = SynthesisSettings(count=plan.synthetic, steps=plan.how.steps, batch=32, seed=seed)
    made = [sample(model, target, few.images, asked).images for target in (0, 1)]
    sets = {"real": few, "both": _joined(few, made)}
    scores = {}
    for name, training in sets.items():
        batch = min(16, len(few))
        epochs = max(1, round(plan.classifier_steps / (len(training) // batch)))
        settings = replace(second_classifier.SETTINGS, seed=100 + seed, epochs=epochs, batch=batch)
        out = plan.out / f"classifier-{name}-{labels:g}-{seed}"
        out.mkdir(exist_ok=True)
        network = image_classifier.train(settings, training, validation, out)
        ready = for_inference(network, choose_device(settings.device))
        scores[name] = torch.sigmoid(image_classifier.predict(ready, test.images)[:, 0]).double().tolist()
    return scores


def _joined(few: Cohort, made: Sequence[Tensor]) -> Cohort:
    """Real images with synthetic ones of either label, by the places of real ones so that nothing else is made up."""
    images = torch.cat([few.images, *((one * 255).round().to(torch.uint8) for one in made)])
    targets = np.concatenate([few.targets, *(np.full(len(one), target) for target, one in enumerate(made))])
    places = np.concatenate([np.arange(len(few)), np.zeros(len(images) - len(few), np.int64)])
    whole = few.take(places)
    return replace(
        whole, images=images, targets=targets, truths=(None,) * len(images), boxes=np.zeros(len(images), np.int64)
    )


def _tag(model: JointDiffusion, marked: Cohort, plan: Plan) -> dict[str, Any]:
    """Mean change inside the tag over outside, guided and not, of images that are decided otherwise."""
    mask = corner(marked.size)
    found: dict[str, Any] = {}
    for target, name in KINDS.items():
        changed = joint_diffusion.change(model, marked, target, plan.how, plan.most)
        if not len(changed.places):
            continue
        original = changed.of("original")
        parts = {"tag": changed.of("changed"), "tag_unguided": changed.of("unguided")}
        columns = {
            key: np.array([joint_diffusion.density(one[0], mask) for one in (images - original).abs()])
            for key, images in parts.items()
        }
        found[name] = _listed(columns) | {"patients": [marked.patients[place] for place in changed.places]}
    return found


def _mean_auc(weights: Floats, labels: NDArray[np.bool_], scores: Floats) -> Floats:
    """The mean over models of the AUC of their scores, shape (N, models)."""
    return np.asarray(np.mean([roc_auc(weights, labels, column) for column in scores.T], axis=0))


def _gain(weights: Floats, labels: NDArray[np.bool_], one: Floats, other: Floats) -> Floats:
    return np.asarray(_mean_auc(weights, labels, one) - _mean_auc(weights, labels, other))


def _against(judged: Sequence[Mapping[str, Any]], key: str, labels: str, one: str, other: str) -> Figures:
    """Mean AUC of two arms over the seeds, and their paired difference."""
    patients, targets = np.array(judged[0]["patients"]), np.array(judged[0]["targets"]) == 1
    arms = {name: np.array([found[key][labels][name] for found in judged]).T for name in (one, other)}
    figures: Figures = {name: estimate(_mean_auc, [targets, scores], patients) for name, scores in arms.items()}
    return figures | {"gain": estimate(_gain, [targets, arms[one], arms[other]], patients)}


def _pooled(rows: Sequence[Mapping[str, Any]]) -> Figures:
    """Means over the images of all seeds, intervals by patient."""
    patients = np.array([patient for row in rows for patient in row["patients"]])
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "patients"]
    figures: Figures = {"images": len(patients)}
    for name in names:
        values = np.array([np.nan if v is None else v for row in rows for v in row[name]], np.float64)
        figures[name] = mean_of(values, patients)
    return figures


def figures(plan: Plan, judged: Sequence[Mapping[str, Any]]) -> Figures:
    """All figures over the seeds."""
    found: Figures = {
        "seeds": list(plan.seeds),
        "few": {f"{labels:g}": _against(judged, "scores", f"{labels:g}", JOINT, PLAIN) for labels in plan.labels},
        "counterfactuals": {n: _pooled([one["counterfactuals"][n] for one in judged]) for n in KINDS.values()},
        "kid": {name: [one["kid"][name] for one in judged] for name in judged[0]["kid"]},
        "synthetic": {name: _against(judged, "synthetic", name, "both", "real") for name in judged[0]["synthetic"]},
    }
    if plan.tagged:
        found["tag"] = {
            how: {
                name: _pooled(rows)
                for name in KINDS.values()
                if (rows := [o["tag"][how][name] for o in judged if name in o["tag"][how]])
            }
            for how in ("with", "without")
        }
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The figures as tables."""
    lines = [f"Seeds {', '.join(map(str, found['seeds']))}; 95 % intervals by patient."]
    rows = [[_percent(n), cell(r[JOINT]), cell(r[PLAIN]), cell(r["gain"])] for n, r in found["few"].items()]
    lines += ["", *table("AUC with few labels", ["labels", "joint", "the same without denoising", "gain"], rows)]
    kinds = found["counterfactuals"]
    heads = ["", *(f"{name} ({row['images']} images)" for name, row in kinds.items())]
    rows = [[text, *(cell(row.get(name)) for row in kinds.values())] for name, text in mediffusion.NAMES.items()]
    lines += ["", *table("Counterfactuals", heads, rows)]
    rows = [
        [name, ", ".join(f"{value:.4f} ± {spread:.4f}" for value, spread in seeds)]
        for name, seeds in found["kid"].items()
    ]
    title = "KID against test images, a seed each, with the standard deviation over subsets of half the images"
    lines += ["", *table(title, ["samples of", "KID"], rows)]
    rows = [[_percent(n), cell(r["both"]), cell(r["real"]), cell(r["gain"])] for n, r in found["synthetic"].items()]
    lines += ["", *table("AUC of a classifier, same steps", ["labels", "with synthetic", "real alone", "gain"], rows)]
    if "tag" in found:
        rows = [
            [f"{how} the tag, {name}", str(row["images"]), cell(row["tag"]), cell(row["tag_unguided"])]
            for how, kinds in found["tag"].items()
            for name, row in kinds.items()
        ]
        heads = ["trained", "images", "guided", "unguided"]
        lines += ["", *table("Mean change inside the corner tag over outside", heads, rows)]
    return "\n".join(lines) + "\n"


def _percent(part: str) -> str:
    return f"{100 * float(part):g} %"


def command(arguments: Namespace) -> Figures:
    """What `python -m training claims` does."""
    asked = mediffusion.request(
        arguments.preset, arguments.data, arguments.out, weights=arguments.weights, steps=arguments.steps
    )
    plan = Plan(
        data=asked.data, out=asked.out, settings=asked.settings, seeds=tuple(range(arguments.seeds)),
        labels=tuple(arguments.labels), processes=arguments.processes,
    )  # fmt: skip
    found = run(plan)
    print(markdown(found))
    return found
