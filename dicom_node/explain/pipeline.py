"""One study revision -> analysis; plain functions, so that anything can call and repeat them.

`analyse` runs the model once; `building.build` makes what one destination gets of it. Every image leaves an answer:
results, or a line in the report that says why there are none. What the image is to blame for (unsuitable,
unreadable, nothing the model can use) ends with that line, and the other images are still explained. Anything else
(out of memory, a fault of ours) is raised: the caller records it and asks for `not_analysed`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog
from pydicom import Dataset

from dicom_node.dicom import pixels
from dicom_node.errors import DatasetUnreadable, NodeError, Reason, StudyUnsuitable
from dicom_node.nouns import Instance, PassedBy, SOPInstanceUID, Study, StudyState, Task
from dicom_node.results import (
    AssessedImage,
    ExplainedImage,
    Refusal,
    SourceReference,
)
from dicom_node.results.header import header_of, patient_and_study
from dicom_node.watch.logs import place
from dicom_node.watch.stages import stage
from explain_core import progress
from explain_core.errors import ExplainError
from explain_core.explanation import Explainer, ModelIdentity

log = structlog.get_logger(__name__)

Read = Callable[[Instance], Dataset]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What the model said of one task's images.

    Attributes:
        task: the task.
        header: what an instance that can be read says of patient and study; empty when none can be read.
        model: the model version, if one was loaded.
        explained, assessed, refused: the images, each list in the order of the SOP Instance UIDs.
        state: EXPLAINED when at least one image was decided; IGNORED when the rules chose none; else FAILED.
        reason: why not every chosen image was decided, or None; names no patient.
    """

    task: Task
    header: Dataset
    model: ModelIdentity | None
    explained: tuple[ExplainedImage, ...] = ()
    assessed: tuple[AssessedImage, ...] = ()
    refused: tuple[Refusal, ...] = ()
    state: StudyState
    reason: str | None


def analyse(
    task: Task,
    study: Study,
    read: Read,
    explainer: Explainer,
    *,
    methods: Sequence[str],
    negatives: bool = True,
) -> Analysis:
    """Classify and explain the images that `task` selects of `study`, or say why nothing is analysed.

    Args:
        task: which images, and when it was made.
        study: the instances of the revision.
        read: gives the data set of an instance, pixels included; raises DatasetUnreadable.
        explainer: the loaded model, which serves `methods`.
        methods: by which methods; at least one.
        negatives: whether an image without the finding is explained too.

    Raises:
        LookupError: `task` selects an instance that `study` lacks.
    """
    if not task.selected:
        reason = task.reason or "no image of the study was selected"
        analysis = not_analysed(task, study, read, reason, Reason.RULES, model=explainer.identity)
        return dataclasses.replace(analysis, refused=tuple(_passed_by(task, study)) or analysis.refused)
    images = [_instance(study, uid) for uid in sorted(task.selected)]
    found = []
    for number, one in enumerate(images):
        with progress.step(number, len(images)):
            found.append(_answer(one, read, explainer, methods, negatives=negatives))
    explained = tuple(one for one in found if isinstance(one, ExplainedImage))
    assessed = tuple(one for one in found if isinstance(one, AssessedImage) and not isinstance(one, ExplainedImage))
    refused = tuple(one for one in found if isinstance(one, Refusal))
    decided, strangers = len(explained) + len(assessed), _strangers(task)
    return Analysis(
        task=task,
        header=_sibling_header(task, study, read),
        model=explainer.identity,
        explained=explained,
        assessed=assessed,
        refused=(*refused, *_passed_by(task, study)),
        state=StudyState.EXPLAINED if decided else StudyState.FAILED,
        reason=_summary(
            [*(one.reason for one in refused), *(one.reason for one in strangers)], len(task.selected) + len(strangers)
        ),
    )


