"""One reader per source; every split is by patient, and bad input is named and counted.

A dataset is named on the command line as `reader:folder?option=value&option=value`, for example
`nih:../shared/data/nih_cxr14_subset`. A reader is a module of this package whose `PLUGIN` is a function
`read(folder: Path, *, option: str = ...) -> Dataset`; one that needs no folder gives `folder` a default.
"""

import hashlib
import importlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from explain_core import plugins
from explain_core.errors import GeometryError
from explain_core.geometry import InputSpec, Preprocessing
from training.datasets._images import Header, UnreadableImage, header, load_pixels
from training.datasets._tables import DatasetError, Kind, Problem
from training.splits import TEST_FOLDS, VALIDATION_FOLDS

__all__ = [
    "Box", "Collector", "Dataset", "DatasetError", "Kind", "Problem", "Sample", "attribution", "box_mask",
    "fold_of_patient", "fold_of_split", "format_problems", "load_all", "load_inputs", "load_pixels", "read",
    "split_of_fold", "truth_mask", "union_mask",
]  # fmt: skip

Box = tuple[float, float, float, float]
"""x, y, width, height as fractions of the image's width and height."""

SPLITS = ("train", "validation", "test")
"""From the least to the most held-out."""

SEXES = ("F", "M", "O")
OLDEST = 120

_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled radiograph.

    Attributes:
        path: the image file; only a name where `pixels` is given.
        patient_id: who was imaged; no patient is in two parts of a split.
        fold: a ready-made fold by patient, or -1.
        split: "train", "validation", "test", or "" for neither.
        view: "PA", "AP" or "".
        target: index into the dataset's classes, None = none of them or not known.
        target_source: who said so, e.g. "expert" or "textmined".
        findings: further labels of the source, e.g. the NIH findings.
        boxes: opacity boxes.
        finding_boxes: boxes of other findings, by finding.
        visible: what there is to see of an image of which only a part is left, bool on its own grid; such an image
            keeps its grey values. None: all of it.
        mask: exact truth on the image's own grid, where a source has it.
        shape: rows and columns of the image in pixels, None = square.
        pixels: how to get the luminance, float32 in [0, 1], where there is no file.
        sex: "F", "M", "O" (other) or "" where it is not known.
        age: in years, None where it is not known.
    """

    path: Path
    patient_id: str
    fold: int
    view: str
    target: int | None
    target_source: str
    split: str = ""
    findings: frozenset[str] = frozenset()
    boxes: tuple[Box, ...] = ()
    finding_boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict, hash=False)
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    shape: tuple[int, int] | None = None
    pixels: Callable[[], NDArray[np.float32]] | None = field(default=None, compare=False, repr=False)
    visible: Callable[[], NDArray[np.bool_]] | None = field(default=None, compare=False, repr=False)
    sex: str = ""
    age: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Sequence[Sample]):
    """The samples of one source, as a sequence, with its classes and what was wrong with it.

    Attributes:
        samples: every usable image, in the source's order.
        classes: names of the target's values.
        exclusive: True when exactly one of the classes holds (softmax over all of them); False when `classes` are
            the absence and the presence of one finding (one sigmoid).
        problems: every piece of bad input, in the order found.
        ready_made: whether the source states its split; False where it was drawn by the patients' names.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = ("normal", "opacity")
    exclusive: bool = False
    problems: tuple[Problem, ...] = ()
    ready_made: bool = True

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many problems of each kind, most frequent first."""
        return {str(kind): count for kind, count in Counter(problem.kind for problem in self.problems).most_common()}

    def part(self, split: str) -> tuple[Sample, ...]:
        """The samples of "train", "validation" or "test"."""
        return tuple(sample for sample in self.samples if sample.split == split)


def read(spec: str) -> Dataset:
    """Read the dataset `reader:folder?option=value`.

    Raises:
        DatasetError: no such reader, folder or option, or the folder cannot be read; the message says which there are.
    """
    source, _, query = spec.partition("?")
    name, _, folder = source.partition(":")
    try:
        reader = plugins.load(__name__, name)
    except LookupError as error:
        raise DatasetError(f"--data {spec}: {error}; write it as reader:folder") from error
    parameters = inspect.signature(reader).parameters
    options = dict(item.partition("=")[::2] for item in query.split("&") if item)
    unknown = sorted(options.keys() - (parameters.keys() - {"folder"}))
    if unknown:
        known = ", ".join(parameters.keys() - {"folder"}) or "none"
        raise DatasetError(f"--data {spec}: no option {', '.join(unknown)} of reader {name}; there is: {known}")
    if not folder and parameters["folder"].default is not inspect.Parameter.empty:
        dataset: Dataset = reader(**options)
        return dataset
    if not folder or not Path(folder).is_dir():
        raise DatasetError(f"--data {spec}: no folder {folder!r}; write it as reader:folder")
    dataset = reader(Path(folder), **options)
    if not dataset.samples:
        lines = "\n".join(format_problems(dataset.problems, limit=1))
        raise DatasetError(f"--data {spec}: no usable image\n{lines}".rstrip())
    return dataset


def attribution(reader: str) -> str:
    """Licence and attribution of a reader's data, for the model card; "" where they are the site's own to state."""
    module = importlib.import_module(f"{__name__}.{reader}")
    return str(getattr(module, "ATTRIBUTION", ""))


def split_of_fold(fold: int) -> str:
    """The part of the one split that a ready-made fold belongs to; "" for a negative fold."""
    if fold < 0:
        return ""
    return "test" if fold in TEST_FOLDS else "validation" if fold in VALIDATION_FOLDS else "train"


def fold_of_split(split: str) -> int:
    """A fold that `split_of_fold` takes back to `split`, for sources with a split and no folds; -1 for no split."""
    folds = {"test": min(TEST_FOLDS), "validation": min(VALIDATION_FOLDS)}
    folds["train"] = max(TEST_FOLDS | VALIDATION_FOLDS) + 1
    return folds.get(split, -1)


def fold_of_patient(patient_id: str) -> int:
    """One of ten folds drawn from the patient's name alone, for sources without a split of their own."""
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8]) % 10


