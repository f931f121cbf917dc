"""The audit trail: whether it is as it was written."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli._shared import WRONG_USE, ConfigOption, JsonOption, audit_of, fail, print_json, settings_of

app = typer.Typer(no_args_is_help=True, help="The audit trail.")

_NOTED = re.compile(r"([1-9]\d*):([0-9a-f]{64})")


@app.callback()
def _group() -> None:
    """One command so far; it keeps its name."""


@app.command()
def verify(
    *,
    noted: Annotated[
        str | None, typer.Option("--noted", metavar="NUMBER:DIGEST", help="What an earlier look has printed as `end`.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="A copy of a trail instead of the node's; nothing is written to it.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say the first line of the trail that was changed, removed or added; exit status 1 when there is one.

    JSON: `lines`, `first`, `last`, `digest`, `fault`, `remarks`, `end`.
    """
    from dicom_node.watch.audit_running import read_key  # noqa: PLC0415 - commands load only what they need
    from dicom_node.watch.audit_verify import Noted  # noqa: PLC0415
    from dicom_node.watch.audit_verify import verify as look  # noqa: PLC0415

    settings = settings_of(config)
    found = _NOTED.fullmatch(noted or "")
    if noted is not None and found is None:
        raise fail("--noted: the number of a line, a colon and its digest, as an earlier look has said", WRONG_USE)
    where = folder or settings.audit.folder
    seen = Noted(number=int(found[1]), digest=found[2]) if found else None
    if not where.is_dir():
        raise fail(f"{where}: there is no audit trail")
    verdict = look(where, read_key(settings.audit.seal_key), seen)
    if folder is None:
        with audit_of(settings, "audit verify") as audit:
            audit.log_used(where, verdict.fault)
    if as_json:
        print_json(asdict(verdict) | {"end": f"{verdict.last}:{verdict.digest}"})
    else:
        print(f"{verdict.lines} line(s) fit, {verdict.first} to {verdict.last}")  # noqa: T201
        for remark in verdict.remarks:
            print(f"to know: {remark}")  # noqa: T201
        if not verdict.fault:
            print(f"end: {verdict.last}:{verdict.digest}")  # noqa: T201
    if verdict.fault:
        raise fail(verdict.fault)
