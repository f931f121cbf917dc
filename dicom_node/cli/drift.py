"""Drift of what arrives and of what the model says; the challenger beside the champion."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.box import SIMPLE
from rich.table import Table

from dicom_node.cli._shared import ConfigOption, JsonOption, console, fail, ledger_of, plain, print_json, settings_of

if TYPE_CHECKING:
    from dicom_node.models.agreement import Agreement
    from dicom_node.models.look import Look

DRIFT_FOUND: Final = 3
MOST_LISTED: Final = 20

app = typer.Typer()


class By(StrEnum):
    """How images are put into groups."""

    CALLING_AE = "calling-ae"


class Against(StrEnum):
    """What images are compared with."""

    TRAINING = "training"
    LIVE = "live"


SinceOption = Annotated[float | None, typer.Option(min=0.001, help="Only what was answered in the last DAYS.")]


@app.command()
def drift(
    *,
    config: ConfigOption = None,
    since: SinceOption = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the newest N images.")] = None,
    by: Annotated[By | None, typer.Option(help="Groups of images, beside all of them together.")] = None,
    against: Annotated[
        Against | None,
        typer.Option(
            help="The bundle's validation images, or what the model saw here earlier; default: what there is."
        ),
    ] = None,
    metrics: Annotated[Path | None, typer.Option(help="Write Prometheus metrics into this FILE.prom too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what arrives and what the champion says with its training: 0 no drift, 3 drift, 1 not enough images.

    JSON: `verdict`, `model`, `reference`, `note`, `images`, `since`, `until`, `findings`.
    """
    from dicom_node.models import drift as drifts  # noqa: PLC0415
    from dicom_node.models import look as looks  # noqa: PLC0415

    settings, now = settings_of(config), datetime.now(UTC)
    if since is None and last is None:
        since = looks.USUAL_DAYS
    ledger = ledger_of(settings)
    began = None if since is None else now - timedelta(days=since)
    look = looks.look(settings, ledger, began=began, last=last, by_caller=by is By.CALLING_AE, against=against)
    if metrics is not None:
        challenged = looks.challenged(settings, ledger, began)
        drifts.write_metrics(metrics, drifts.samples(look.facts, look.findings, challenged, now))
    verdict = drifts.verdict(look.findings)
    if as_json:
        print_json(_drift_json(look, verdict))
    else:
        _print_drift(look, verdict)
    raise typer.Exit({"drift": DRIFT_FOUND, "no drift": 0}.get(verdict, 1))


@app.command()
def shadow(*, config: ConfigOption = None, since: SinceOption = None, as_json: JsonOption = False) -> None:
    """Compare the challenger's answers with the champion's on the same live images; 1 while there are none.

    JSON: `champion`, `challenger`, `images`, `studies`, `agree`, `share`, `disagreements`, `failures`, and more.
    """
    from dicom_node.models import look as looks  # noqa: PLC0415

    settings = settings_of(config)
    ledger = ledger_of(settings)
    began = None if since is None else datetime.now(UTC) - timedelta(days=since)
    found = looks.compared(settings, ledger, began)
    if found is None:
        raise fail("no challenger is deployed")
    champion, challenger, agreed = found
    if as_json:
        print_json({"champion": champion, "challenger": challenger, **asdict(agreed)})
    else:
        _print_agreement(champion, challenger, agreed)
    raise typer.Exit(0 if agreed.images else 1)


def _drift_json(look: "Look", verdict: str) -> dict[str, object]:
    reference = look.reference
    return {
        "verdict": verdict,
        "model": {"name": look.facts.name, "version": look.facts.version, "digest": look.facts.digest},
        "reference": None if reference is None else {"kind": reference.kind, "images": reference.images},
        "note": look.note,
        "images": len(look.seen),
        "since": look.seen[0].observed_at if look.seen else None,
        "until": look.seen[-1].observed_at if look.seen else None,
        "findings": [asdict(one) for one in look.findings],
    }


def _print_drift(look: "Look", verdict: str) -> None:
    from dicom_node.models.drift import MINIMUM  # noqa: PLC0415

    out = console()
    out.print(f"model {look.facts.label}; {len(look.seen)} images\n{look.note}")
    for group in dict.fromkeys(one.group for one in look.findings):
        table = Table("statistic", "images", "now", "before", "KS", "shift", "p", "verdict", box=SIMPLE, padding=(0, 0))
        table.title = f"group {group}; medians and shares; p after Holm"
        for one in look.findings:
            if one.group == group:
                cells = (_number(one.value), _number(one.reference_value), _number(one.ks), _number(one.shift))
                images = f"{one.images}/{one.reference_images}"
                table.add_row(one.statistic, images, *cells, _p(one.adjusted), one.verdict)
        out.print(table)
        for one in look.findings:
            if one.group == group and one.low is not None and one.high is not None:
                out.print(f"{one.statistic}: {_number(one.value)}, 95 % {one.low:.3f}-{one.high:.3f}")
    few = f"not enough images: {MINIMUM} are needed on either side"
    out.print(few if verdict == "too few" else verdict)


def _print_agreement(champion: str, challenger: str, agreed: "Agreement") -> None:
    out = console()
    out.print(f"champion   {champion}\nchallenger {challenger}")
    table = plain("figure", "value")
    table.add_row("images (studies) that both decided", f"{agreed.images} ({agreed.studies})")
    table.add_row("images that wait for the challenger", str(agreed.waiting))
    if agreed.low is not None and agreed.high is not None:
        share = f"{agreed.agree} of {agreed.images} = {_number(agreed.share)}, 95 % {agreed.low:.3f}-{agreed.high:.3f}"
        table.add_row("decided alike", share)
        table.add_row("Cohen's kappa", _number(agreed.kappa))
        table.add_row("|difference| of probability, mean", _number(agreed.mean_difference))
        table.add_row("|difference| of probability, largest", _number(agreed.largest_difference))
        table.add_row("challenger - champion, mean", _number(agreed.signed_difference))
    if agreed.overlap is not None:
        table.add_row("heatmaps compared", str(agreed.heatmaps))
        table.add_row("heatmaps: correlation, quartiles", _quartiles(agreed.correlation))
        table.add_row("heatmaps: overlap of the top tenth, quartiles", _quartiles(agreed.overlap))
    if agreed.seconds is not None:
        table.add_row("seconds per image, champion / challenger", " / ".join(f"{one:.2f}" for one in agreed.seconds))
    table.add_row("studies without an answer of the challenger", str(len(agreed.failures)))
    out.print(table)
    if agreed.disagreements:
        out.print("\nDecided differently")
        table = plain("champion", "challenger", "study")
        for one in agreed.disagreements[:MOST_LISTED]:
            table.add_row(f"{one.champion:.3f}", f"{one.challenger:.3f}", one.study_instance_uid)
        out.print(table)
        if len(agreed.disagreements) > MOST_LISTED:
            out.print(f"and {len(agreed.disagreements) - MOST_LISTED} more: --json lists all")
    for failure in agreed.failures[-MOST_LISTED:]:
        out.print(f"no answer to {failure.study_instance_uid}: {failure.reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _quartiles(values: tuple[float, float, float] | None) -> str:
    return "-" if values is None else ", ".join(f"{value:.2f}" for value in values)
