"""What a bundle says of itself: heatmap scale, margin of the decision, distance from the training images.

`python -m training calibrate --bundle DIR --data nih:DIR` sets them in a bundle as it is, without training; `export`
and retraining do it for a new one. Everything is measured on the validation patients; the outlier model is fitted on
the training patients. Test patients are never opened.

- Heatmaps: of each method that the bundle serves, see `scales.py`. `python -m training scale BUNDLE --method NAME
  --data nih:DIR` adds a method, or measures one anew, and leaves the rest.
- Margin: the 90th percentile of |f(Tx) - f(x)| over images and random transforms T of the bundle's own range.
- Outlier limit: the 99th percentile of the score over the images.
- reference.json: the statistics of the images (`explain_core/statistics.py`), for drift.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from explain_core import display
from explain_core.blur import BLUR
from explain_core.bundles.files import OUTLIER, toml_text, write_sums
from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.geometry import AffineRange, InputSpec, Preprocessing, draw_affine, warp
from explain_core.outlier import OutlierModel
from explain_core.statistics import OF_THE_IMAGE, REFERENCE, image_statistics, reference_of
from training import datasets, scales
from training.cohort import TRAIN, VALIDATION, Cohort, load
from training.datasets import collecting
from training.datasets.tables import DatasetError
from training.errors import TrainingError
from training.progress import Progress, silent
from training.scales import Figures, Floats, Image, Scale, measure_scales, short

MARGIN_PERCENTILE, TRANSFORMS = 90, 8
LIMIT_PERCENTILE = 99
SIDE, COMPONENTS, COPIES = 32, 32, 6
FILMS, MARKER = 50, 64
BATCH = 32
HEADING, NEXT_HEADING = "## Calibration on the validation patients\n", "## Limits\n"
DECISION = "### Decision and distance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured for one bundle.

    Attributes:
        scales: of each method's maps.
        margin: of the decision.
        outlier: the fitted outlier model.
        table: the table [outlier] of bundle.toml.
        figures: what these do on the validation images.
        reference: the content of reference.json.
    """

    scales: Mapping[str, Scale]
    margin: float
    outlier: OutlierModel
    table: Figures
    figures: Figures
    reference: Figures

    def described(self, description: Mapping[str, Any]) -> Figures:
        """The content of bundle.toml with what was measured."""
        scalars: Figures = {}
        for name, value in description.items():
            if name != "margin":
                scalars[name] = value
            if name == "threshold":
                scalars["margin"] = self.margin
        tables = {name: scale.table for name, scale in self.scales.items()}
        return scalars | {"heatmap": tables, "outlier": self.table}


def calibrate(folder: Path, data: str) -> Figures:
    """Measure and set what the bundle in `folder` says of itself, for the methods that it serves; no weight changes.

    Returns:
        The figures that the model card then states.

    Raises:
        BundleError: the bundle cannot be read.
        DatasetError: the data cannot be read.
        TrainingError: the data has no training or no validation patients.
    """
    explainer = open_bundle(folder)
    training, validation = parts(data, explainer.bundle.input_spec)
    found = measure(explainer, training, validation)
    write(found, folder)
    return found.figures


def scale(
    folder: Path, data: str, methods: Sequence[str], blur: float | None = None, images: int = 0
) -> dict[str, Scale]:
    """Measure the scale of methods and write it into the bundle in `folder`, which gets a new digest.

    Args:
        folder: of the bundle; nothing is written before everything is measured.
        data: with validation patients.
        methods: names; a table that there is already is replaced.
        blur: standard deviation of the Gaussian on the maps, a fraction of the input's width; None is that of the
            table that there is, or `explain_core.blur.BLUR`.
        images: of the validation patients at most, a seeded draw, for methods that take long; 0 is all.

    Raises:
        BundleError: the bundle cannot be read, or a method cannot explain it.
        DatasetError, TrainingError: as of `parts`.
    """
    explainer = open_bundle(folder)
    known = scales.blurs_of(explainer.bundle)
    blurs = {name: known.get(name, BLUR) if blur is None else blur for name in methods}
    (validation,) = parts(data, explainer.bundle.input_spec, (VALIDATION,))
    drawn = np.random.default_rng(0).permutation(len(validation))[: images or None]
    _, found = measure_scales(explainer, validation.take(np.sort(drawn)).images, blurs)
    description, card = folder / "bundle.toml", folder / "model_card.md"
    table, text = tomllib.loads(description.read_text()), card.read_text()
    for name, measured in found.items():
        table["heatmap"][name] = measured.table
        text = card_with_scale(text, name, measured)
    description.write_text(toml_text(table))
    card.write_text(text)
    write_sums(folder)
    return found


