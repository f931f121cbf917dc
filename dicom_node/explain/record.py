"""What a model said of a task's images, as rows of the ledger.

The rows hold UIDs, scores, statistics of the image and a coarse heatmap, and nothing of the patient. They are a
by-product: whatever goes wrong with them is logged and costs no study its result.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from dicom_node.explain.pipeline import Analysis
from dicom_node.nouns import Task
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.observations import Observation, Role, pack
from dicom_node.watch.logs import place
from explain_core.explanation import Assessment, Explanation

log = structlog.get_logger(__name__)

CELLS: Final = 32
"""Rows and columns of a coarse heatmap, fewer for an image with fewer pixels."""


def record(ledger: Ledger, task: Task, analysis: Analysis, *, role: Role = "champion", now: datetime) -> int:
    """Record what a model said of a finished task's images; never raises.

    Called when the task is complete: there is nothing left to put back, so a ledger that does not answer costs the
    rows and no more.

    Args:
        ledger: where to.
        task: the finished task.
        analysis: its images and what was said of them.
        role: of the model.
        now: when the task was finished.

    Returns:
        How many rows are new: 0 for a task that was recorded before, or where nothing could be recorded.
    """
    try:
        began = ledger.working_since(task.task_id)
        seconds = (now - began).total_seconds() if began is not None else 0.0
        return ledger.observe(rows_of(task, analysis, role=role, seconds=max(0.0, seconds), now=now))
    except Exception as error:  # noqa: BLE001 - a by-product must not fail what was made
        log.warning("not observed", task=task.task_id, error=type(error).__name__, place=place(error))
        return 0


def rows_of(task: Task, analysis: Analysis, *, role: Role, seconds: float, now: datetime) -> list[Observation]:
    """One row for each image with a decision.

    Args:
        task: what was answered.
        analysis: what was said.
        role: of the model.
        seconds: the time that the task took.
        now: when it was finished.
    """
    decided = list(_decided(analysis))
    return [
        Observation(
            task_id=task.task_id,
            study_instance_uid=task.study_instance_uid,
            sop_instance_uid=uid,
            digest=said.provenance.model.digest,
            model_name=said.provenance.model.name,
            model_version=said.provenance.model.version,
            role=role,
            probability=said.prediction.probability,
            threshold=said.prediction.threshold,
            positive=said.prediction.positive,
            near_threshold=said.prediction.near_threshold,
            distance=None if said.out_of_distribution is None else float(said.out_of_distribution.score),
            far=None if said.out_of_distribution is None else bool(said.out_of_distribution.far),
            statistics={name: float(value) for name, value in said.statistics.items()},
            heatmap=None if shown is None else pack(coarse(shown.attribution.values)),
            seconds=round(seconds / len(decided), 3),
            observed_at=now,
        )
        for uid, said, shown in decided
    ]


def _decided(analysis: Analysis) -> Iterator[tuple[str, Assessment, Explanation | None]]:
    """Each image's decision, and its explanation by the first method, which two models' answers have in common."""
    for explained in analysis.explained:
        yield explained.source.sop_instance_uid, explained.assessment, explained.explanations[0]
    for assessed in analysis.assessed:
        yield assessed.source.sop_instance_uid, assessed.assessment, None


def coarse(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """A map by the means of its cells, shape (up to 32, up to 32); two models' maps of one image have one shape.

    Args:
        values: on the source's pixel grid, >= 0, shape (rows, columns).
    """
    cells = np.asarray(values, np.float64)
    for axis, length in enumerate(values.shape):
        edges = np.linspace(0, length, min(CELLS, length) + 1).astype(int)
        sums = np.add.reduceat(cells, edges[:-1], axis=axis)
        cells = sums / np.expand_dims(np.diff(edges), 1 - axis)
    return cells.astype(np.float32)
