"""What an image teaches a classifier that decides by maps: labels, boxes, and how far each is to be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from explain_core.geometry import InputSpec, Preprocessing
from training import datasets
from training.cohort import TRAIN, VALIDATION, Cohort
from training.datasets import loading, masks
from training.datasets.readers.nih import OPACITY
from training.datasets.samples import Box, Dataset, Sample

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
"""The findings that NIH has boxes of: outputs after the first."""
OUTPUTS = (OPACITY, *FINDINGS)
_OPAQUE = frozenset({"Atelectasis", "Infiltration", "Pneumonia"})
_GRID = 4  # pixels of the input a cell of the truths

EXPERT, TEXT, OTHER_ABNORMAL = 1.0, 0.6, 0.5
"""How far a label is believed: a radiologist's, one mined from text, and "Not Normal" as no opacity."""
_NO_BOXES = {"expert": 1.0, "expert_other": 0.7, "textmined": 0.3}
POSITIVE = 3.0
"""Weight of cells within boxes beside the others' 1."""
_OTHERS_BOXES, _FINDING, _LUNGS = 0.4, 0.3, 0.5
PARTS = 12_000
"""Images of which only a part is visible: all with boxes, and of the others as many as make up this number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """Images with what they teach; O outputs.

    Attributes:
        images: uint8 (0 to 255), shape (N, 1, S, S).
        labels: of each output, 0 or 1, float, shape (N, O).
        trust: weight of each label, 0 where it is not known, shape (N, O).
        boxes: where each output's evidence lies, an image each.
        map_trust: weight of each map, 0 where nobody said, shape (N, O).
        visible: bool, shape (N, 1, S/4, S/4): what there is to see; None: everything.
        shapes: rows and columns of each source.
    """

    images: Tensor
    labels: Tensor
    trust: Tensor
    boxes: tuple[Mapping[int, tuple[Box, ...]], ...]
    map_trust: Tensor
    visible: Tensor | None
    shapes: tuple[tuple[int, int] | None, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> "Lessons":
        """Those at `index`, int64, shape (M,)."""
        chosen = index.tolist()
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            trust=self.trust[index],
            boxes=tuple(self.boxes[i] for i in chosen),
            map_trust=self.map_trust[index],
            visible=None if self.visible is None else self.visible[index],
            shapes=tuple(self.shapes[i] for i in chosen),
        )

    def truths(self) -> Tensor:
        """Union masks of the boxes, float, shape (N, O, S/4, S/4)."""
        side = self.images.shape[-1] // _GRID
        found = torch.zeros(len(self), self.labels.shape[1], side, side)
        for row, (boxes, shape) in enumerate(zip(self.boxes, self.shapes, strict=True)):
            for output, marked in boxes.items():
                found[row, output] = torch.from_numpy(masks.union_mask(marked, side, shape))
        return found


def usable_parts(source: str, dataset: Dataset) -> list[Sample]:
    """Images of parts, of a reader and folder, that no held-out patient of the whole images in `dataset` is on."""
    held = {sample.patient_id for sample in dataset if sample.split != TRAIN}
    usable = [sample for sample in datasets.read(source) if sample.patient_id not in held]
    boxed, clear = ([s for s in usable if bool(s.boxes) is has] for has in (True, False))
    order = np.random.default_rng(0).permutation(len(clear))
    return [*boxed, *(clear[index] for index in order[: max(PARTS - len(boxed), 0)])]


def lessons_of(dataset: Dataset, parts: Sequence[Sample], spec: InputSpec) -> tuple[Lessons, Lessons | None, Lessons]:
    """What the training patients' whole images, the parts and the validation patients' whole images teach."""
    whole, validation = (of_whole(dataset.part(split), spec) for split in (TRAIN, VALIDATION))
    return whole, of_parts(parts, spec) if parts else None, validation


def of_whole(samples: Sequence[Sample], spec: InputSpec) -> Lessons:
    """Whole radiographs of the NIH reader: labels and boxes of radiologists, labels mined from text."""
    labels, trust, map_trust, boxes = [], [], [], []
    for sample in samples:
        source, abnormal = sample.target_source, sample.target is None and sample.target_source == "expert_other"
        here: dict[int, tuple[Box, ...]] = {}
        if sample.boxes:
            here[0], opacity_map = sample.boxes, EXPERT
        elif sample.target == 0 or abnormal:
            opacity_map = _NO_BOXES.get(source, 0.0)
        else:
            of_others = [box for name in sorted(_OPAQUE) for box in sample.finding_boxes.get(name, ())]
            here, opacity_map = ({0: tuple(of_others)}, _OTHERS_BOXES) if of_others else ({}, 0.0)
        maps = [opacity_map]
        for output, name in enumerate(FINDINGS, start=1):
            marked = sample.finding_boxes.get(name, ())
            if marked:
                here[output] = tuple(marked)
            maps.append(_FINDING if marked or name not in sample.findings else 0.0)
        known = EXPERT if source == "expert" else TEXT
        opacity = known if sample.target is not None else OTHER_ABNORMAL if abnormal else 0.0
        labels.append([float(bool(sample.target)), *(float(name in sample.findings) for name in FINDINGS)])
        trust.append([opacity, *([_FINDING] * len(FINDINGS))])
        map_trust.append(maps)
        boxes.append(here)
    return Lessons(
        images=loading.load_inputs(samples, spec),
        labels=torch.tensor(labels),
        trust=torch.tensor(trust),
        boxes=tuple(boxes),
        map_trust=torch.tensor(map_trust),
        visible=None,
        shapes=tuple(sample.shape for sample in samples),
    )


def of_parts(samples: Sequence[Sample], spec: InputSpec) -> Lessons:
    """Images of which only a part is visible: they teach the first output's map, and no label."""
    count, side = len(samples), spec.size // _GRID
    visible = np.zeros((count, 1, side, side), np.bool_)
    for row, sample in enumerate(samples):
        if sample.visible is not None:
            mask = sample.visible()
            there = Preprocessing(source_shape=(mask.shape[0], mask.shape[1]), size=side, low=0.0, high=1.0)
            visible[row, 0] = there.apply(mask.astype(np.float32)) >= 0.5  # noqa: PLR2004 - half a cell
    map_trust = torch.zeros(count, len(OUTPUTS))
    map_trust[:, 0] = _LUNGS
    return Lessons(
        images=loading.load_inputs(samples, spec),
        labels=torch.zeros(count, len(OUTPUTS)),
        trust=torch.zeros(count, len(OUTPUTS)),
        boxes=tuple({0: sample.boxes} if sample.boxes else {} for sample in samples),
        map_trust=map_trust,
        visible=torch.from_numpy(visible),
        shapes=tuple(sample.shape for sample in samples),
    )


