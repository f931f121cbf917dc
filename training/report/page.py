"""The page of a training run: the verdict and its reasons first, then everything that they rest on."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.gate import Verdict
from training.report import charts, tables

Figures = Mapping[str, Any]
TEMPLATES = Path(__file__).parent.parent / "templates"
_SYMBOLS = {"passed": "✓", "failed": "✗", "not judged": "?"}
_LINEAGE = {
    "job": "Job",
    "parent_digest": "Parent model",
    "data_sha256": "Training data",
    "code_version": "Code version",
    "seeds": "Seeds",
}


def environment(*, escape: bool) -> Any:
    """The templates of this package; a name that is not given is an error."""
    import jinja2  # noqa: PLC0415 - extra "training"

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=escape,  # noqa: S701 - the card is Markdown, the page escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def html(
    figures: Figures,
    verdict: Verdict,
    job: Mapping[str, Any],
    history: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    folder: Path | None = None,
) -> str:
    """The report as one HTML file that loads nothing from elsewhere.

    Args:
        figures: what `comparison.compare` returned.
        verdict: what `gate.judge` made of them.
        job: what made the run, all keys optional: "id", "name", "created_at", "settings" (a table), "lineage"
            (parent_digest, code_version, seeds, data_sha256, ...), "sources" (texts), "forced" (the reason given).
        history: of each stage of training, its reports in order, e.g. {"classifier": [{"epoch": 1, "loss": 0.6}]}.
        folder: where the cases' pictures lie, if they were moved since.
    """
    own, other = figures["models"]["challenger"], figures["models"]["champion"]
    name = str(job.get("name") or job.get("id") or "training run")
    return str(
        environment(escape=True)
        .get_template("run_report.html.j2")
        .render(
            title=f"{name}: {own['name']} {own['version']}",
            own=own,
            other=other,
            job=job,
            made=figures["made"],
            headline=headline(verdict),
            verdict=verdict,
            findings=[
                asdict(one) | {"symbol": _SYMBOLS[one.outcome], "kind": one.outcome.replace(" ", "-")}
                for one in verdict.findings
            ],
            curves=charts.curves(figures),
            classifier=tables.classifier(figures),
            confusions=[tables.confusion(figures, role) for role in ("challenger", "champion")],
            subgroups=tables.subgroups(figures),
            explanations=tables.explanations(figures),
            localisation=tables.localisation(figures),
            cases=[case | {"data": _picture(case, folder)} for case in figures.get("cases", ())],
            kinds={kind: count for kind, count in figures.get("case_kinds", {}).items() if count},
            label=figures.get("label", "finding"),
            histories={stage: charts.history(rows) for stage, rows in history.items() if rows},
            data=tables.data(figures),
            leaks=figures["leaks"],
            sources=list(job.get("sources") or ()),
            settings=json.dumps(job["settings"], indent=1, default=str) if job.get("settings") else "",
            lineage=lineage(figures, job),
        )
    )


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    failed, silent = len(verdict.failures), len(verdict.not_judged)
    kept = len(verdict.findings) - failed - silent
    counts = f"{failed} failed, {kept} passed, {silent} not judged"
    return f"{'PASSED' if verdict.passed else 'REFUSED'} by the gate: {counts}"


def lineage(figures: Figures, job: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the model comes from, as names and values."""
    given: Mapping[str, Any] = job.get("lineage") or {}
    rows = [
        ("Challenger as measured, before its card was written", figures["models"]["challenger"]["digest"]),
        ("Champion", figures["models"]["champion"]["digest"]),
    ]
    rows += [(text, _text(given[key])) for key, text in _LINEAGE.items() if given.get(key) not in (None, "")]
    rows += [(key.replace("_", " "), _text(value)) for key, value in given.items() if key not in _LINEAGE]
    rows.append(("Test images (SHA-256)", figures["data"]["test_sha256"]))
    made = figures["made"]
    rows.append(("Comparison", f"{made['draws']} resamples of patients, seed {made['seed']}"))
    return rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _picture(case: Mapping[str, Any], folder: Path | None) -> str:
    """The data URI of a case's panels, "" where the file is gone."""
    if "png" in case:
        return f"data:image/png;base64,{case['png']}"
    path = Path(case["file"]) if folder is None else folder / Path(case["file"]).name
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""
