"""The report of one classifier: its attributes as pictures, named by what can be measured, and their controls."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import stats

from explain_core.diffex.attributes import Attribute
from explain_core.diffex.ranking import prepare
from explain_core.engine import choose_device
from training.diffex import show
from training.diffex.explain import Found, encoded, opposite
from training.diffex.figures import KINDS
from training.diffex.request import Materials, Request
from training.measure.estimates import Figures
from training.report import attributes as report
from training.report.evaluation import cell

LEAST_CORRELATION, MOST_NAMED, SHOWN = 0.2, 3, 3
_STRIPS = (
    "Each strip is one image that is decided otherwise, changed along one attribute: backwards, as it is, half of it, "
    "all of it, and half more; below each frame the probability of the answer, bold where it is given. The last "
    "picture shows where the whole change makes it brighter (orange) and darker (blue)."
)
_MEANING = (
    "An attribute is a direction in the codes of a diffusion autoencoder. It shows what this classifier reacts to, "
    "which may be a sign of disease, a habit of this collection of images, or something that the autoencoder cannot "
    "keep apart from either. Correlations say what else differs between images, not what causes what."
)
_INTERVALS = "Intervals are of 95 %, from resampling patients of the test images, which chose nothing."
NOTES = (_STRIPS, _MEANING, _INTERVALS)


def page(asked: Request, given: Materials, found: Found, judged: Mapping[str, Any], figures: Figures) -> str:
    """The whole page as HTML.

    Args:
        asked: the run.
        given: its materials.
        found: its result.
        judged: what `judge.judge` said of it.
        figures: of all seeds.
    """
    result, subject = found.attributes, given.subject
    device = choose_device(asked.settings.device)
    images = given.test.images
    codes = encoded(result.model, subject, images, device)[1]
    known = show.covariates(given.test, () if given.reader is None else given.reader.factors)
    questions = []
    for question in subject.questions():
        name = subject.named(question)
        rows = judged["questions"][name]["attributes"]
        questions.append(
            {
                "name": name,
                "attributes": [
                    {
                        "name": one.name,
                        "facts": _facts(row, _alike(one, found, codes, known)),
                        "strips": _strips(one, found, given, device),
                    }
                    for one, row in zip(result.of(question), rows, strict=True)
                ],
                "table": _table(figures["questions"][name]),
                "notes": _controls(figures["questions"][name]),
            }
        )
    use = judged["use"]
    made = (
        f"{len(given.own)} images made it, {len(given.validation)} ranked it, {len(given.test)} judge it "
        f"({asked.data.partition(':')[0]}, {asked.settings.size} pixels a side). Classifier {given.explains[:12]}."
    )
    used = (
        f"The code is used: {use['use']:.2f} (at least .2). Of decoded images the classifier says what it says of the "
        f"images in {use['agreement']:.1%}."
    )
    return report.html(f"What decides about {subject.outputs[0]}", [made, used], questions, NOTES)


@torch.no_grad()
def _alike(one: Attribute, found: Found, codes: torch.Tensor, known: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the images' places along an attribute go with, the strongest first (Spearman)."""
    steps = one.step(found.attributes.bank, codes)
    along = (codes * steps).sum(dim=1).cpu().numpy() / max(one.length, 1e-9)
    pairs = []
    for name, values in known.items():
        use = np.isfinite(values)
        rho = float(stats.spearmanr(along[use], values[use]).statistic)
        if abs(rho) >= LEAST_CORRELATION:
            pairs.append((name, rho))
    return sorted(pairs, key=lambda pair: -abs(pair[1]))[:MOST_NAMED]


def _facts(row: Mapping[str, Any], alike: list[tuple[str, float]]) -> list[str]:
    changed, turned = np.mean(row["probability"]), np.mean(row["crossed"])
    first = (
        f"Moves the probability by {changed:+.2f} on average and turns {turned:.0%} of the images alone; "
        f"{np.mean(row['monotone']):.0%} rise with every part of it. Most of it lies "
        f"{show.place(np.asarray(row['picture']))}."
    )
    lines = [first]
    if "factors" in row:
        ordered = sorted(row["factors"].items(), key=lambda pair: -abs(pair[1]))[:2]
        told = ", then ".join(f"{name} by {value:+.2f}" for name, value in ordered)
        lines.append(f"Measured on the changed images, in standard deviations: {told}.")
    if alike:
        told = ", ".join(f"{name} ({rho:+.2f})" for name, rho in alike)
        lines.append(f"Images lie along it as they differ in: {told}.")
    if "oracle" in row:
        lines.append(f"Another classifier's probability moves the same way by {np.mean(row['oracle']):+.2f}.")
    return lines


def _strips(one: Attribute, found: Found, given: Materials, device: torch.device) -> list[dict[str, Any]]:
    other, _ = opposite(given.test.images, given.subject, one.question, SHOWN, device, least=1)
    ready = prepare(found.attributes.model, given.subject, other, found.attributes.how)
    shown = show.strips(found.attributes, given.subject, one, ready)
    threshold = 1 / len(given.subject.outputs) if given.subject.exclusive else given.subject.threshold
    limit = threshold if one.question.holds else 1 - threshold
    return [
        {
            "frames": [
                {
                    "picture": report.picture(strip.frames[number]),
                    "part": f"{part:g}",
                    "score": f"{strip.scores[number]:.2f}",
                    "turned": strip.scores[number] >= limit,
                }
                for number, part in enumerate(show.PARTS)
            ],
            "change": report.picture(strip.change),
        }
        for strip in shown
    ]


def _table(part: Figures) -> dict[str, Any]:
    columns = ["probability", "turned alone", "monotone", "oracle", "selectivity"]
    rows = [
        (
            KINDS[kind],
            [
                cell(row["probability"], signed=True), cell(row["crossed"]), cell(row["monotone"]),
                cell(row.get("oracle"), signed=True), f"{row['selectivity']:.1f}" if "selectivity" in row else "-",
            ],
        )
        for kind, row in part["kinds"].items()
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}


def _controls(part: Figures) -> list[str]:
    lines = [f"The order holds on other images: Kendall's tau {part['order']['tau'][0]:.2f}."]
    if part["together"]:
        lines.append(
            f"All attributes together turn {cell(part['together'][-1])}, random directions of the same length "
            f"{cell(part['random'][-1])}."
        )
    if part["stability"] is not None:
        lines.append(f"Likeness of the attributes of different seeds: {part['stability']:.2f}.")
    return lines
