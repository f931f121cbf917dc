"""Images of samples on the model's grid."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from explain_core.errors import GeometryError
from explain_core.geometry import InputSpec, Preprocessing
from training.datasets.collecting import format_problems
from training.datasets.images import THREADS, UnreadableImage, load_pixels
from training.datasets.samples import Dataset, Sample
from training.datasets.tables import DatasetError, Kind, Problem


def _input(sample: Sample, spec: InputSpec) -> NDArray[np.uint8] | Problem:
    try:
        pixels = load_pixels(sample.path) if sample.pixels is None else sample.pixels()
        preprocessing = Preprocessing.of(pixels, spec)
        if sample.plain or sample.visible is not None:  # percentiles of a part are not those of the whole
            preprocessing = Preprocessing(source_shape=preprocessing.source_shape, size=spec.size, low=0.0, high=1.0)
        return np.rint(preprocessing.apply(pixels) * 255).astype(np.uint8)
    except FileNotFoundError:
        return Problem(Kind.IMAGE_MISSING, str(sample.path), "no such file")
    except (UnreadableImage, GeometryError) as error:
        return Problem(Kind.IMAGE_UNREADABLE, str(sample.path), str(error))


def _inputs(samples: Sequence[Sample], spec: InputSpec) -> list[NDArray[np.uint8] | Problem]:
    with ThreadPoolExecutor(THREADS) as pool:
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
