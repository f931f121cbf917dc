"""What figures mean: each part of the node is good, deserves a look, or is bad, and what to do then. Pure.

A part that is bad keeps studies from being answered; one that deserves a look does not, or not yet. /health, alerts
and the dashboard say the same, for it is decided here. What is said names AE titles, hosts and numbers; no patient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from dicom_node.health.asking import Trouble
from dicom_node.health.figures import Figures, Told
from dicom_node.health.heartbeat import ALIVE
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Heartbeat

NEEDED: Final = ("listener", "dispatcher", "sender", "worker")
"""Roles without which no study is answered."""
WANTED: Final = ("retention",)
SLOW_DELIVERY: Final = timedelta(minutes=10)
"""How long a due delivery to a destination that answers may wait."""
LAST_RUN: Final = "drift_last_run_timestamp_seconds"
DRIFT_STALE: Final = timedelta(days=3)
"""Drift is looked for once a day."""
_MEGABYTE: Final = 1 << 20


class State(StrEnum):
    """Of a part."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the node.

    Attributes:
        name: of the part; with a colon, of one of several: "destination:pacs".
        said: what is, or what is wrong.
        advice: what to do; None of a good part.
    """

    name: str
    state: State
    said: str
    advice: str | None = None


def parts(figures: Figures, settings: Settings) -> tuple[Part, ...]:
    """Every part of the node."""
    found: list[Part] = [*_ledger(figures), *_redis(figures), *_disk(figures)]
    if isinstance(figures.ledger, Told):
        told = figures.ledger
        for look in (_roles, _queue, _results, _studies, _destinations, _quarantine, _drift):
            found += look(told, figures.at, settings)
        found += [*_port(figures, told), *_model(figures, told)]
    return (*found, *_certificates(figures, settings))


def worst(found: Sequence[Part]) -> State:
    """The state of the whole."""
    states = {one.state for one in found}
    return next((state for state in (State.BAD, State.WARNING) if state in states), State.GOOD)


def _good(name: str, said: str) -> Part:
    return Part(name=name, state=State.GOOD, said=said)


def _warning(name: str, said: str, advice: str) -> Part:
    return Part(name=name, state=State.WARNING, said=said, advice=advice)


def _bad(name: str, said: str, advice: str) -> Part:
    return Part(name=name, state=State.BAD, said=said, advice=advice)


def _ledger(figures: Figures) -> Iterator[Part]:
    if isinstance(figures.ledger, Trouble):
        yield _bad("ledger", figures.ledger.said, "start the database, or see node.database and the disk that it is on")
    else:
        yield _good("ledger", "answers")


def _redis(figures: Figures) -> Iterator[Part]:
    if isinstance(figures.redis, Trouble):
        advice = "start Redis, or see broker.url; what is received meanwhile waits in the ledger"
        yield _bad("redis", figures.redis.said, advice)
    else:
        yield _good("redis", ", ".join(f"{queue} {count}" for queue, count in figures.redis.items()) + " waiting")


def _disk(figures: Figures) -> Iterator[Part]:
    room = figures.room
    if isinstance(room, Trouble):
        yield _bad("disk", room.said, "see whether the disk of node.spool is mounted and answers")
        return
    said = f"{room.free // _MEGABYTE:,} MB free where the spool lies"
    if room.free < room.refused_below:
        limit = f"{room.refused_below // _MEGABYTE:,} MB (node.low_water_mb)"
        yield _bad("disk", f"{said}: objects are refused below {limit}", "make room on the disk of node.spool")
    elif room.free < room.cleaned_below:
        limit = f"{room.cleaned_below // _MEGABYTE:,} MB"
        yield _warning("disk", f"{said}: below {limit} what is over goes before its time", "make room, or keep less")
    else:
        yield _good("disk", said)


def _roles(told: Told, at: datetime, _: Settings) -> Iterator[Part]:
    for role in dict.fromkeys((*NEEDED, *WANTED, *(one.role for one in told.heartbeats))):
        processes = [one for one in told.heartbeats if one.role == role]
        alive = [one for one in processes if abs(at - one.seen_at) <= ALIVE]
        silent = sorted({one.host for one in processes} - {one.host for one in alive})
        verdict = _bad if role in NEEDED else _warning
        if not alive and not processes:
            yield verdict(role, "was not heard of for a day", f"start it: {_how_to_start(role)}")
        elif not alive:
            last = max(one.seen_at for one in processes)
            said = f"silent since {last:%Y-%m-%d %H:%M:%S} UTC on {', '.join(silent)}"
            yield verdict(role, said, "see its log, and start it again")
        elif silent:
            said = f"silent on {', '.join(silent)}, alive on {len(alive)} others"
            yield _warning(role, said, "see its log there; a host that is gone for good is forgotten after a day")
        else:
            yield _good(role, _alive(alive))


def _how_to_start(role: str) -> str:
    return "dicom-node worker" if role == "worker" else f"dicom-node serve --only {role}"


def _alive(processes: Sequence[Heartbeat]) -> str:
    said = [f"{one.host} {one.pid}" + "".join(f" {value}" for value in one.detail.values()) for one in processes]
    return f"alive: {', '.join(said)}"


def _port(figures: Figures, told: Told) -> Iterator[Part]:
    """A listener of this machine must take connections; of another machine its heartbeat must do."""
    here = any(
        one.role == "listener" and one.host == figures.host and abs(figures.at - one.seen_at) <= ALIVE
        for one in told.heartbeats
    )
    if not here or figures.port is None:
        return
    if figures.port is True:
        yield _good("port", "takes connections")
    else:
        said = figures.port.said if isinstance(figures.port, Trouble) else "takes no connections"
        yield _bad("port", said, "see the listener's log, node.port and node.host")


def _queue(told: Told, at: datetime, settings: Settings) -> Iterator[Part]:
    """Tasks that wait while nobody works: also what a Celery consumer looks like that has gone silent."""
    work, limit = told.work, timedelta(seconds=settings.alerts.stalled_seconds)
    waiting = work.tasks.get("pending", 0)
    if work.oldest_task is None:
        yield _good("queue", "no task waits")
        return
    waits, idle = at - work.oldest_task, work.last_explained is None or at - work.last_explained > limit
    said = f"{waiting:,} tasks wait, the oldest for {_age(waits)}"
    if waits > limit and idle and not work.tasks.get("leased", 0):
        advice = "see the workers' logs, and start them again"
        yield _bad("queue", f"stalled: {said}, and nobody works", advice)
    else:
        yield _good("queue", said)


def _results(told: Told, at: datetime, _: Settings) -> Iterator[Part]:
    work = told.work
    if work.dead:
        advice = "see `dicom-node status`; put right what the destination says, then `dicom-node rerun --failed`"
        yield _warning("dead letters", f"{work.dead:,} results were given up", advice)
    else:
        yield _good("dead letters", "none")
    waits = timedelta(0) if work.oldest_delivery is None else at - work.oldest_delivery
    if waits > SLOW_DELIVERY:
        said = f"{work.waiting:,} results wait, the oldest for {_age(waits)}, though the destination answers"
        yield _warning("results", said, "see the sender's log, and start it again")
    else:
        yield _good("results", f"{work.waiting:,} wait")


def _studies(told: Told, _: datetime, settings: Settings) -> Iterator[Part]:
    work, limits = told.work, settings.alerts
    failed, of = work.failed_lately, max(work.answered_lately, 1)
    unanswered = work.tasks.get("failed", 0)
    if failed >= limits.failed_studies and failed >= limits.failed_share * of:
        said = f"{failed:,} of the last day's {work.answered_lately:,} studies could not be analysed"
        yield _warning("studies", said, "see the reasons: `dicom-node status`")
    else:
        said = f"{work.answered_lately:,} answered in the last day, {failed:,} not analysed"
        yield _good("studies", f"{said}; {unanswered:,} failed tasks" if unanswered else said)


def _destinations(told: Told, at: datetime, settings: Settings) -> Iterator[Part]:
    patience = timedelta(hours=settings.alerts.paused_hours)
    for one in told.queues:
        name, waiting = f"destination:{one.destination}", f"{one.waiting:,} wait"
        if one.state == "unknown":
            yield _warning(name, f"{waiting}, and it is not in the settings", "add it again, or they are given up")
        elif one.since is not None and at - one.since > patience:
            said = f"has not answered for {_age(at - one.since)}, {waiting}"
            yield _warning(name, said, f"dicom-node echo {one.destination} says why")
        elif one.since is not None:
            yield _good(name, f"does not answer, tried again; {waiting}")
        else:
            yield _good(name, waiting)


def _quarantine(told: Told, _: datetime, __: Settings) -> Iterator[Part]:
    yield _good("quarantine", f"{told.work.quarantined:,} objects were set aside")


def _drift(told: Told, at: datetime, _: Settings) -> Iterator[Part]:
    looked = max((one.value for one in told.drift if one.name == LAST_RUN), default=None)
    alarms = sorted({one.labels["statistic"] for one in told.drift if one.name == "drift_alarm" and one.value})
    if alarms:
        said = f"what arrives, or what the model says of it, has changed: {', '.join(alarms)}"
        yield _warning("drift", said, "dicom-node drift; docs/monitoring.md says what each means")
    elif looked is not None and at.timestamp() - looked > DRIFT_STALE.total_seconds():
        said = f"nobody has looked since {datetime.fromtimestamp(looked, UTC):%Y-%m-%d}"
        yield _warning("drift", said, "see the log of retention; SciPy and the model's bundle must be there")
    elif told.drift:
        yield _good("drift", "none found")


def _model(figures: Figures, told: Told) -> Iterator[Part]:
    """A worker that lives and names its model has one; else it must lie where this process can see it."""
    models = {
        one.detail["model"]
        for one in told.heartbeats
        if one.role == "worker" and "model" in one.detail and abs(figures.at - one.seen_at) <= ALIVE
    }
    if models:
        yield _good("model", ", ".join(sorted(models)))
    elif figures.model is True:
        yield _good("model", "present, loaded by no worker")
    else:
        said = figures.model.said if isinstance(figures.model, Trouble) else "not on this machine, nor at any worker"
        yield _warning("model", said, "see model.bundle and model.store, and start a worker")


def _certificates(figures: Figures, settings: Settings) -> Iterator[Part]:
    if isinstance(figures.certificates, Trouble):
        yield _bad("certificates", figures.certificates.said, "put the file right; docs/security.md")
        return
    for one in figures.certificates:
        left = one.ends_at - figures.at
        name, ends = f"certificate:{one.which}", f"ends on {one.ends_at:%Y-%m-%d}"
        if left <= timedelta(0):
            yield _bad(name, f"ended on {one.ends_at:%Y-%m-%d}", f"renew {one.path}")
        elif left < timedelta(days=settings.alerts.certificate_days):
            yield _warning(name, f"{ends}, in {left.days} days", f"renew {one.path}")
        else:
            yield _good(name, ends)


def _age(passed: timedelta) -> str:
    """A duration for people: of days, hours, minutes and seconds the two largest."""
    seconds = max(0, int(passed.total_seconds()))
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    said: list[str] = []
    for length, unit in units:
        count, seconds = divmod(seconds, length)
        if count or (unit == "s" and not said):
            said.append(f"{count} {unit}")
    return " ".join(said[:2])
