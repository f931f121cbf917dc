"""Celery over Redis: the app factory, the task names, submit(), and how a worker process runs.

The queue carries one identifier per message, as JSON. What the identifier means, and whether there is still
anything to do, is in the ledger: a message may be lost, repeated or late without harm. Hence the settings:

- acks_late and reject_on_worker_lost: a message outlives the worker that dies over it (but for retraining);
- prefetch 1: a worker holds no message that another could work on;
- visibility_timeout above the hard time limit: Redis never hands out a message that is being worked on;
- no ETA, no countdown, no Celery retry: waiting is a column in the ledger, in one layer;
- no result backend: outcomes are rows;
- pool solo for explanations: CUDA does not survive fork(), and one process owns one device.

Celery's own time limits need its prefork pool and do nothing here: worker.py enforces the limits.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, signals
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from dicom_node.errors import BrokerUnreachable, ConfigError, NodeError
from dicom_node.queue.transport import SentinelTransport, Transport
from dicom_node.settings.sections import Settings
from dicom_node.watch import pulse
from dicom_node.watch.logs import place

EXPLAIN = "dicom_node.explain"
DELIVER = "dicom_node.deliver"
RETRAIN = "training.retrain"
"""Acknowledged at once, unlike the others: the job folder is the truth (ADR 12), and a job takes hours.

Its one argument is the name of a job's folder.
"""
QUEUES = {EXPLAIN: "explain", DELIVER: "deliver", RETRAIN: "retrain"}

MEMORY = "dicom_node.memory"
"""The key that says that the broker has forgotten nothing."""

EXIT_STALLED = 70  # EX_SOFTWARE of sysexits.h: the supervisor starts a fresh process
CONNECT_SECONDS = 5
STALL_SECONDS = 30.0

log = structlog.get_logger(__name__)


def make_celery(settings: Settings) -> Celery:
    """Build the Celery app; nothing connects and nothing global changes.

    Raises:
        ConfigError: the visibility timeout is not longer than the hard time limit.
    """
    broker = settings.broker
    if broker.visibility_timeout <= broker.hard_time_limit:
        raise ConfigError(
            "broker.visibility_timeout must be longer than broker.hard_time_limit: "
            "Redis would hand out tasks that are still being worked on"
        )
    app = _App("dicom_node", broker=broker.url, autofinalize=False, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_queues=[Queue(name) for name in QUEUES.values()],
        task_routes={task: {"queue": queue} for task, queue in QUEUES.items()},
        task_create_missing_queues=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_pool="solo",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": broker.visibility_timeout,
            "socket_connect_timeout": CONNECT_SECONDS,
            "max_retries": 0,  # of a submission: the dispatcher retries, in one layer
            "socket_keepalive": True,
            "health_check_interval": 10,
            "master_name": broker.sentinel_master,
        },
        enable_utc=True,
        timezone="UTC",
    )
    return app


class _App(Celery):
    def _connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = super()._connection(*args, **kwargs)
        sentinels = str(self.conf.broker_url).startswith("sentinel:")
        connection.transport_cls = SentinelTransport if sentinels else Transport
        return connection


def register(app: Celery, name: str, work: Callable[[str], object]) -> None:
    """Make `work` answer the messages of task `name`; it is given the identifier.

    What it raises is logged here and goes no further: Celery would write the exception's text, which may quote
    a data set, into the log. The message is done with in any case; that there is something left to do stands
    in the ledger.
    """

    def run(identifier: str) -> None:
        try:
            work(identifier)
        except NodeError as error:
            log.error("task ended", task=name, id=identifier, reason=str(error), place=place(error))  # noqa: TRY400
        except Exception as error:  # noqa: BLE001 - see above
            log.error(  # noqa: TRY400 - the text may quote a data set
                "task ended by an unknown error",
                task=name,
                id=identifier,
                error=type(error).__name__,
                place=place(error),
            )

    app.task(name=name, acks_late=name != RETRAIN, Request="dicom_node.queue.request:HonestRequest")(run)


def submit(app: Celery, name: str, identifier: str) -> None:
    """Put one identifier on the queue of task `name` (EXPLAIN: a task id, DELIVER: a delivery id, RETRAIN: a job).

    Raises:
        BrokerUnreachable: the broker did not take it; the reconciler will submit it again.
    """
    with _broker_failures():
        app.send_task(name, args=[identifier], queue=QUEUES[name], ignore_result=True)


def depth(app: Celery, name: str) -> int:
    """How many messages wait in the queue of task `name`; those being worked on do not count.

    Raises:
        BrokerUnreachable: the broker does not answer.
    """
    with _broker_failures(), app.connection_for_write() as connection:
        declared: Any = Queue(QUEUES[name])(connection.default_channel).queue_declare()
        return int(declared.message_count)


def remembers(app: Celery) -> bool:
    """Whether the broker still has what `remember` put there: not after a flush, or a restart that lost its memory.

    Raises:
        BrokerUnreachable: the broker does not answer.
    """
    with _broker_failures(), app.connection_for_write() as connection:
        return bool(connection.default_channel.client.exists(MEMORY))


def remember(app: Celery) -> None:
    """Put a mark into the broker, by which it is seen whether it has forgotten everything.

    Raises:
        BrokerUnreachable: the broker does not answer.
    """
    with _broker_failures(), app.connection_for_write() as connection:
        connection.default_channel.client.set(MEMORY, "1")


class _broker_failures:  # noqa: N801 - reads as what it is: with _broker_failures()
    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (OperationalError, RedisError, OSError)):
            raise BrokerUnreachable(f"the broker does not answer ({type(error).__name__})") from error


def run_worker(app: Celery, name: str, *, concurrency: int = 1, stall_seconds: float = STALL_SECONDS) -> None:
    """Consume the queue of task `name` in this process until SIGTERM (which lets a running task end).

    Explanations and retraining jobs run one at a time in the main thread (pool solo). Deliveries wait for peers, so
    they run in threads: as many as there are destinations, so that a slow one never holds up another.

    Args:
        app: the app with the task registered.
        name: EXPLAIN, DELIVER or RETRAIN.
        concurrency: number of threads for DELIVER; the others take 1 only.
        stall_seconds: end the process when messages wait and none was taken for so long.

    Raises:
        ConfigError: more than one explanation at a time in one process.
    """
    if name != DELIVER and concurrency != 1:
        raise ConfigError("one explanation at a time in one process: start more worker processes instead")
    app.finalize()
    signals.setup_logging.connect(_keep_logging)
    signals.worker_ready.connect(_ready)
    signals.worker_shutting_down.connect(_stopping)
    StallWatch(lambda: depth(app, name), stall_seconds).start()
    worker = app.Worker(
        pool="threads" if name == DELIVER else "solo",
        concurrency=concurrency,
        queues=[QUEUES[name]],
        hostname=f"{QUEUES[name]}-{os.getpid()}@%h",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        optimization="fair",
    )
    worker.start()
    if worker.exitcode:  # Celery ends its worker over an error and returns
        raise SystemExit(worker.exitcode)


def _keep_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from touching levels and handlers: observe has set them up."""


