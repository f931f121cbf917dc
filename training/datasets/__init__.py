"""One reader per source; every split is by patient.

A dataset is named on the command line as `reader:folder`, for example `nih:../shared/data/nih_cxr14_subset`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from explain_core import plugins
from explain_core.geometry import InputSpec, Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled radiograph on disk.

    Attributes:
        path: the image file.
        patient_id: who was imaged; no patient may be in two parts of a split.
        fold: a ready-made fold by patient, or -1.
        view: "PA", "AP" or "".
        target: 1 = opacity, 0 = normal, None = neither or not known.
        target_source: who said so, e.g. "expert" or "textmined".
        findings: further labels of the source, e.g. the NIH findings.
        boxes: opacity boxes as (x, y, width, height) fractions of the image's width and height.
    """

    path: Path
    patient_id: str
    fold: int
    view: str
    target: int | None
    target_source: str
    findings: frozenset[str] = frozenset()
    boxes: tuple[tuple[float, float, float, float], ...] = field(default=())


def read(spec: str) -> list[Sample]:
    """Read the dataset `reader:folder`.

    Raises:
        SystemExit: no such reader or folder; the message says which there are.
    """
    name, _, folder = spec.partition(":")
    try:
        reader = plugins.load(__name__, name)
    except LookupError as error:
        raise SystemExit(f"--data {spec}: {error}; write it as reader:folder") from error
    if not folder or not Path(folder).is_dir():
        raise SystemExit(f"--data {spec}: no folder {folder!r}; write it as reader:folder")
    samples: list[Sample] = reader(Path(folder))
    return samples


def load_pixels(path: Path) -> NDArray[np.float32]:
    """An image file as luminance, float32 in [0, 1], shape (rows, columns)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float32) / np.float32(255)


def load_inputs(samples: Sequence[Sample], spec: InputSpec) -> torch.Tensor:
    """All samples on the model's grid: uint8 (0 to 255), shape (N, 1, size, size), in the samples' order."""

    def one(sample: Sample) -> NDArray[np.uint8]:
        pixels = load_pixels(sample.path)
        return np.rint(Preprocessing.of(pixels, spec).apply(pixels) * 255).astype(np.uint8)

    with ThreadPoolExecutor(4) as pool:
        return torch.from_numpy(np.stack(list(pool.map(one, samples)))[:, None])


def box_mask(sample: Sample, size: int) -> NDArray[np.bool_]:
    """The union of a sample's boxes on a square grid, shape (size, size); boxes are cut to whole pixels."""
    mask = np.zeros((size, size), np.bool_)
    for x, y, width, height in sample.boxes:
        left, top = int(x * size), int(y * size)
        mask[top : int((y + height) * size), left : int((x + width) * size)] = True
    return mask