def maps_known(images: Cohort) -> Tensor:
    """How far the map of each image is known, 0 to 1, shape (N,): where lesions are marked, or there are none."""
    expert = np.array([source == "expert" for source in images.sources])
    marked = np.array([truth is not None for truth in images.truths])
    return torch.from_numpy(
        np.where(marked, EXPERT, np.where(images.targets == 0, np.where(expert, EXPERT, _NO_BOXES["textmined"]), 0.0))
    ).float()


def image_loss(logits: Tensor, labels: Tensor, trust: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy of logits, shape (N, O), each weighted by how far its label is believed."""
    smooth = labels * (1 - 2 * smoothing) + smoothing
    each = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none") * trust
    return each[:, 0].sum() / trust[:, 0].sum().clamp(min=1) + each[:, 1:].sum() / max(each[:, 1:].numel(), 1)


def map_loss(maps: Tensor, truths: Tensor, trust: Tensor, visible: Tensor | None, positive: float) -> Tensor:
    """Binary cross-entropy of every visible cell against the share of it that boxes cover.

    Args:
        maps: logits, shape (N, O, h, w).
        truths: covered shares in [0, 1], same shape.
        trust: weight of each map, shape (N, O).
        visible: share of each cell that there is to see, shape (N, 1, h, w); None: all.
        positive: weight of covered cells beside the others' 1.
    """
    each = functional.binary_cross_entropy_with_logits(maps, truths, reduction="none")
    weight = trust[..., None, None] * (1 + (positive - 1) * truths)
    seen = torch.ones_like(maps[:, :1]) if visible is None else visible.to(maps.dtype)
    return (each * weight * seen).mean(dim=(-2, -1)).sum() / len(maps)