class Collector:
    """Gathers the problems of one source while it is read, and makes its Dataset."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def note(self, kind: Kind, where: str, detail: str) -> None:
        """Record one problem."""
        self.problems.append(Problem(kind, where, detail))

    def box(self, where: str, corners: Box, width: float = 1.0, height: float = 1.0) -> Box | None:
        """A box in pixels of an image of `width` x `height` as fractions of it, cut to the image.

        Returns:
            None for a box without area or wholly outside, which is recorded as a box that had to be clipped is.
        """
        x, y, across, down = corners
        text = f"x={x:g} y={y:g} width={across:g} height={down:g} in an image of {width:g} x {height:g}"
        if across <= 0 or down <= 0:
            self.note(Kind.BOX_EMPTY, where, text)
            return None
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + across, width), min(y + down, height)
        if left >= right or top >= bottom:
            self.note(Kind.BOX_OUTSIDE, where, text)
            return None
        if (left, top) == (x, y) and x + across <= width and y + down <= height:
            return x / width, y / height, across / width, down / height
        self.note(Kind.BOX_CLIPPED, where, text)
        return left / width, top / height, (right - left) / width, (bottom - top) / height

    def sex(self, where: str, text: str) -> str:
        """A cell's F, M or O in either case; "" for an empty cell and for anything else, which is recorded."""
        if text.upper() in SEXES:
            return text.upper()
        if text:
            self.note(Kind.LABEL_UNKNOWN, where, f"sex={text}, known are {', '.join(SEXES)}")
        return ""

    def age(self, where: str, text: str) -> float | None:
        """Years of a cell; None for an empty cell and for what is no number from 0 to 120, which is recorded."""
        try:
            years = float(text)
        except ValueError:
            years = math.nan
        if 0 <= years <= OLDEST:
            return years
        if text:
            self.note(Kind.LABEL_UNKNOWN, where, f"age={text}, in years from 0 to {OLDEST}")
        return None

    def headers(self, paths: Iterable[Path]) -> dict[Path, Header]:
        """The headers of the image files that can be used; the others are recorded."""
        wanted = list(dict.fromkeys(paths))
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(_header_or_problem, wanted))
        self.problems += [entry for entry in found if isinstance(entry, Problem)]
        return {path: entry for path, entry in zip(wanted, found, strict=True) if isinstance(entry, Header)}

    def dataset(self, samples: Sequence[Sample], classes: tuple[str, ...], *, exclusive: bool = False) -> Dataset:
        """The Dataset of `samples`; a patient in two splits is kept in the most held-out one."""
        kept = self._held_out(samples)
        return Dataset(samples=kept, classes=classes, exclusive=exclusive, problems=tuple(self.problems))

    def _held_out(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        parts: dict[str, dict[str, int]] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for sample in samples:
            if sample.split:
                parts.setdefault(sample.patient_id, {}).setdefault(sample.split, sample.fold)
                counts[sample.patient_id, sample.split] += 1
        moved = {}
        for patient, folds in parts.items():
            if len(folds) > 1:
                split = max(folds, key=SPLITS.index)
                moved[patient] = (split, folds[split])
                images = ", ".join(f"{counts[patient, name]} images in {name}" for name in SPLITS if name in folds)
                self.note(Kind.PATIENT_IN_TWO_SPLITS, f"patient {patient}", f"{images}; all now in {split}")
        if not moved:
            return tuple(samples)
        return tuple(
            replace(sample, split=moved[sample.patient_id][0], fold=moved[sample.patient_id][1])
            if sample.split and sample.patient_id in moved
            else sample
            for sample in samples
        )


def _header_or_problem(path: Path) -> Header | Problem:
    try:
        return header(path)
    except FileNotFoundError:
        return Problem(Kind.IMAGE_MISSING, str(path), "no such file")
    except UnreadableImage as error:
        return Problem(Kind.IMAGE_UNREADABLE, str(path), str(error))


def format_problems(problems: Sequence[Problem], limit: int = 5) -> list[str]:
    """Text lines: each kind with its count, then its first `limit` cases and how many more there are."""
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        lines.append(f"{count} x {kind}")
        cases = [problem for problem in problems if problem.kind == kind][:limit]
        lines += [f"    {problem.where}: {problem.detail}" for problem in cases]
        if count > len(cases):
            lines.append(f"    and {count - len(cases)} more")
    return lines


def _input(sample: Sample, spec: InputSpec) -> NDArray[np.uint8] | Problem:
    try:
        pixels = load_pixels(sample.path) if sample.pixels is None else sample.pixels()
        preprocessing = Preprocessing.of(pixels, spec)
        if sample.visible is not None:  # percentiles of a part are not those of the whole
            preprocessing = Preprocessing(source_shape=preprocessing.source_shape, size=spec.size, low=0.0, high=1.0)
        return np.rint(preprocessing.apply(pixels) * 255).astype(np.uint8)
    except FileNotFoundError:
        return Problem(Kind.IMAGE_MISSING, str(sample.path), "no such file")
    except (UnreadableImage, GeometryError) as error:
        return Problem(Kind.IMAGE_UNREADABLE, str(sample.path), str(error))


def _inputs(samples: Sequence[Sample], spec: InputSpec) -> list[NDArray[np.uint8] | Problem]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda sample: _input(sample, spec), samples))