def parts(data: str, spec: InputSpec, splits: Sequence[str] = (TRAIN, VALIDATION)) -> tuple[Cohort, ...]:
    """Images of a dataset by split, training and then validation, labelled or not; no other image is opened.

    Raises:
        DatasetError: the data cannot be read, or an image of it.
        TrainingError: a split has no patients.
    """
    dataset = datasets.read(data)
    for split in splits:
        if not dataset.part(split):
            raise TrainingError(f"--data {data}: calibration needs {' and '.join(splits)} patients")
    samples = tuple(sample for split in splits for sample in dataset.part(split))
    images, problems = load(replace(dataset, samples=samples, problems=()), spec)
    if problems:
        raise DatasetError("\n".join(["images that cannot be used:", *collecting.format_problems(problems, limit=20)]))
    return tuple(images.part(split) for split in splits)


def write(found: Calibration, folder: Path) -> None:
    """Set in the bundle in `folder` what was measured; its checksums are written last."""
    description, card = folder / "bundle.toml", folder / "model_card.md"
    table = found.described(tomllib.loads(description.read_text()))
    text = card_with(card.read_text(), found.figures)
    found.outlier.save(folder / OUTLIER)
    (folder / REFERENCE).write_text(json.dumps(found.reference) + "\n")
    description.write_text(toml_text(table))
    card.write_text(text)
    write_sums(folder)


