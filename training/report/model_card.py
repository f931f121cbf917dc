"""The model card in Markdown, in one shape for every bundle: sections in a fixed order, numbers from one source."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from explain_core.generators.kinds import NONE
from training.calibration import HEADING, section_of
from training.gate import ALL, Verdict
from training.report import tables
from training.report.cells import Cell, Table, plain
from training.report.page import environment, headline, lineage

Figures = Mapping[str, Any]
HISTORY = "Training history"
TRAINING_HEADING = "## Training data\n"
_LIMITS = """
- Where PSNR(x, x_s) is 100 dB, x_s is the input itself, and the similarity figures say nothing more.
- Where the gain over the location prior is negative, a heatmap says less about where a finding is than the average
  place of findings does.
- The view (PA or AP) can be a confounder of the labels: read the figures per view.
- Groups with few test images have wide intervals; groups that are not listed were not measured at all.
- The test patients come from the same sources as the training patients; another site can give other figures.
- A heatmap shows what changes the classifier's decision. It is not a segmentation of disease.
"""


def sheet(
    *,
    name: str,
    version: str,
    purpose: str,
    training: str,
    numbers: str,
    calibration: str,
    limits: str,
    settings: str,
    history: str,
    history_heading: str = HISTORY,
) -> str:
    """A model card of ready-made sections, Markdown; `calibration` with its heading, as `calibration.section_of`."""
    template = environment(escape=False).get_template("model_card.md.j2")
    parts = {
        "purpose": purpose, "training": training, "numbers": numbers.rstrip() + "\n", "limits": limits,
        "calibration": calibration.rstrip() + "\n" if calibration else "", "settings": settings, "history": history,
    }  # fmt: skip
    stripped = {key: value if key in {"numbers", "calibration"} else value.strip() for key, value in parts.items()}
    return str(template.render(name=name, version=version, history_heading=history_heading, **stripped))


def card(
    figures: Figures,
    verdict: Verdict,
    job: Mapping[str, Any],
    history: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    provisional: str = "",
    training: str = "",
) -> str:
    """The model card of the challenger.

    Args:
        figures: what `comparison.compare` returned.
        verdict: what `gate.judge` made of them.
        job: as for `html`.
        history: as for `html`.
        provisional: the card that the bundle was made with; its section on calibration is kept.
        training: text on the training data, their licences and attribution.
    """
    own = figures["models"]["challenger"]
    sources = "\n".join(f"- {source}" for source in job.get("sources") or ())
    calibration = section_of(provisional) if HEADING in provisional else ""
    return sheet(
        name=own["name"],
        version=own["version"],
        purpose=_purpose(figures, own),
        training="\n\n".join(part for part in (training.strip(), _markdown(tables.data(figures)), sources) if part),
        numbers=_numbers(figures, verdict, job),
        calibration=calibration,
        limits=_LIMITS,
        settings=json.dumps(job.get("settings") or {}, indent=1, default=str),
        history="\n".join(
            json.dumps({"stage": stage} | dict(row), default=str) for stage, rows in history.items() for row in rows
        ),
    )


BY_GENERATORS = """two
generators make a similar image (same decision) and an adversarial image (opposite decision); their
difference is the heatmap (Charachon et al., arXiv:2012.07332)."""
BY_DIFFUSION = """the image is
noised a little and denoised again, pulled by the model's own head towards the other decision; what
changed is the heatmap (Kaleta et al., arXiv:2411.09434)."""


def says(label: object, how: str) -> str:
    """What a model says of a radiograph, and how it shows why."""
    return f'Says how likely a radiograph like its training images shows "{label}", and shows why: {how}'


def _purpose(figures: Figures, own: Mapping[str, Any]) -> str:
    generators = own["generators"]
    classifier = (
        f"{own['architecture']}, input {own['size']} x {own['size']} pixels, decision threshold {own['threshold']}, "
        f"temperature {own['temperature']:.3g}."
    )
    label = figures.get("label")
    if generators.get("kind") == NONE:
        return f"{says(label, BY_DIFFUSION)}\n\n- Joint diffusion model: {classifier}"
    heads = generators.get("head_layers", "-")
    return (
        f"{says(label, BY_GENERATORS)}\n\n"
        f"- Classifier: {classifier}\n"
        f"- Generators: one trunk with filters {list(generators.get('filters', ()))}, heads of {heads} layers, output\n"
        f'  kind "{generators.get("kind", "-")}", variant "{generators.get("output", "-")}", '
        f"adversarial heads: {generators.get('decisions', '-')}."
    )


def _numbers(figures: Figures, verdict: Verdict, job: Mapping[str, Any]) -> str:
    counted, other = figures["groups"][ALL], figures["models"]["champion"]
    on = (
        f"{counted['images']} images of {counted['patients']} patients, {counted['labelled']} labelled, "
        f"{counted['positive']} positive; nothing was trained or chosen on them.\n"
        "In brackets: 95 % intervals by patient. "
        f"The champion is {other['name']} {other['version']}, digest `{other['digest'][:16]}`; differences are paired."
    )
    parts = [
        on,
        f"**{headline(verdict)}.**" + "".join(f"\n- {finding.sentence}" for finding in verdict.failures),
    ]
    if job.get("forced") and not verdict.passed:
        parts.append(f"Forced in spite of the verdict. Reason given: {plain(str(job['forced']))}")
    found = (tables.classifier(figures), tables.subgroups(figures), tables.explanations(figures))
    parts += [_markdown(table) for table in found]
    localisation = tables.localisation(figures)
    parts += [_markdown(localisation)] if localisation else ["No test image has boxes: localisation was not measured."]
    parts.append("\n".join(f"- {name}: `{value}`" for name, value in lineage(figures, job)))
    return "\n\n".join(parts)


def _markdown(table: Table) -> str:
    lines = [f"**{plain(table.title)}**", ""]
    if table.text:
        lines += [plain(table.text), ""]
    lines += [f"| | {' | '.join(map(plain, table.columns))} |", "|---|" + "---|" * len(table.columns)]
    lines += [f"| {plain(line.name)} | {' | '.join(map(_cell, line.cells))} |" for line in table.lines]
    if table.notes:
        lines += ["", *(plain(note) for note in table.notes)]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    parts = (cell.text, f"({cell.small})" if cell.small else "", cell.mark)
    return " ".join(plain(part) for part in parts if part)
