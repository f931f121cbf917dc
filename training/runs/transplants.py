"""Lungs of one patient in the chest of another: images of lungs alone made to teach whether there is an opacity.

Of some radiographs only the lungs are there, and the outline of what is left gives the label away, for whoever made it
left consolidated lung out. Such lungs are put into the lungs of a whole radiograph without an opacity, the host. What
is put there is cut to the outline of a partner as well: of lungs without an opacity where there is one, and of lungs
with an opacity where there is none. Each transplant so has one outline of either kind, and no outline tells anything.
The rest of the chest, its view included, is the host's, whatever the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from explain_core.geometry import InputSpec, Preprocessing
from training import datasets
from training.cohort import TRAIN
from training.datasets import Box, Dataset, Sample
from training.errors import TrainingError
from training.runs.evidence_targets import OUTPUTS, Lessons

PARTS = 12_000
"""Images of lungs alone that are learnt from: all with boxes, and of the others as many as make up this number."""
SIDE = 320
"""Rows and columns on which images are put together, whatever their own."""
TRUST = 0.5
"""How far the label of a transplant is believed beside a radiologist's of a whole image."""
_MAP = 0.7
_SPECK = 0.15  # of the largest piece of a mask: smaller ones are no lung
_LEAST = 0.06  # of the image: less lung shows nothing
_SHOWN, _TOLD = 0.5, 0.35  # share of the boxes that the outline leaves, and that the partner's leaves of it
_DARKEST = 0.1
_CHUNK = 64
_EDGE = 5  # pixels over which a transplant passes into its host

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Lungs:
    """Lungs on the common grid: luminance in [0, 1], where they are, and the mask's left, top, right, bottom."""

    pixels: NDArray[np.float32]
    mask: Mask
    extent: tuple[float, float, float, float]


def parts_of(source: str, dataset: Dataset) -> list[Sample]:
    """The images of lungs alone that no held-out patient of the whole images is on: all with boxes, and others.

    Args:
        source: of the images of lungs alone, a reader and folder.
        dataset: the whole images, with their splits.

    Raises:
        DatasetError: the source cannot be read.
    """
    held = {sample.patient_id for sample in dataset if sample.split != TRAIN}
    usable = [sample for sample in datasets.read(source) if sample.patient_id not in held]
    boxed, clear = ([s for s in usable if bool(s.boxes) is has] for has in (True, False))
    order = np.random.default_rng(0).permutation(len(clear))
    return [*boxed, *(clear[index] for index in order[: max(PARTS - len(boxed), 0)])]


def of_transplants(parts: Sequence[Sample], whole: Sequence[Sample], spec: InputSpec, seed: int = 0) -> Lessons:
    """A transplant of each image of lungs alone that shows enough, with its label and its map.

    The label is trusted where enough of the boxes can be seen. A cell of a box that is cut off is not visible.

    Args:
        parts: images of lungs alone, with what is visible of them; an image without boxes has no opacity.
        whole: images among which hosts are: those without an opacity whose lungs are known.
        spec: of the images made.
        seed: of the draw of hosts and partners.

    Raises:
        TrainingError: no hosts, or no lungs with or without boxes.
        DatasetError: an image cannot be used.
    """
    hosts = [_lungs(sample, sample.lungs()) for sample in whole if sample.lungs is not None and sample.target != 1]
    cleaned = [(sample, _pieces(_on_grid(sample.visible()))) for sample in parts if sample.visible is not None]
    seen = [(sample, mask) for sample, mask in cleaned if mask.mean() > _LEAST]
    shown = [
        float(mask[box].sum() / max(box.sum(), 1))
        for mask, box in ((mask, datasets.union_mask(sample.boxes, SIDE, sample.shape)) for sample, mask in seen)
    ]
    has = np.array([bool(sample.boxes) for sample, _ in seen], bool)
    told = ~has | (np.array(shown) >= _SHOWN)
    if not hosts or not (has & told).any() or has.all():
        raise TrainingError(
            f"{len(hosts)} whole images without an opacity whose lungs are known, {int((has & told).sum())} images of "
            f"lungs with an opacity and {int((~has).sum())} without: transplants need some of each"
        )
    drawn = np.random.default_rng(seed)
    partners = [np.flatnonzero(has & told), np.flatnonzero(~has)]
    made: list[Lessons] = []
    for first in range(0, len(seen), _CHUNK):
        rows = range(first, min(first + _CHUNK, len(seen)))
        theirs = [hosts[drawn.integers(len(hosts))] for _ in rows]
        other = [int(drawn.choice(partners[int(has[row])])) for row in rows]
        own = [_lungs(*seen[row]) for row in rows]
        labels = torch.from_numpy(has[list(rows)]), torch.from_numpy(told[list(rows)])
        beside, marked = [seen[row][1] for row in other], [seen[row][0].boxes for row in rows]
        made.append(_chunk(own, beside, theirs, marked, labels, spec))
    return Lessons.joined(made)


