"""`dicom-node doctor`: is everything as the node needs it, and what to do where it is not. Nothing is changed."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dicom_node.cli._shared import ConfigOption, JsonOption, coloured, console, plain, print_json, settings_of
from dicom_node.errors import BrokerUnreachable, ConfigError, NodeError

if TYPE_CHECKING:
    from dicom_node.settings.sections import Settings

_MEGABYTE: Final = 1 << 20
_MOST_NAMED = 3
_SKEW_SECONDS = 5.0

app = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: was looked at.
        good: whether it is as it should be.
        said: what it is, or what is wrong and what to do.
    """

    what: str
    good: bool
    said: str


@app.command()
def doctor(
    *,
    config: ConfigOption = None,
    model: Annotated[bool, typer.Option(help="Also load the model, which takes seconds and PyTorch.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Look at settings, disk, permissions, clock, ledger, Redis, certificates, model and destinations.

    JSON: a list of `what`, `good`, `said`.
    """
    settings = settings_of(config)
    checks = [*_CHECKS, *([("model", _model)] if model else []), *_destinations(settings)]
    found = [finding for what, check in checks for finding in _looked(what, check, settings)]
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        table = plain("state", "what", "found")
        for one in found:
            table.add_row(coloured("ok" if one.good else "WRONG"), one.what, one.said)
        console().print(table)
    raise typer.Exit(0 if all(one.good for one in found) else 1)


_Check = Callable[["Settings"], Iterator[tuple[bool, str]]]


def _looked(what: str, check: _Check, settings: "Settings") -> Iterator[Finding]:
    """What a check finds; an error of ours is a finding, and its text says what to do."""
    try:
        for good, said in check(settings):
            yield Finding(what=what, good=good, said=said)
    except (NodeError, OSError) as error:
        yield Finding(what=what, good=False, said=str(error))


def _disk(settings: "Settings") -> Iterator[tuple[bool, str]]:
    from dicom_node.health import checks  # noqa: PLC0415 - commands load only what they need

    room = checks.room(settings)
    free, low = room.free // _MEGABYTE, settings.node.low_water_mb
    said = f"{free:,} MB free where the spool lies, {room.folder}"
    if room.free < room.refused_below:
        yield False, f"{said}: objects are refused below {low:,} MB (node.low_water_mb): make room"
    elif room.free < room.cleaned_below:
        yield False, f"{said}: below {settings.clean_below_mb:,} MB the node removes what is over before its time"
    else:
        yield True, said


def _store(settings: "Settings") -> Iterator[tuple[bool, str]]:
    """That the object store takes, confirms and gives back; what is written there is removed again."""
    from dicom_node.storage.objects import ObjectStore  # noqa: PLC0415

    if settings.store.url is not None:
        with tempfile.TemporaryDirectory() as cache:
            yield True, ObjectStore(settings.store, Path(cache)).check()


def _permissions(settings: "Settings") -> Iterator[tuple[bool, str]]:
    """Whatever holds data of patients or secrets must be its own user's to read, and nobody else's."""
    from dicom_node.health.checks import existing  # noqa: PLC0415

    sqlite = settings.node.database.removeprefix("sqlite:///")
    places = [
        settings.node.spool, settings.retraining.jobs, settings.audit.folder, settings.export.key,
        *([Path(sqlite)] if sqlite != settings.node.database else []),
        *(path for path in (settings.tls.key, settings.audit.seal_key) if path is not None),
    ]  # fmt: skip
    open_to_others = sorted({path for place in places for path in _tree(place) if _readable_by_others(path)})
    named = ", ".join(map(str, open_to_others[:_MOST_NAMED]))
    more = len(open_to_others) - _MOST_NAMED
    if open_to_others:
        yield False, f"others may read {named}{f' and {more:,} more' if more > 0 else ''}: chmod -R go-rwx on them"
    else:
        yield True, "spool, ledger, jobs, audit and keys are readable by their own user alone"
    if not os.access(existing(settings.node.spool), os.W_OK):
        yield False, f"{settings.node.spool} cannot be written by this user: chown it to the user of the node"


def _clock(settings: "Settings") -> Iterator[tuple[bool, str]]:
    """Against the clock of the file system on which the spool lies, which several machines may share."""
    from dicom_node.health.checks import existing  # noqa: PLC0415

    folder = existing(settings.node.spool)
    probe = folder / f".doctor-{os.getpid()}"
    probe.touch(mode=0o600)
    try:
        skew = probe.stat().st_mtime - datetime.now(UTC).timestamp()
    finally:
        probe.unlink()
    if abs(skew) > _SKEW_SECONDS:
        yield False, f"the spool's file system is {skew:+.0f} s from this machine: have both follow one NTP server"
    else:
        yield True, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, as the spool's file system says"


def _ledger(settings: "Settings") -> Iterator[tuple[bool, str]]:
    from dicom_node.app import open_ledger  # noqa: PLC0415 - commands load only what they need

    url = settings.node.database
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        yield True, "there is none yet: the first process that starts makes it"
        return
    counts = open_ledger(settings).counts()
    dead, failed = counts["deliveries"].get("dead", 0), counts["tasks"].get("failed", 0)
    studies = sum(counts["studies"].values())
    if dead or failed:
        yield False, f"{dead} dead deliveries, {failed} failed tasks: see `dicom-node status`, then `rerun --failed`"
    else:
        yield True, f"{studies:,} studies, nothing dead, nothing failed"


def _redis(settings: "Settings") -> Iterator[tuple[bool, str]]:
    from dicom_node.health import checks  # noqa: PLC0415

    try:
        waiting = checks.waiting(checks.patient_celery(settings))
    except BrokerUnreachable as error:
        yield False, f"{error}: start Redis, or see broker.url; what is received waits in the ledger meanwhile"
        return
    yield True, ", ".join(f"{queue} {count}" for queue, count in waiting.items()) + " waiting"


def _certificates(settings: "Settings") -> Iterator[tuple[bool, str]]:
    from dicom_node import app as node  # noqa: PLC0415
    from dicom_node.health import checks  # noqa: PLC0415

    node.check_tls(settings)
    node.check_audit(settings)
    if settings.tls.certificate is None:
        yield True, "no TLS: images and results travel in the clear (docs/security.md)"
    for one in checks.certificates(settings):
        days = (one.ends_at - datetime.now(UTC)).days
        later = days > settings.alerts.certificate_days
        yield later, f"{one.path} ends in {days} days" + ("" if later else ": renew it")


def _senders(settings: "Settings") -> Iterator[tuple[bool, str]]:
    if settings.node.accept_any_calling_ae:
        yield False, "anybody may send: list the callers in node.calling_ae_titles"
    elif not settings.node.calling_ae_titles:
        yield False, "nobody may send: node.calling_ae_titles is empty"
    else:
        yield True, f"may send: {', '.join(settings.node.calling_ae_titles)}"


def _model(settings: "Settings") -> Iterator[tuple[bool, str]]:
    from dicom_node import app as node  # noqa: PLC0415

    bundle = node.running_bundle(settings)
    if not bundle.is_dir():
        yield True, f"{bundle} is not on this machine: it is the workers' (--no-model leaves this out)"
        return
    if find_spec("torch") is None:  # a machine of the light roles
        node.check_methods(settings, bundle)
        yield True, "PyTorch is not installed here, so the model was not loaded: workers are on other machines"
        return
    identity = node.load_explainer(settings, bundle).identity
    methods = ", ".join(settings.methods_for())
    yield True, f"{identity.name} {identity.version}, device {settings.model.device}, methods {methods}"


def _destinations(settings: "Settings") -> list[tuple[str, _Check]]:
    from dicom_node.deliver.echo import echo  # noqa: PLC0415

    def tried(name: str) -> _Check:
        def check(_: "Settings") -> Iterator[tuple[bool, str]]:
            one = echo(settings, name)
            yield one.reached, one.said + (f": {one.advice}" if one.advice else "")

        return check

    def none(_: "Settings") -> Iterator[tuple[bool, str]]:
        raise ConfigError("there is none: nobody gets results; add a [[destinations]] table")
        yield

    return [(one.name, tried(one.name)) for one in settings.destinations] or [("destinations", none)]


_CHECKS: list[tuple[str, _Check]] = [
    ("disk", _disk),
    ("store", _store),
    ("permissions", _permissions),
    ("clock", _clock),
    ("ledger", _ledger),
    ("redis", _redis),
    ("certificates", _certificates),
    ("senders", _senders),
]


def _tree(place: Path) -> Iterator[Path]:
    """A file, or every file below a folder whose way is open to others; nothing where there is nothing."""
    if place.is_file():
        yield place
    elif place.is_dir() and place.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH):
        for where, _, names in os.walk(place):
            yield from (Path(where) / name for name in names)


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except FileNotFoundError:
        return False