def _ready(**_: Any) -> None:
    pulse.ready()


def _stopping(**_: Any) -> None:
    pulse.stopping()


class StallWatch(threading.Thread):
    """Ends the process when it stops consuming: messages wait, nothing runs, nothing was taken.

    A consumer of Celery over Redis may go silent after a reconnect without any error. A fresh process
    consumes again, and the supervisor starts one.

    Args:
        waiting: how many messages wait.
        seconds: how long they may wait for an idle worker.
        stop: what to do then; by default the process ends at once with EXIT_STALLED.
    """

    def __init__(self, waiting: Callable[[], int], seconds: float, stop: Callable[[], None] | None = None) -> None:
        super().__init__(name="stall-watch", daemon=True)
        self._waiting = waiting
        self._seconds = seconds
        self._stop = stop or (lambda: os._exit(EXIT_STALLED))
        self._lock = threading.Lock()
        self._running = 0
        self._activity = 0
        signals.task_prerun.connect(self._began)
        signals.task_postrun.connect(self._ended)

    def _began(self, **_: Any) -> None:
        with self._lock:
            self._running += 1
            self._activity += 1

    def _ended(self, **_: Any) -> None:
        with self._lock:
            self._running -= 1

    def run(self) -> None:
        """Look every third of the allowed time; three looks in a row with no progress are a stall."""
        silent, seen = 0, -1
        while silent < 3:  # noqa: PLR2004 - three thirds
            threading.Event().wait(self._seconds / 3)
            with self._lock:
                running, activity = self._running, self._activity
            moved = running > 0 or activity != seen
            seen = activity
            silent = 0 if moved or not self._anything_waits() else silent + 1
            if not silent:
                pulse.beat()
        log.error("worker stalled", seconds=self._seconds, advice="the supervisor starts a fresh worker")
        self._stop()

    def _anything_waits(self) -> bool:
        try:
            return self._waiting() > 0
        except BrokerUnreachable:
            return False  # Celery reconnects by itself; without a broker nobody can consume
