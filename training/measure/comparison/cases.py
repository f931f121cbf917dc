"""Test cases for the report, failures first, each with the reason that the challenger gives beside the image."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from explain_core import display
from explain_core.explainer import BundleExplainer
from explain_core.files import write
from explain_core.geometry import Preprocessing
from training.cohort import Cohort
from training.measure.comparison.scores import MAP_COST, Meter

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
FALSE_NEGATIVE, FALSE_POSITIVE = "false negative", "false positive"
NOT_CHANGED, DISAGREED, CORRECT = "decision not changed", "models disagree", "correct"
PANELS = ("radiograph", "challenger's heatmap", "challenger's adversarial image", "champion's heatmap")
_GAP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image to show: its place in the test cohort and why it is shown."""

    place: int
    kind: str


def choose(
    targets: NDArray[np.int64],
    scores: Mapping[str, Mapping[str, Floats]],
    thresholds: Mapping[str, float],
    count: int,
    seed: int,
) -> tuple[list[Case], dict[str, int]]:
    """Which test images to show, and how many there are of each kind.

    The most confident wrong decisions come first (up to half of the cases), then decisions that the adversarial image
    did not change and images on which the models disagree (up to a sixth each, the most confident first), then as many
    correct decisions by a seeded draw. What one kind does not fill, the wrong ones and then the others take.

    Args:
        targets: class index, -1 where none is known, shape (N,).
        scores: "champion" and "challenger", each with f_x and f_x_a, shape (N,).
        thresholds: of both.
        count: of cases, at most.
        seed: of the draw.
    """
    own, limit = scores["challenger"], thresholds["challenger"]
    called = own["f_x"] >= limit
    sure = np.where(called, (own["f_x"] - limit) / max(1 - limit, 1e-9), (limit - own["f_x"]) / max(limit, 1e-9))
    wrong = (targets >= 0) & (called != (targets > 0))
    kinds = {
        FALSE_NEGATIVE: wrong & ~called,
        FALSE_POSITIVE: wrong & called,
        NOT_CHANGED: (own["f_x_a"] >= limit) == called,
        DISAGREED: (scores["champion"]["f_x"] >= thresholds["champion"]) != called,
        CORRECT: (targets >= 0) & ~wrong,
    }
    order: dict[str, Places] = {kind: _falling(use, sure) for kind, use in kinds.items()}
    order[CORRECT] = np.random.default_rng(seed).permutation(order[CORRECT])
    errors = np.concatenate([order[FALSE_NEGATIVE], order[FALSE_POSITIVE]])
    order["wrong"] = errors[np.argsort(-sure[errors], kind="stable")]
    quota = {"wrong": count // 2, NOT_CHANGED: count // 6, DISAGREED: count // 6, CORRECT: count // 6}
    chosen: dict[int, str] = {}
    for wanted in (quota, dict.fromkeys(quota, count)):
        for kind, most in wanted.items():
            fresh = [place for place in order[kind].tolist() if place not in chosen]
            chosen |= dict.fromkeys(fresh[: min(most, count - len(chosen))], kind)
    cases = [Case(place=p, kind=_kind(k, called=bool(called[p]))) for p, k in chosen.items()]
    cases.sort(key=lambda case: (list(kinds).index(case.kind), -sure[case.place]))
    return cases, {kind: int(use.sum()) for kind, use in kinds.items()}


def _kind(kind: str, *, called: bool) -> str:
    return kind if kind != "wrong" else FALSE_POSITIVE if called else FALSE_NEGATIVE


def _falling(use: NDArray[np.bool_], sure: Floats) -> Places:
    """The places in `use`, the most confident decision first."""
    places = np.flatnonzero(use)
    return np.asarray(places[np.argsort(-sure[places], kind="stable")])


def draw(
    explainers: Mapping[str, BundleExplainer],
    test: Cohort,
    cases: list[Case],
    scores: Mapping[str, Mapping[str, Floats]],
    name: str,
    cache: Path | None,
    meter: Meter,
) -> list[dict[str, Any]]:
    """Each case for JSON: what is known of it, and its panels as "file" under `cache`, or as base64 in "png".

    Neither the patient nor the file is named; "image" is the place in the test cohort.
    """
    found = []
    for number, case in enumerate(cases, start=1):
        place = case.place
        target = int(test.targets[place])
        entry: dict[str, Any] = {
            "number": number,
            "image": place,
            "kind": case.kind,
            "target": test.classes[target] if target >= 0 else "unknown",
            "view": test.views[place],
            "boxes": int(test.boxes[place]),
            "panels": list(PANELS),
        }
        for role, values in scores.items():
            entry[role] = round(float(values["f_x"][place]), 4)
            entry[f"{role}_adversarial"] = round(float(values["f_x_a"][place]), 4)
        entry |= _picture(lambda place=place: panels(explainers, test, place), name, place, cache)  # type: ignore[misc]
        meter.add(2 * MAP_COST, case=number)
        found.append(entry)
    return found


def _picture(make: Callable[[], NDArray[np.uint8]], name: str, place: int, cache: Path | None) -> dict[str, str]:
    path = None if cache is None else cache / "cases" / f"{name}-{place:05d}.png"
    if path is not None and path.is_file():
        return {"file": str(path)}
    buffer = io.BytesIO()
    Image.fromarray(make()).save(buffer, format="PNG", optimize=True)
    if path is None:
        return {"png": base64.b64encode(buffer.getvalue()).decode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, buffer.getvalue())
    return {"file": str(path)}


@torch.no_grad()
def panels(explainers: Mapping[str, BundleExplainer], test: Cohort, place: int) -> NDArray[np.uint8]:
    """`PANELS` of one image side by side, uint8 sRGB, shape (rows, columns, 3); boxes outlined on the first."""
    own, other = explainers["challenger"], explainers["champion"]
    shape = test.shapes[place]
    crop = Preprocessing(source_shape=shape, size=test.size, low=0.0, high=1.0).unpad
    x = test.images[place][None].float() / 255
    grey = crop(x[0, 0].numpy())
    heat, changed = _explained(own, x)
    pictures = [
        _outlined(_rgb(grey), test.truths[place], crop),
        display.fuse(grey, crop(heat), own.bundle.heatmaps[own.method].scale),
        _rgb(crop(changed)),
        display.fuse(grey, crop(_explained(other, x)[0]), other.bundle.heatmaps[other.method].scale),
    ]
    gap = np.full((grey.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _explained(explainer: BundleExplainer, x: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The heatmap as it is shown and the adversarial image of one image, shape (S, S) each."""
    image = x.to(explainer.device)
    decision = explainer.decisions(explainer.probabilities(image))
    shown = explainer.shown(image, decision)[0]
    changed = explainer.counterfactuals(image, decision)[1]
    return shown[0, 0].cpu().numpy(), changed[0, 0].cpu().numpy()


def _rgb(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    plane = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return np.repeat(plane[..., np.newaxis], 3, axis=2)


def _outlined(
    picture: NDArray[np.uint8],
    truth: NDArray[np.bool_] | None,
    crop: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.uint8]:
    if truth is None:
        return picture
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for line in display.outlines(crop(truth.astype(np.float32)) > 0.5):  # noqa: PLR2004 - a mask
        points = [(float(x), float(y)) for x, y in line]
        pen.line(points, fill=(0, 0, 0), width=3)
        pen.line(points, fill=(255, 255, 255), width=1)
    return np.asarray(image)
