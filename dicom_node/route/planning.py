"""What follows from a complete revision of a study: its tasks, or a reason why there are none; pure."""

import dataclasses
import uuid
from collections.abc import Iterable
from datetime import datetime

from dicom_node.errors import Reason
from dicom_node.nouns import PassedBy, Route, SOPInstanceUID, Study, StudyState, Task, TaskState
from dicom_node.route.rules import StudyDecision

NAMESPACE = uuid.UUID("6a3b1f54-2a2e-5a39-9d8e-1b7c4c2f0e61")
"""Never change: task identifiers come from it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What follows from a complete revision: tasks, or nothing with a reason."""

    tasks: tuple[Task, ...]
    state: StudyState
    reason: str | None


def plan(
    study: Study, decision: StudyDecision, earlier: Iterable[Task], now: datetime, everywhere: tuple[str, ...] = ()
) -> Plan:
    """Turn the rules' decision into tasks; pure.

    One task for each route. A study that no rule takes is answered with its reason, once: late images, or rules asked
    again, that change nothing about what the radiologist was told make no second report.

    Args:
        study: the revision.
        decision: what the rules say of its images.
        earlier: the tasks of earlier revisions.
        now: becomes the content date and time of all results.
        everywhere: all destinations, which are told of a study that no rule takes.
    """
    passed_by = decision.ignored
    if decision.routes:
        made = [
            _task(study, route, now, selected=tuple(sorted(uids)), passed_by=passed_by)
            for route, uids in sorted(decision.routes.items(), key=lambda item: item[0].name)
        ]
        return Plan(tasks=tuple(made), state=StudyState.READY, reason=None)
    if decision.silent:
        return Plan(tasks=(), state=StudyState.IGNORED, reason=decision.reason)
    said = {task.reason for task in earlier}
    if decision.reason in said:
        return Plan(tasks=(), state=StudyState.IGNORED, reason=f"as before: {decision.reason}")
    if None in said:
        return Plan(tasks=(), state=StudyState.IGNORED, reason=f"late images: {decision.reason}")
    told = Route(name="", destinations=everywhere, results=())
    report = _task(study, told, now, passed_by=passed_by, reason=decision.reason)
    return Plan(tasks=(report,), state=StudyState.READY, reason=None)


def refused(study: Study, reason: str) -> StudyDecision:
    """No image of the study is taken, for one reason."""
    ignored = tuple(
        PassedBy(sop_instance_uid=one.sop_instance_uid, reason=reason, code=Reason.RULES) for one in study.instances
    )
    return StudyDecision(routes={}, ignored=ignored, passed_over=())


def _task(
    study: Study,
    route: Route,
    now: datetime,
    *,
    passed_by: tuple[PassedBy, ...],
    selected: tuple[SOPInstanceUID, ...] = (),
    reason: str | None = None,
) -> Task:
    name = f"{study.study_instance_uid}|{study.revision}|{route.name}"
    return Task(
        task_id=str(uuid.uuid5(NAMESPACE, name)),
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        route=route.name,
        destinations=route.destinations,
        results=route.results,
        selected=selected,
        passed_by=passed_by,
        reason=reason,
        state=TaskState.PENDING,
        attempts=0,
        created_at=now,
    )
