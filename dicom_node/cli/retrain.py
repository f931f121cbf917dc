"""Retraining jobs: submit, status, cancel, resume, logs, worker."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli import _completion
from dicom_node.cli._shared import (
    WRONG_USE,
    ConfigOption,
    JsonOption,
    audit_of,
    coloured,
    console,
    fail,
    ledger_of,
    plain,
    print_json,
    settings_of,
)
from dicom_node.errors import BrokerUnreachable, NodeError
from dicom_node.learn.jobs import Jobs, JobStatus, checked
from dicom_node.queue import broker
from dicom_node.settings.sections import Settings
from dicom_node.watch import logs as logs_of
from dicom_node.watch import pulse
from explain_core.jobs import JobState

app = typer.Typer(no_args_is_help=True, help="Retraining jobs.")

JobArgument = Annotated[
    str, typer.Argument(help="Name of the job, as `submit` said it.", autocompletion=_completion.jobs)
]


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(help="job.toml; docs/retraining.md has every key.")],
    *,
    labels: Annotated[
        Path | None, typer.Option(help="CSV of labels: first export what the node received, and train on it.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a job and queue it; a worker (`dicom-node retrain worker`) runs it.

    JSON: `job`, `folder`, `sent` (false: the broker does not answer, and a worker finds the job by itself).
    """
    settings = settings_of(config)
    jobs, path = Jobs(settings.retraining.jobs), None
    try:
        defaults = _defaults(settings)
        if labels is None:
            name, text = checked(job, defaults=defaults)
            path = jobs.reserve(name)
        else:
            name, _ = checked(job, defaults=defaults, sources=["studies:."])
            path = jobs.reserve(name)
            exported = _export(settings, labels, path / "export")
            _, text = checked(job, defaults=defaults, sources=[f"studies:{exported}"])
        jobs.queue(path, text)
    except NodeError:
        _remove(path)
        raise
    sent = _send(settings, path.name)
    if as_json:
        print_json({"job": path.name, "folder": str(path), "sent": sent})
    else:
        print(f"{path.name}: queued" + ("" if sent else _UNSENT))  # noqa: T201


_UNSENT = "; the broker does not answer, so a worker will find the job by itself when it next looks"


def _defaults(settings: Settings) -> dict[str, Any]:
    """What the node knows and job.toml need not say: which model runs, the registry, what training may claim."""
    from dicom_node.storage.bundles import bundle_path  # noqa: PLC0415

    running = bundle_path(settings, ledger_of(settings, make=True).deployed("champion"))
    return {
        "champion.bundle": str(running.absolute()),
        "registry.uri": settings.registry.uri,
        "registry.name": settings.registry.name,
        "registry.artifacts": str(settings.registry.artifacts),
        "resources.nice": settings.retraining.nice,
        "resources.threads": settings.retraining.threads,
        "resources.gpu_memory_fraction": settings.retraining.gpu_memory_fraction,
    }


def _export(settings: Settings, labels: Path, out: Path) -> Path:
    """The node's training set with these labels, de-identified, in the job's folder.

    Raises:
        NodeError: the labels are wrong, which the message has by line.
    """
    from dicom_node.learn.export import Wishes, export  # noqa: PLC0415
    from dicom_node.learn.labels import LabelsWrong  # noqa: PLC0415

    try:
        with audit_of(settings, "retrain submit") as audit:
            export(
                settings,
                ledger_of(settings),
                out,
                Wishes(labels=labels),
                now=datetime.now(UTC),
                progress=lambda *_: None,
                audit=audit,
            )
    except LabelsWrong as error:
        for problem in error.problems:
            print(f"{labels}:{problem.line}: {problem.what}", file=sys.stderr)  # noqa: T201
        raise
    return out


def _remove(path: Path | None) -> None:
    """A folder that did not become a job."""
    if path is not None and not (path / "job.toml").exists():
        import shutil  # noqa: PLC0415

        shutil.rmtree(path, ignore_errors=True)


def _send(settings: Settings, name: str) -> bool:
    try:
        broker.submit(broker.make_celery(settings), broker.RETRAIN, name)
    except BrokerUnreachable:
        return False
    return True


