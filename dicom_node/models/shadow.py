"""Shadow mode: a challenger answers the studies that the champion has answered; nothing of it is ever sent.

One process of its own, at the lowest priority, driven by the ledger alone: explained tasks that the challenger has not
seen, oldest first, one at a time, and only while no clinical task waits or runs. What it says becomes observations; its
result objects lie under <spool>/shadow/<digest>/<task>/ and have no deliveries, so that no sender can find them.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from pydicom import Dataset

from dicom_node.clock import utc_now
from dicom_node.dicom import reading
from dicom_node.errors import NodeError, OutOfResources
from dicom_node.explain import building, pipeline
from dicom_node.explain.leases import EXIT_HARD_LIMIT, SoftLimitExceeded, soft_limit
from dicom_node.explain.pipeline import Analysis
from dicom_node.explain.record import rows_of
from dicom_node.explain.running_model import open_explainer
from dicom_node.nouns import Instance, Task
from dicom_node.results import result_options
from dicom_node.settings.sections import Settings
from dicom_node.storage import bundles
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.deployments import Deployment
from dicom_node.storage.ledger.observations import ShadowState
from dicom_node.storage.spool import Spool, no_room
from dicom_node.watch import pulse
from dicom_node.watch.logs import place
from explain_core import progress
from explain_core.errors import ExplainError
from explain_core.explanation import Explainer
from explain_core.files import fresh

KEEP: Final = 500
"""Tasks whose result objects are kept, the newest of all challengers together."""
NICE: Final = 19
IDLE_SECONDS: Final = 5.0
"""Between two looks at the ledger when there is nothing to do, or clinical work goes first."""
FOLDER: Final = "shadow"

log = structlog.get_logger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Let the challenger answer studies until `stop`, at the lowest priority."""
    os.nice(NICE)
    ledger = Ledger(settings.node.database)
    ledger.create()
    # Twice the node's own margin: a disk that fills is left to the clinical work.
    spool = Spool.of(settings, margin=2)
    Shadow(settings, ledger, spool, lambda folder: open_challenger(settings, folder)).run(stop)


def open_challenger(settings: Settings, folder: Path) -> Explainer:
    """The bundle in `folder` on the workers' device, within the share of it that retraining may take.

    Raises:
        BundleError, ConfigError, ValueError: as of `deployment.open_explainer`.
    """
    import torch  # noqa: PLC0415 - only this process of the shadow needs it

    if settings.retraining.threads:
        torch.set_num_threads(settings.retraining.threads)
    model = settings.model
    if model.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(settings.retraining.gpu_memory_fraction)
    return open_explainer(settings, folder, settings.methods_for())