def load_inputs(samples: Sequence[Sample], spec: InputSpec) -> torch.Tensor:
    """All samples on the model's grid: uint8 (0 to 255), shape (N, 1, size, size), in the samples' order.

    Raises:
        DatasetError: images that cannot be decoded or are constant, all of them named.
    """
    found = _inputs(samples, spec)
    problems = [entry for entry in found if isinstance(entry, Problem)]
    if problems:
        raise DatasetError("\n".join(["images that cannot be used:", *format_problems(problems, limit=20)]))
    return _stack(found, spec)


def load_all(dataset: Dataset, spec: InputSpec) -> tuple[Dataset, torch.Tensor]:
    """Decode every image: the dataset without those that fail, its problems complete, and the inputs.

    Returns:
        the dataset, and uint8 images (0 to 255) of its samples in their order, shape (N, 1, size, size).
    """
    found = _inputs(dataset.samples, spec)
    problems = tuple(entry for entry in found if isinstance(entry, Problem))
    kept = tuple(sample for sample, entry in zip(dataset.samples, found, strict=True) if not isinstance(entry, Problem))
    return replace(dataset, samples=kept, problems=dataset.problems + problems), _stack(found, spec)


def _stack(found: Sequence[NDArray[np.uint8] | Problem], spec: InputSpec) -> torch.Tensor:
    arrays = [entry for entry in found if not isinstance(entry, Problem)]
    if not arrays:
        return torch.zeros((0, 1, spec.size, spec.size), dtype=torch.uint8)
    return torch.from_numpy(np.stack(arrays)[:, None])


def box_mask(sample: Sample, size: int) -> NDArray[np.bool_]:
    """The union of a sample's opacity boxes on the model's square grid, shape (size, size); see `union_mask`."""
    return union_mask(sample.boxes, size, sample.shape)


def union_mask(boxes: Iterable[Box], size: int, shape: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """The union of boxes on the model's square grid, shape (size, size); boxes are cut to whole pixels.

    An image that is not square is padded to a square as `Preprocessing` pads it.

    Args:
        boxes: fractions of the image's width and height.
        size: rows and columns of the grid.
        shape: rows and columns of the image, None = square.
    """
    mask = np.zeros((size, size), np.bool_)
    left, top, width, height = _place(shape)
    for x, y, across, down in boxes:
        first_column, first_row = int((left + x * width) * size), int((top + y * height) * size)
        last_column = int((left + (x + across) * width) * size)
        last_row = int((top + (y + down) * height) * size)
        mask[first_row:last_row, first_column:last_column] = True
    return mask


def _place(shape: tuple[int, int] | None) -> Box:
    """Where an image lies in its padded square: left, top, width, height as fractions of the side."""
    if shape is None or shape[0] == shape[1]:
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = shape
    side = max(shape)
    return (side - columns) // 2 / side, (side - rows) // 2 / side, columns / side, rows / side


def truth_mask(sample: Sample, size: int) -> NDArray[np.bool_]:
    """Where the opacities are, shape (size, size): the exact mask where the source has one, else the boxes' union."""
    if sample.mask is None:
        return box_mask(sample, size)
    if sample.mask.shape == (size, size):
        return sample.mask
    recorded = Preprocessing(source_shape=sample.mask.shape, size=size, low=0.0, high=1.0)
    covered: NDArray[np.bool_] = recorded.apply(sample.mask.astype(np.float32)) >= 0.5  # noqa: PLR2004 - half a pixel
    return covered