def _chunk(
    own: Sequence[_Lungs],
    partners: Sequence[Mask],
    hosts: Sequence[_Lungs],
    boxes: Sequence[tuple[Box, ...]],
    labels: tuple[Tensor, Tensor],
    spec: InputSpec,
) -> Lessons:
    """Transplants of a few lungs; `labels` are whether there is an opacity, and whether its boxes can be seen."""
    there = torch.stack([_onto(host.extent, lungs.extent) for host, lungs in zip(hosts, own, strict=True)])
    beside = torch.stack([_onto(host.extent, _extent(mask)) for host, mask in zip(hosts, partners, strict=True)])
    cut = _moved(_stacked([lungs.mask for lungs in own]), there) > 0.5  # noqa: PLR2004 - half a pixel
    cut &= _moved(_stacked(partners), beside) > 0.5  # noqa: PLR2004
    cut &= _stacked([host.mask for host in hosts]) > 0.5  # noqa: PLR2004
    inner = -functional.max_pool2d(-cut.float(), _EDGE, 1, _EDGE // 2)
    alpha = functional.avg_pool2d(inner, _EDGE, 1, _EDGE // 2)
    lungs = _moved(_stacked([one.pixels for one in own]), there)
    chest = _stacked([host.pixels for host in hosts])
    for row, place in enumerate(cut):  # the darkest lung of both is as dark: an opacity stays as much brighter
        if place.any():
            lungs[row] += torch.quantile(chest[row][place], _DARKEST) - torch.quantile(lungs[row][place], _DARKEST)
    images = (chest * (1 - alpha) + lungs * alpha).clamp(0, 1)
    moved = [_boxes(one, place) for one, place in zip(boxes, there.numpy(), strict=True)]
    marked = _stacked([datasets.union_mask(one, SIDE) for one in moved])
    put = (alpha > 0.5).float()  # noqa: PLR2004
    seen = (marked * put).sum((1, 2, 3)) / marked.sum((1, 2, 3)).clamp(min=1)
    opacity, told = labels
    trusted = told & (~opacity | (seen >= _TOLD)) & (put.mean((1, 2, 3)) > _LEAST)
    count = len(own)
    weights, maps, known = (torch.zeros(count, len(OUTPUTS)) for _ in range(3))
    known[:, 0], weights[:, 0], maps[:, 0] = opacity.float(), TRUST * trusted.float(), _MAP
    return Lessons(
        images=torch.cat([_input(one, spec) for one in images]),
        labels=known,
        trust=weights,
        boxes=tuple({0: one} if one else {} for one in moved),
        map_trust=maps,
        visible=functional.adaptive_avg_pool2d(marked * (1 - put), spec.size // 4) < 0.5,  # noqa: PLR2004
        shapes=(None,) * count,
    )


def _input(image: Tensor, spec: InputSpec) -> Tensor:
    pixels = image[0].numpy()
    return torch.from_numpy(np.rint(Preprocessing.of(pixels, spec).apply(pixels) * 255).astype(np.uint8))[None, None]


def _lungs(sample: Sample, mask: Mask) -> _Lungs:
    pixels = datasets.load_pixels(sample.path) if sample.pixels is None else sample.pixels()
    grid = Preprocessing(source_shape=(pixels.shape[0], pixels.shape[1]), size=SIDE, low=0.0, high=1.0)
    clean = _pieces(_on_grid(mask))
    return _Lungs(grid.apply(pixels), clean, _extent(clean))


def _on_grid(mask: Mask) -> Mask:
    grid = Preprocessing(source_shape=(mask.shape[0], mask.shape[1]), size=SIDE, low=0.0, high=1.0)
    found: Mask = grid.apply(mask.astype(np.float32)) >= 0.5  # noqa: PLR2004 - half a pixel
    return found


def _pieces(mask: Mask) -> Mask:
    """A mask without its specks."""
    pieces, count = ndimage.label(mask)
    if not count:
        return mask
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    kept: Mask = (areas >= _SPECK * areas.max())[pieces]
    return kept


def _extent(mask: Mask) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a mask in pixels; of an empty one, of the whole grid."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0.0, 0.0, float(SIDE), float(SIDE)
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _onto(host: tuple[float, ...], own: tuple[float, ...]) -> Tensor:
    """The affine map, shape (2, 3), from the host's coordinates in [-1, 1] to those of the lungs that fill its own."""
    scales, shifts = [], []
    for low, high in ((0, 2), (1, 3)):
        scale = (own[high] - own[low]) / (host[high] - host[low])
        centres = [(one[low] + one[high]) / SIDE - 1 for one in (own, host)]
        scales.append(scale)
        shifts.append(centres[0] - scale * centres[1])
    return torch.tensor([[scales[0], 0.0, shifts[0]], [0.0, scales[1], shifts[1]]], dtype=torch.float32)


def _moved(images: Tensor, maps: Tensor) -> Tensor:
    places = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, places, align_corners=False)


def _boxes(boxes: Sequence[Box], onto: NDArray[np.float32]) -> tuple[Box, ...]:
    """Boxes of the lungs where they come to lie in the host, cut to the image."""
    scale, shift = np.diagonal(onto[:, :2]).astype(float), onto[:, 2].astype(float)
    found = []
    for x, y, width, height in boxes:
        corners = (2 * np.array([[x, y], [x + width, y + height]]) - 1 - shift) / scale
        (left, top), (right, bottom) = np.clip((corners + 1) / 2, 0.0, 1.0).tolist()
        if right > left and bottom > top:
            found.append((left, top, right - left, bottom - top))
    return tuple(found)


def _stacked(grids: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.stack([grid.astype(np.float32) for grid in grids]))[:, None]
