"""What a task leaves for those who watch: how long each stage took, how it ended, and its part of the study's trace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from dicom_node.nouns import StudyState, Task
from dicom_node.watch import metrics, stages, traces
from dicom_node.watch.stages import Stage
from explain_core.explanation import ModelIdentity

WAIT, TOTAL = "wait", "total"


@dataclass(slots=True)
class Run:
    """One task that is worked on.

    Attributes:
        task: what is done.
        clock: the time.
        began_at: when the worker took it.
        stages: what it did so far.
    """

    task: Task
    clock: Callable[[], datetime]
    began_at: datetime
    stages: list[Stage]

    def end(self, outcome: str, model: ModelIdentity | None, *, recorded: bool) -> None:
        """It is over.

        Args:
            outcome: the state of the study.
            model: that answered; None where none did.
            recorded: whether the ledger has it; where another has finished the task meanwhile, it counts there.
        """
        if not recorded:
            return
        whole = Stage(name=TOTAL, began_at=self.began_at, ended_at=self.clock())
        label = "none" if model is None else f"{model.name} {model.version}"
        metrics.count("jobs_finished_total", outcome=outcome)
        waited = (self.began_at - self.task.created_at).total_seconds()
        metrics.time("job_seconds", waited, stage=WAIT, model=label)
        for one in (*self.stages, whole):
            metrics.time("job_seconds", one.seconds, stage=one.name, model=label)
        traces.explained(
            self.task.study_instance_uid,
            self.task.revision,
            self.task.created_at,
            (*self.stages, whole),
            task=self.task.task_id,
            outcome=outcome,
            model=label,
            attempt=self.task.attempts,
        )


def know() -> None:
    """Every outcome begins at 0, so that the first of a kind is seen to be one more."""
    for state in (StudyState.EXPLAINED, StudyState.IGNORED, StudyState.FAILED):
        metrics.count("jobs_finished_total", 0, outcome=state.value)


@contextmanager
def watched(task: Task, clock: Callable[[], datetime]) -> Iterator[Run]:
    """The stages of the block are those of the task."""
    with stages.listening() as found:
        yield Run(task=task, clock=clock, began_at=clock(), stages=found)