def measure(
    explainer: BundleExplainer,
    training: Cohort,
    validation: Cohort,
    blurs: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Everything that `write` sets, without setting it.

    Args:
        explainer: the bundle as it will run.
        training: images on its grid whose look the outlier model learns; at least one.
        validation: others that everything else is measured on; at least one.
        blurs: the methods to calibrate with the blur of their maps; None is those that the bundle serves.
        progress: told after every validation image of every method.

    Raises:
        Cancelled: by `progress`.
    """
    bundle, images = explainer.bundle, validation.images
    wanted = scales.blurs_of(bundle) if blurs is None else blurs
    probabilities, found = measure_scales(explainer, images, wanted, progress)
    margin = short(np.percentile(probability_changes(explainer, images), MARGIN_PERCENTILE))
    outlier = fit_outlier(Seen(training), bundle.augmentation)
    seen = Seen(validation)
    scores = np.array([outlier.score(image) for image in seen])
    limit = short(np.percentile(scores, LIMIT_PERCENTILE))
    measure_text = f"limit = {LIMIT_PERCENTILE}th percentile of {len(seen)} validation images"
    return Calibration(
        scales=found,
        margin=margin,
        outlier=outlier,
        table={"limit": limit, "measure": f"Mahalanobis distance of the image's coarse look, {measure_text}"},
        figures={
            "images": {"training": len(training), "validation": len(validation)},
            "heatmaps": {name: asdict(scale) for name, scale in found.items()},
            "margin": margin,
            "near_threshold": float((np.abs(probabilities - bundle.threshold) < margin).mean()),
            "outlier_limit": limit,
            "far": {
                name: far(scores, outlier, strange, limit)
                for name, strange in (spoilt(seen) | no_films(seen, bundle.input_spec)).items()
            },
        },
        reference=_reference(seen, validation, probabilities, scores),
    )


def _reference(seen: Sequence[Image], validation: Cohort, probabilities: Floats, distances: Floats) -> Figures:
    looks = [image_statistics(image, shape) for image, shape in zip(seen, validation.shapes, strict=True)]
    columns = {name: np.array([look[name] for look in looks]) for name in OF_THE_IMAGE}
    return reference_of({"probability": probabilities, "distance": distances} | columns)


@torch.inference_mode()
def probability_changes(explainer: BundleExplainer, images: Tensor) -> Floats:
    """|f(Tx) - f(x)| of uint8 images under random transforms T of the bundle's range, shape (TRANSFORMS * N,)."""
    ranges, generator = explainer.bundle.augmentation, torch.Generator().manual_seed(explainer.seed)
    changes = []
    for chunk in images.split(BATCH):
        x = (chunk.float() / 255).to(explainer.device)
        before = explainer.probabilities(x)
        for _ in range(TRANSFORMS):
            moved = warp(x, draw_affine(ranges, len(x), generator).to(x.device), padding="border")
            changes.append((explainer.probabilities(moved) - before).abs().double().cpu().numpy())
    return np.concatenate(changes)


def fit_outlier(images: Sequence[Image], ranges: AffineRange) -> OutlierModel:
    """The outlier model of training images without padding, and of randomly transformed copies of them."""
    generator = torch.Generator().manual_seed(0)

    def copies() -> Iterator[Image]:
        yield from images
        for image in images:
            square = torch.from_numpy(display.resize(image, (4 * SIDE, 4 * SIDE)).copy())[None, None]
            moved = warp(square.expand(COPIES, -1, -1, -1), draw_affine(ranges, COPIES, generator), padding="border")
            yield from moved[:, 0].numpy()

    components = min(COMPONENTS, (1 + COPIES) * len(images) - 1)
    return OutlierModel.fit(copies(), images, side=SIDE, components=components)


def spoilt(images: Sequence[Image]) -> dict[str, Iterator[Image]]:
    """Images that are no upright, positive radiographs any more, by what was done to them; made one by one."""
    generator = np.random.default_rng(0)
    return {
        "turned by 90 degrees": (np.rot90(image) for image in images),
        "upside down": (image[::-1] for image in images),
        "negative": (1 - image for image in images),
        "noise on the model's grid": (generator.random(image.shape, np.float32) for image in images),
        "squeezed to half its width": (_squeezed(image) for image in images),
        "one quarter of the image": (image[: image.shape[0] // 2, : image.shape[1] // 2] for image in images),
        "mirrored": (image[:, ::-1] for image in images),
    }


def no_films(images: Sequence[Image], spec: InputSpec) -> dict[str, list[Image]]:
    """Files of a film's size that show nothing, as a model of this input sees them, `FILMS` of each at most.

    What the model's grid averages away makes them another thing than noise on that grid.
    """
    generator, images = np.random.default_rng(0), images[:FILMS]

    def noise(side: int) -> Image:
        return generator.random((side, side), np.float32)

    def shuffled(image: Image, side: int) -> Image:
        return generator.permuted(display.resize(image, (side, side)).ravel()).reshape(side, side)

    def black() -> Image:
        film: Image = noise(1024) * np.float32(0.01)
        top, left = generator.integers(0, 1024 - MARKER, 2)
        film[top : top + MARKER, left : left + MARKER] = 1
        return film

    return {
        "noise, 1024 x 1024 pixels": [_met(noise(1024), spec) for _ in images],
        "noise, 2048 x 2048 pixels": [_met(noise(2048), spec) for _ in images],
        "its pixels shuffled, 1024 x 1024": [_met(shuffled(image, 1024), spec) for image in images],
        "its pixels shuffled, 2048 x 2048": [_met(shuffled(image, 2048), spec) for image in images],
        f"black but for a marker of {MARKER} in 1024 pixels": [_met(black(), spec) for _ in images],
    }


def _met(film: Image, spec: InputSpec) -> Image:
    """What a model meets of a film: normalised, on its grid, without padding."""
    preprocessing = Preprocessing.of(film, spec)
    return preprocessing.unpad(preprocessing.apply(film))


def _squeezed(image: Image) -> Image:
    rows, columns = image.shape
    narrow = display.resize(image, (rows, columns // 2))
    return np.pad(narrow, ((0, 0), (columns // 4, columns - columns // 2 - columns // 4)))


def far(scores: Floats, outlier: OutlierModel, strange: Iterable[Image], limit: float) -> Figures:
    """How well the score tells strange images from those with `scores`: ROC AUC, and the share beyond the limit."""
    others = np.array([outlier.score(np.ascontiguousarray(image)) for image in strange])
    targets = np.repeat([0, 1], [len(scores), len(others)])
    auc = roc_auc_score(targets, np.concatenate([scores, others]))
    return {"auc": float(auc), "beyond_limit": float((others > limit).mean())}


@dataclass(frozen=True, slots=True)
class Seen(Sequence[Image]):
    """A cohort's images on the model's grid as luminance in [0, 1], their padding cut away; made as they are taken."""

    cohort: Cohort

    def __len__(self) -> int:
        return len(self.cohort)

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Image]: ...
    def __getitem__(self, place: int | slice) -> Image | Sequence[Image]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        plane = (self.cohort.images[place, 0].float() / 255).numpy()
        shape = self.cohort.shapes[place]
        return Preprocessing(source_shape=shape, size=self.cohort.size, low=0.0, high=1.0).unpad(plane)


def card_with(card: str, figures: Mapping[str, Any]) -> str:
    """The model card with its section on calibration put in or replaced."""
    return _with_section(card, f"{HEADING}\n{markdown(figures)}\n")


def card_with_scale(card: str, method: str, measured: Scale) -> str:
    """The model card with one method's part of that section put in or replaced."""
    section = section_of(card) or f"{HEADING}\n{DECISION}\n\nNot calibrated.\n\n"
    part = f"{scales.markdown(method, measured)}\n"
    start = section.find(f"{scales.heading(method)}\n")
    if start < 0:
        start = end = section.index(DECISION)
    else:
        end = section.index("### ", start + 1)
    return _with_section(card, f"{section[:start]}{part}{section[end:]}")


def _with_section(card: str, section: str) -> str:
    before, _, rest = card.partition(HEADING)
    if rest:
        return f"{before}{section}{rest[rest.index(NEXT_HEADING) :]}"
    before, heading, rest = card.partition(NEXT_HEADING)
    return f"{before}{section}{heading}{rest}"


def section_of(card: str) -> str:
    """The section on calibration of a model card, "" where it has none."""
    _, heading, rest = card.partition(HEADING)
    return heading + rest[: rest.index(NEXT_HEADING)] if heading else ""


def markdown(figures: Mapping[str, Any]) -> str:
    """The figures as text and tables."""
    images = figures["images"]
    lines = [
        f"{images['validation']} images, of which none trained a weight and none is of a test patient.",
        "",
        *(scales.markdown(name, Scale(**found)) for name, found in figures["heatmaps"].items()),
        DECISION,
        "",
        f"A decision within {figures['margin']:g} of the threshold is called uncertain: {MARGIN_PERCENTILE} in 100",
        f"random shifts, turns, zooms and mirrorings move the probability by less. {figures['near_threshold']:.1%} of",
        "the images are uncertain.",
        "",
        f"An image at a distance above {figures['outlier_limit']:g} is called far from the training data. Validation",
        "images that were spoilt, against the same images as they are:",
        "",
        "| what was done | ROC AUC of the distance | called far |",
        "|---|---|---|",
        *(f"| {name} | {far['auc']:.3f} | {far['beyond_limit']:.1%} |" for name, far in figures["far"].items()),
        "",
        "The distance sees coarse structure only. It is no check that a file shows a chest.",
    ]
    return "\n".join(lines) + "\n"