class Shadow:
    """Works on one study at a time, in the main thread of its process.

    Args:
        settings: limits, result objects, where the bundles lie.
        ledger: what there is to do, and where the answers go.
        spool: instances in, result objects out.
        load: loads the bundle in a folder.
        clock: the time.
        end: ends the process at the hard limit.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        load: Callable[[Path], Explainer],
        *,
        clock: Callable[[], datetime] = utc_now,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._load = load
        self._clock = clock
        self._end = end
        self._explainer: Explainer | None = None
        self._said: tuple[str, ...] = ()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`."""
        pulse.ready()
        while not stop.is_set():
            pulse.beat()
            if not self.step():
                stop.wait(IDLE_SECONDS)

    def step(self) -> bool:
        """Answer one study, if there is one to answer and nothing goes before it.

        Returns:
            True when there may be another at once.
        """
        try:
            deployment = self._ledger.deployed("challenger")
            if deployment is None:
                self._explainer = None
                self._say("no challenger is deployed")
                return False
            explainer = self._challenger(deployment)
            if explainer is None or self._ledger.clinical_work_waits():
                return False
            self._spool.check_space()
            again = timedelta(seconds=self._settings.broker.hard_time_limit)
            taken = self._ledger.take_shadow(deployment.digest, deployment.deployed_at, self._clock(), again)
            if taken is None:
                return False
            self._work(explainer, *taken)
            self._said = ()
        except OutOfResources as error:
            self._say("the challenger waits", str(error).split(":")[0])
            return False
        return True

    def _challenger(self, deployment: Deployment) -> Explainer | None:
        """The challenger of this moment, loaded when it is another than before; None when it cannot be used."""
        if self._explainer is not None and self._explainer.identity.digest == deployment.digest:
            return self._explainer
        self._explainer = None  # before the other one is loaded: there may be room for one only
        try:
            bundles.check(self._settings, deployment)
            explainer = self._load(bundles.bundle_path(self._settings, deployment))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it: the node goes on without it
            speaks = isinstance(error, NodeError | ExplainError)
            reason = str(error) if speaks else f"{type(error).__name__} at {place(error)[-1:]}"
            self._say("the challenger cannot be used", deployment.digest, reason)
            return None
        if explainer.identity.digest != deployment.digest:
            self._say("the challenger cannot be used", deployment.digest, "its files changed while they were read")
            return None
        self._explainer = explainer
        self._say("the challenger watches", explainer.identity.digest, explainer.identity.version)
        return explainer

    def _say(self, event: str, *details: str) -> None:
        """Log a state when it begins, not every time that it is met."""
        if self._said != (event, *details):
            self._said = (event, *details)
            log.info(event, **dict(zip(("what", "reason"), details, strict=False)))

    def _work(self, explainer: Explainer, task_id: str, attempt: int) -> None:
        digest, most = explainer.identity.digest, self._settings.broker.max_attempts
        if attempt > most:
            self._failed(task_id, digest, "it ended the process each time", last=True)
            return
        task = self._ledger.task(task_id)
        if task is None:
            raise LookupError(f"{task_id} has vanished from the ledger")
        last = attempt == most
        bound = structlog.contextvars.bound_contextvars(task=task_id, study=task.study_instance_uid, attempt=attempt)
        with bound, _hard_limit(self._settings.broker.hard_time_limit, self._end):
            try:
                self._answer(explainer, task)
            except OutOfResources:
                with suppress(OutOfResources):
                    self._ledger.release_shadow(task_id, digest)
                raise
            except SoftLimitExceeded:
                seconds = self._settings.broker.soft_time_limit
                self._failed(task_id, digest, f"it took longer than {seconds} s", last=last)
            except Exception as error:  # noqa: BLE001 - of this study; the next one may go well
                log.warning("the challenger failed", error=type(error).__name__, place=place(error))
                self._failed(task_id, digest, type(error).__name__, last=last)

    def _answer(self, explainer: Explainer, task: Task) -> None:
        """Explain, keep the objects, then record: what is recorded is there."""
        began = time.monotonic()
        study = self._ledger.study(task.study_instance_uid, task.revision)
        with soft_limit(self._settings.broker.soft_time_limit), progress.listening(lambda _: pulse.beat()):
            methods = self._settings.methods_for(task.destinations)
            analysis = pipeline.analyse(
                task,
                study,
                self._read,
                explainer,
                methods=methods,
                negatives=self._negatives,
            )
            results = building.build(analysis, replace(result_options(self._settings), methods=methods))
        objects = [one.dataset for one in results if not one.standby]
        store(self._spool.root / FOLDER, explainer.identity.digest, task.task_id, objects)
        now = self._clock()
        seconds = time.monotonic() - began
        rows = rows_of(task, analysis, role="challenger", seconds=seconds, now=now)
        state: ShadowState = "done" if rows else "failed"
        self._ledger.end_shadow(task.task_id, explainer.identity.digest, state, _refused(analysis), now, rows)
        log.info("the challenger answered", state=state, images=len(rows))

    def _read(self, instance: Instance) -> Dataset:
        return reading.read(self._spool.fetch(instance.path))

    @property
    def _negatives(self) -> bool:
        """Whether the champion explains negative decisions, for any destination."""
        said = (one.explain or self._settings.results.explain for one in self._settings.destinations)
        return "always" in (self._settings.results.explain, *said)

    def _failed(self, task_id: str, digest: str, reason: str, *, last: bool) -> None:
        log.warning("the challenger has no answer", task=task_id, reason=reason, final=last)
        self._ledger.end_shadow(task_id, digest, "failed" if last else "running", reason, self._clock())


def _refused(analysis: Analysis) -> str | None:
    """Which images the challenger did not decide, and why: counts and codes."""
    count = sum(len(one.sources) for one in analysis.refused)
    codes = ", ".join(sorted({one.code.value for one in analysis.refused}))
    return f"{count} of {len(analysis.task.selected)} images: {codes}" if count else None


@contextmanager
def _hard_limit(seconds: float, end: Callable[[int], None]) -> Iterator[None]:
    """End the process when the block takes longer, whatever it hangs in; the supervisor starts another."""
    timer = threading.Timer(seconds, end, (EXIT_HARD_LIMIT,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def store(root: Path, digest: str, task_id: str, objects: Sequence[Dataset], keep: int = KEEP) -> Path:
    """Put result objects into <root>/<digest>/<task>/, all at once, in place of earlier ones; forget the oldest.

    Args:
        root: folder of the shadow.
        digest: whose answer.
        task_id: to what.
        objects: complete with file meta information.
        keep: folders of tasks that stay, the newest of all digests.

    Raises:
        OutOfResources: the disk is full.
    """
    folder, part = root / digest / task_id, root / digest / f"{task_id}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for dataset in objects:
            with fresh(part / f"{dataset.SOPInstanceUID}.dcm") as file:
                dataset.save_as(file, enforce_file_format=True)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if no_room(error):
            raise OutOfResources("Disk full") from error
        raise
    kept = sorted(root.glob("*/*"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
    for old in kept[keep:]:
        shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):  # of another task
            old.parent.rmdir()
    return folder
