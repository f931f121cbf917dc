"""Everything that health, metrics and alerts are made of, looked at together: values, or why there are none."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dicom_node.clock import utc_now
from dicom_node.health import checks
from dicom_node.health.asking import Questions, Trouble
from dicom_node.health.checks import Certificate, Room
from dicom_node.health.heartbeat import host
from dicom_node.learn.jobs import Jobs
from dicom_node.models.drift import Sample
from dicom_node.models.look import DRIFT, kept
from dicom_node.nouns import StoreSize
from dicom_node.settings.sections import Settings
from dicom_node.storage.bundles import bundle_path
from dicom_node.storage.ledger import Heartbeat, Ledger, Queue, Work
from explain_core.jobs import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the ledger says.

    Attributes:
        work: what there is to do.
        heartbeats: processes of the node.
        queues: what waits for each destination.
        sizes: what the stores hold.
        drift: the last look for drift as metrics; empty before the first.
    """

    work: Work
    heartbeats: tuple[Heartbeat, ...]
    queues: tuple[Queue, ...]
    sizes: tuple[StoreSize, ...]
    drift: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One look at the node; a Trouble stands where there was no answer.

    Attributes:
        at: when.
        host: where.
        ledger: what it says.
        redis: how many messages wait, by queue.
        room: of the disk with the spool.
        port: whether the listener's port answers on this machine; None where none is known.
        model: whether the bundle that is to run lies on this machine.
        certificates: until when those are valid that the node shows.
        jobs: retraining jobs by state.
    """

    at: datetime
    host: str
    ledger: Told | Trouble
    redis: Mapping[str, int] | Trouble
    room: Room | Trouble
    port: bool | Trouble | None
    model: bool | Trouble
    certificates: tuple[Certificate, ...] | Trouble
    jobs: Mapping[str, int] | Trouble


class Observer:
    """Looks at the node; safe to share between threads.

    Args:
        settings: of the node.
        ledger: of the node.
        limit: seconds for each thing that is looked at.
        keep: seconds for which a look is good enough for the next who asks.
    """

    def __init__(self, settings: Settings, ledger: Ledger, *, limit: float = 2.0, keep: float = 1.0) -> None:
        celery = checks.patient_celery(settings)
        self._questions = Questions(
            {
                "at": utc_now,
                "ledger": functools.partial(_told, settings, ledger),
                "redis": functools.partial(checks.waiting, celery),
                "room": functools.partial(checks.room, settings),
                "port": functools.partial(checks.listening, settings),
                "model": functools.partial(_has_model, settings, ledger),
                "certificates": lambda: tuple(checks.certificates(settings)),
                "jobs": functools.partial(_jobs, settings),
            },
            limit=limit,
            keep=keep,
        )

    def look(self) -> Figures:
        """The node as it is now, or was a moment ago."""
        said: dict[str, Any] = self._questions.ask()
        return Figures(host=host(), **said)


def _told(settings: Settings, ledger: Ledger) -> Told:
    names = [one.name for one in settings.destinations]
    look = ledger.look(DRIFT)
    return Told(
        work=ledger.work(utc_now()),
        heartbeats=tuple(ledger.heartbeats()),
        queues=tuple(ledger.queues(names, settings.delivery.pause_after)),
        sizes=tuple(ledger.sizes()),
        drift=() if look is None else kept(look[1]),
    )


def _has_model(settings: Settings, ledger: Ledger) -> bool:
    return (bundle_path(settings, ledger.deployed("champion")) / "bundle.toml").is_file()


def _jobs(settings: Settings) -> dict[str, int]:
    states = Counter(job.state for job in Jobs(settings.retraining.jobs).all())
    return {state.value: states[state] for state in JobState}