def not_analysed(
    task: Task,
    study: Study,
    read: Read,
    reason: str,
    code: Reason,
    *,
    model: ModelIdentity | None = None,
) -> Analysis:
    """What is left to say when the images of `task` cannot be analysed, from whatever header can be read.

    Args:
        task: the task; its selected images, or without any the whole study, are what the answer is about.
        study: the instances of the revision.
        read: gives the data set of an instance; whatever it raises, there is an answer.
        reason: a plain clause that follows "because"; names no patient.
        code: the reason for machines.
        model: the model version, if one was loaded.
    """
    selected = set(task.selected)
    about = [one for one in study.instances if not selected or one.sop_instance_uid in selected]
    about.sort(key=lambda instance: instance.sop_instance_uid)
    return Analysis(
        task=task,
        header=_sibling_header(task, study, read),
        model=model,
        refused=(Refusal(sources=tuple(_reference(one) for one in about), reason=reason, code=code),),
        state=StudyState.FAILED if selected else StudyState.IGNORED,
        reason=reason,
    )


def _answer(
    instance: Instance, read: Read, explainer: Explainer, methods: Sequence[str], *, negatives: bool
) -> AssessedImage | Refusal:
    """Explain one image, or say why not."""
    source = _reference(instance)
    try:
        with stage("decode"):
            header, rendering = _rendered(instance, read)
        with stage("classify"):
            assessment = explainer.classify(rendering.radiograph)
        if not negatives and not assessment.prediction.positive:
            return AssessedImage(source=source, header=header, assessment=assessment)
        with stage("explain"):
            explanations = explainer.explain(rendering.radiograph, methods, assessment)
    except (StudyUnsuitable, DatasetUnreadable) as error:
        return Refusal(sources=(source,), reason=str(error), code=error.reason)
    except ExplainError as error:
        return Refusal(sources=(source,), reason=str(error), code=Reason.MODEL)
    return ExplainedImage(
        source=source,
        header=header,
        assessment=assessment,
        radiograph=rendering.radiograph,
        greys=rendering.greys,
        explanations=explanations,
    )


def _rendered(instance: Instance, read: Read) -> tuple[Dataset, pixels.Rendering]:
    """The header and the image of an instance.

    Raises:
        StudyUnsuitable, DatasetUnreadable: as of `pixels.render`; also in place of anything else that these bytes make
            pydicom or a decoder raise, but for what endangers the process.
    """
    try:
        ds = read(instance)
        return header_of(ds), pixels.render(ds)
    except (NodeError, MemoryError, OSError):
        raise
    except Exception as error:
        what = type(error).__name__
        log.warning("image not understood", sop=instance.sop_instance_uid, error=what, place=place(error))
        raise DatasetUnreadable(f"its file cannot be understood ({what})", Reason.UNREADABLE) from error


def _passed_by(task: Task, study: Study) -> Iterator[Refusal]:
    """Why no route takes the other images, as the dispatcher decided."""
    for one in sorted(task.passed_by, key=lambda one: one.sop_instance_uid):
        source = _reference(_instance(study, one.sop_instance_uid))
        yield Refusal(sources=(source,), reason=one.reason, code=one.code)


def _strangers(task: Task) -> tuple[PassedBy, ...]:
    """The images of another patient."""
    return tuple(one for one in task.passed_by if one.code is Reason.PATIENT)


def _instance(study: Study, sop_instance_uid: SOPInstanceUID) -> Instance:
    """The selected instance; that it is missing would be a fault of ours."""
    for instance in study.instances:
        if instance.sop_instance_uid == sop_instance_uid:
            return instance
    raise LookupError(f"{sop_instance_uid} is not in revision {study.revision} of its study")


def _reference(instance: Instance) -> SourceReference:
    return SourceReference(
        study_instance_uid=instance.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
    )


def _sibling_header(task: Task, study: Study, read: Read) -> Dataset:
    """Patient and Study from the first instance of the task's patient that can be read; empty when none can."""
    strangers = {one.sop_instance_uid for one in _strangers(task)}
    own = [one for one in study.instances if one.sop_instance_uid not in strangers]
    for instance in sorted(own, key=lambda one: (one.sop_instance_uid not in task.selected, one.sop_instance_uid)):
        try:
            return patient_and_study(read(instance))
        except Exception as error:  # noqa: BLE001 - the report must go out whatever the files are like
            log.warning("no header", sop=instance.sop_instance_uid, error=type(error).__name__, place=place(error))
    return Dataset()


def _summary(reasons: list[str], images: int) -> str | None:
    """Why not everything was explained, in one line."""
    if not reasons:
        return None
    unique = "; ".join(dict.fromkeys(reasons))
    return unique if len(reasons) == images else f"{len(reasons)} of {images} images not analysed: {unique}"