@app.command()
def status(
    job: Annotated[
        str | None, typer.Argument(help="Name of a job; without it, all of them.", autocompletion=_completion.jobs)
    ] = None,
    *,
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs in the list.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """How far jobs are, and what became of them.

    JSON: a list of `name`, `state`, `stage`, `done`, `eta_seconds`, `figures`, `stages`, `version`, `verdict`,
    `error`, and more; of one job that object alone.
    """
    jobs = Jobs(settings_of(config).retraining.jobs)
    found = [jobs.status(name) for name in ([job] if job else jobs.names()[:limit])]
    if as_json:
        rows = [asdict(one) for one in found]
        print_json(rows[0] if job else rows)
    elif job:
        _print_job(found[0])
    else:
        table = plain("state", "stage", "done", "left", "version", "job, and why")
        for one in found:
            first = (one.error.splitlines() or [""])[0]
            said = one.name + (f"\n{first}" if first else "")
            table.add_row(coloured(_state(one)), one.stage, _share(one), _left(one), str(one.version or ""), said)
        console().print(table)


def _state(one: JobStatus) -> str:
    if one.cancelling:
        return "cancelling"
    return "interrupted" if one.state is JobState.RUNNING and not one.working else one.state


def _share(one: JobStatus) -> str:
    return f"{one.done:.0%}" if one.stage and one.state.open else ""


def _left(one: JobStatus) -> str:
    if one.eta_seconds is None or one.state is not JobState.RUNNING:
        return ""
    return f"{one.eta_seconds:.0f} s" if one.eta_seconds < 90 else f"{one.eta_seconds / 60:.0f} min"  # noqa: PLR2004


def _print_job(one: JobStatus) -> None:
    out = console()
    out.print(f"{one.name}: {_state(one)} {one.stage} {_share(one)} {_left(one)}".rstrip())
    if one.figures:
        out.print("  " + " ".join(f"{name}={value}" for name, value in one.figures.items()))
    table = plain("stage", "state", "seconds")
    for name, stage in one.stages.items():
        table.add_row(name, coloured(str(stage.get("state", ""))), f"{stage.get('seconds', 0):.1f}")
    if one.stages:
        out.print(table)
    if one.version is not None:
        out.print(f"version {one.version} of the registry")
    if one.verdict.get("forced"):
        out.print(f"passed by force: {one.verdict['forced']}")
    if one.error:
        out.print(one.error)


@app.command()
def cancel(job: JobArgument, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Stop a job at its next safe point; `resume` lets it go on from there.

    JSON: `job`, `state`.
    """
    jobs = Jobs(settings_of(config).retraining.jobs)
    state = jobs.cancel(job)
    if not state.open and state is not JobState.CANCELLED:
        raise fail(f"{job} is {state}: there is nothing to cancel")
    if as_json:
        print_json({"job": job, "state": "cancelling" if state.open else state})
    else:
        print(f"{job}: " + ("will stop at its next safe point" if state.open else "cancelled"))  # noqa: T201


@app.command()
def resume(
    job: JobArgument,
    *,
    force: Annotated[
        str | None, typer.Option(help="Register what the gate refused; the reason is kept with the version.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a job go on that was cancelled, has failed or was refused; what is done stays done.

    JSON: `job`, `sent`, as of `submit`.
    """
    settings = settings_of(config)
    if force is not None and not force.strip():
        raise fail("--force needs a reason", WRONG_USE)
    free = Jobs(settings.retraining.jobs).resume(job, (force or "").strip())
    if not free:
        raise fail(f"a process works on {job} already")
    sent = _send(settings, job)
    if as_json:
        print_json({"job": job, "sent": sent})
    else:
        print(f"{job}: queued" + ("" if sent else _UNSENT))  # noqa: T201


@app.command()
def logs(
    job: JobArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print a job's log."""
    jobs = Jobs(settings_of(config).retraining.jobs)
    path = jobs.job(job).log_file
    position = 0
    while True:
        ended = not jobs.status(job).state.open
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                sys.stdout.write(file.read())
                position = file.tell()
            sys.stdout.flush()
        if not follow or ended:
            return
        time.sleep(0.5)


@app.command()
def worker(
    *,
    config: ConfigOption = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks through the folders.")] = 15.0,
    retry_seconds: Annotated[float, typer.Option(help="First wait for room or for the registry.")] = 10.0,
) -> None:
    """Run jobs until stopped, one at a time, as `[retraining]` allows; needs the extra `training`."""
    from dicom_node.app import audited  # noqa: PLC0415
    from dicom_node.health.heartbeat import beating  # noqa: PLC0415 - commands load only what they need
    from dicom_node.learn.worker import work  # noqa: PLC0415
    from dicom_node.storage.ledger import Ledger  # noqa: PLC0415

    settings = settings_of(config)
    logs_of.configure(settings.logging.level, as_json=settings.logging.as_json)
    pulse.begin()
    with audited(settings, "retraining", config), beating(Ledger(settings.node.database), "retraining"):
        work(settings, every=every, retry_seconds=retry_seconds)
