"""What /metrics shows: gauges from one look at the node, and what the processes of this machine have counted."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from dicom_node.health.asking import Trouble
from dicom_node.health.figures import Figures, Observer, Told
from dicom_node.health.heartbeat import ALIVE
from dicom_node.health.parts import State, parts
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger.schema import SCHEMA
from dicom_node.watch import metrics as counted

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LEVELS: Final = {State.GOOD: 0.0, State.WARNING: 1.0, State.BAD: 2.0}

GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "health": ("Each part of the node, as /health says: 0 good, 1 deserves a look, 2 bad.", ("part",)),
    "processes": ("Processes that were heard of in the last half minute, on all hosts.", ("role",)),
    "process_silent_seconds": ("Since the last heartbeat of a role on a host, until a day is over.", ("role", "host")),
    "gpu_available": ("1 where a living worker of the host has a GPU, 0 where all run on the CPU.", ("host",)),
    "jobs": ("Tasks by state; those that are done are counted by jobs_finished_total.", ("state",)),
    "studies": ("Studies that are not answered yet, by state.", ("state",)),
    "queue_depth": ("Messages that wait in Redis.", ("queue",)),
    "oldest_waiting_seconds": ("How long the oldest task, or due delivery, waits.", ("queue",)),
    "deliveries_waiting": ("Results that wait for a destination.", ("destination",)),
    "destination_unreachable_seconds": (
        "Since it stopped answering; 0 of one that answers.",
        ("destination",),
    ),
    "dead_letters": ("Results that were given up.", ()),
    "quarantined": ("Objects that were set aside.", ()),
    "last_received_timestamp_seconds": ("When the last image came; 0 before the first.", ()),
    "last_result_timestamp_seconds": ("When a destination took a result last; 0 before the first.", ()),
    "spool_bytes": ("What each store held when retention measured it last.", ("store",)),
    "spool_free_bytes": ("Free on the disk of the spool.", ()),
    "spool_refused_below_bytes": ("Free bytes below which objects are refused.", ()),
    "certificate_expiry_seconds": ("Until a certificate that the node shows ends.", ("which",)),
    "retraining_jobs": ("Retraining jobs by state.", ("state",)),
    "build_info": ("1; what runs.", ("version", "schema")),
}
"""Without the prefix: what it is, and its labels. Those of drift come from the daily look for it."""

_Sample = tuple[str, float, Mapping[str, str]]


def text(settings: Settings, observer: Observer) -> bytes:
    """Everything, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Gauges(settings, observer.look()))
    return generate_latest(registry) + generate_latest(counted.collect(settings.metrics.folder))


class _Gauges:
    def __init__(self, settings: Settings, figures: Figures) -> None:
        self._settings, self._figures = settings, figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is known; of what could not be looked at nothing is said, and health says so."""
        families: dict[str, GaugeMetricFamily] = {}
        told = {name: (what, labels) for name, (what, labels) in GAUGES.items()}
        drift = self._figures.ledger.drift if isinstance(self._figures.ledger, Told) else ()
        told |= {one.name: (one.text, tuple(one.labels)) for one in drift}
        found = [*samples(self._figures, self._settings), *((one.name, one.value, one.labels) for one in drift)]
        for name, value, labels in found:
            what, names = told[name]
            if name not in families:
                families[name] = GaugeMetricFamily(counted.PREFIX + name, what, labels=names)
            families[name].add_metric([labels[one] for one in names], value)
        yield from families.values()


def samples(figures: Figures, settings: Settings) -> Iterator[_Sample]:
    """The gauges of one look."""
    yield "build_info", 1.0, {"version": version("dicom-explanation-node"), "schema": SCHEMA}
    for part in parts(figures, settings):
        yield "health", _LEVELS[part.state], {"part": part.name}
    if isinstance(figures.ledger, Told):
        yield from _of_the_work(figures.ledger, figures.at)
        yield from _of_processes(figures.ledger, figures.at)
    if not isinstance(figures.redis, Trouble):
        yield from _each("queue_depth", "queue", figures.redis.items())
    if not isinstance(figures.room, Trouble):
        yield "spool_free_bytes", figures.room.free, {}
        yield "spool_refused_below_bytes", figures.room.refused_below, {}
    if not isinstance(figures.certificates, Trouble):
        ends = [(one.which, (one.ends_at - figures.at).total_seconds()) for one in figures.certificates]
        yield from _each("certificate_expiry_seconds", "which", ends)
    if not isinstance(figures.jobs, Trouble):
        yield from _each("retraining_jobs", "state", figures.jobs.items())


def _of_the_work(told: Told, at: datetime) -> Iterator[_Sample]:
    work = told.work
    yield from _each("jobs", "state", work.tasks.items())
    yield from _each("studies", "state", work.studies.items())
    oldest = [("explain", work.oldest_task), ("deliver", work.oldest_delivery)]
    yield from _each("oldest_waiting_seconds", "queue", [(name, _since(moment, at)) for name, moment in oldest])
    yield from _each("deliveries_waiting", "destination", [(one.destination, one.waiting) for one in told.queues])
    away = [(one.destination, _since(one.since, at)) for one in told.queues]
    yield from _each("destination_unreachable_seconds", "destination", away)
    yield "dead_letters", work.dead, {}
    yield "quarantined", work.quarantined, {}
    for name, moment in (("last_received", work.last_received), ("last_result", work.last_result)):
        yield f"{name}_timestamp_seconds", 0.0 if moment is None else moment.timestamp(), {}
    yield from _each("spool_bytes", "store", [(one.name, one.bytes) for one in told.sizes])


def _of_processes(told: Told, at: datetime) -> Iterator[_Sample]:
    alive = [one for one in told.heartbeats if at - one.seen_at <= ALIVE]
    roles = {one.role: 0 for one in told.heartbeats} | dict.fromkeys(("listener", "dispatcher", "sender", "worker"), 0)
    for one in alive:
        roles[one.role] += 1
    yield from _each("processes", "role", roles.items())
    seen: dict[tuple[str, str], datetime] = {}
    for one in told.heartbeats:
        place = (one.role, one.host)
        seen[place] = max(one.seen_at, seen.get(place, one.seen_at))
    for (role, host), moment in seen.items():
        yield "process_silent_seconds", _since(moment, at), {"role": role, "host": host}
    devices: dict[str, bool] = {}
    for one in alive:
        if one.role == "worker" and "device" in one.detail:
            devices[one.host] = devices.get(one.host, False) or one.detail["device"].startswith("cuda")
    yield from _each("gpu_available", "host", devices.items())


def _since(moment: datetime | None, at: datetime) -> float:
    """Seconds; 0 where nothing began."""
    return 0.0 if moment is None else max(0.0, (at - moment).total_seconds())


def _each(name: str, label: str, values: Iterable[tuple[str, float]]) -> Iterator[_Sample]:
    for key, value in values:
        yield name, float(value), {label: key}
