"""One study revision -> result data sets; a plain function, so that anything can call it and repeat it.

Every image leaves an answer: results, or a report that says why there are none. What the image is to blame
for (unsuitable, unreadable, nothing the model can use) ends with that report, and the other images are still
explained. Anything else (out of memory, a fault of ours) is raised: the caller records it and asks for
`report_not_analysed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TypedDict, Unpack

from pydicom import Dataset

from dicom_node import pixels
from dicom_node.errors import DatasetUnreadable, StudyUnsuitable
from dicom_node.model import Instance, Route, SOPInstanceUID, Study, StudyState, Task
from dicom_node.results import Builder, NotAnalysed, ResultContext, ResultOptions, SourceReference
from dicom_node.results._header import header_of, patient_and_study
from dicom_node.settings import Settings
from explain_core import plugins
from explain_core.errors import ExplainError
from explain_core.explanation import Explainer, Explanation, ModelIdentity

RESULTS = "dicom_node.results"
REPORT = "structured_report"
_NUMBERS_PER_REVISION = 1000

Read = Callable[[Instance], Dataset]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The answer to one task.

    Attributes:
        datasets: what to deliver, complete with file meta information; never empty.
        state: EXPLAINED when at least one image was; IGNORED when the rules chose none; else FAILED.
        reason: why not everything was explained, or None; names no patient.
        explanations: of the images that were explained, in the order of their SOP Instance UIDs.
    """

    datasets: tuple[Dataset, ...]
    state: StudyState
    reason: str | None
    explanations: tuple[Explanation, ...]


def result_options(settings: Settings, route: Route | None = None) -> ResultOptions:
    """What the site chose about its result objects; a route may choose fewer of them."""
    chosen = settings.results
    return ResultOptions(
        objects=route.results if route is not None and route.results else chosen.objects,
        long_edge=chosen.long_edge,
        content_qualification=chosen.content_qualification,
        series_number_base=chosen.series_number_base,
        manufacturer=chosen.manufacturer,
        institution=chosen.institution,
        station_ae_title=settings.node.ae_title,
        software_version=metadata.version("dicom-explanation-node"),
    )


def explain_study(
    task: Task,
    study: Study,
    read: Read,
    explainer: Explainer,
    options: ResultOptions,
    *,
    earlier: Sequence[Dataset] = (),
) -> StudyResult:
    """Explain the images that `task` selects of `study`, or report why nothing is analysed.

    Args:
        task: which images, and when it was made.
        study: the instances of the revision.
        read: gives the data set of an instance, pixels included; raises DatasetUnreadable.
        explainer: the loaded model.
        options: the site's choices; `options.objects` names the builders.
        earlier: results already made for this study, which new reports name as predecessors.

    Raises:
        LookupError: `options.objects` names no builder, or `task` an instance that `study` lacks.
    """
    if not task.selected:
        reason = task.reason or "no image of the study was selected"
        return report_not_analysed(task, study, read, options, reason, model=explainer.identity, earlier=earlier)
    builders: list[Builder] = [plugins.load(RESULTS, name) for name in options.objects]
    reporter = plugins.load(RESULTS, REPORT)
    datasets: list[Dataset] = []
    explanations: list[Explanation] = []
    reasons: list[str] = []
    for position, sop_instance_uid in enumerate(sorted(task.selected), start=1):
        instance = _instance(study, sop_instance_uid)
        common = _Common(
            task=task,
            sources=(_reference(instance),),
            model=explainer.identity,
            options=options,
            number=_NUMBERS_PER_REVISION * (task.revision - 1) + position,
            earlier=earlier,
        )
        answer = _answer(study, instance, read, explainer, **common)
        if isinstance(answer, NotAnalysed):
            datasets.append(reporter.report(answer))
            reasons.append(answer.reason)
        else:
            datasets.extend(builder.build(answer) for builder in builders)
            explanations.append(answer.explanation)
    state = StudyState.EXPLAINED if explanations else StudyState.FAILED
    summary = _summary(reasons, len(task.selected))
    return StudyResult(datasets=tuple(datasets), state=state, reason=summary, explanations=tuple(explanations))


def report_not_analysed(
    task: Task,
    study: Study,
    read: Read,
    options: ResultOptions,
    reason: str,
    *,
    model: ModelIdentity | None = None,
    earlier: Sequence[Dataset] = (),
) -> StudyResult:
    """One report, from whatever header can be read, that the images of `task` were not analysed.

    Args:
        task: the task; its selected images, or without any the whole study, are what the report is about.
        study: the instances of the revision.
        read: gives the data set of an instance; whatever it raises, the report is made.
        options: the site's choices.
        reason: a plain clause that follows "because"; names no patient.
        model: the model version, if one was loaded.
        earlier: results already made for this study, which the report names as predecessors.
    """
    selected = set(task.selected)
    about = [one for one in study.instances if not selected or one.sop_instance_uid in selected]
    about.sort(key=lambda instance: instance.sop_instance_uid)
    refusal = NotAnalysed(
        task=task,
        header=_sibling_header(study, read),
        sources=tuple(_reference(instance) for instance in about),
        model=model,
        options=options,
        number=_NUMBERS_PER_REVISION * (task.revision - 1) + 1,
        earlier=earlier,
        reason=reason,
    )
    datasets = (plugins.load(RESULTS, REPORT).report(refusal),)
    state = StudyState.FAILED if selected else StudyState.IGNORED
    return StudyResult(datasets=datasets, state=state, reason=reason, explanations=())


class _Common(TypedDict):
    """What both kinds of answer are made from."""

    task: Task
    sources: tuple[SourceReference, ...]
    model: ModelIdentity
    options: ResultOptions
    number: int
    earlier: Sequence[Dataset]


def _answer(
    study: Study, instance: Instance, read: Read, explainer: Explainer, **common: Unpack[_Common]
) -> ResultContext | NotAnalysed:
    """Explain one image, or say why not."""
    header: Dataset | None = None
    try:
        source = read(instance)
        header = header_of(source)
        image = pixels.radiograph(source)
        explanation = explainer.explain(image)
    except (StudyUnsuitable, DatasetUnreadable, ExplainError) as error:
        header = header if header is not None else _sibling_header(study, read)
        return NotAnalysed(**common, header=header, reason=str(error))
    return ResultContext(**common, header=header, radiograph=image, explanation=explanation)


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


def _sibling_header(study: Study, read: Read) -> Dataset:
    """Patient and Study from the first instance that can be read; empty when none can."""
    for instance in sorted(study.instances, key=lambda one: one.sop_instance_uid):
        try:
            return patient_and_study(read(instance))
        except Exception:  # noqa: BLE001, S112 - the report must go out whatever the files are like
            continue
    return Dataset()


def _summary(reasons: list[str], images: int) -> str | None:
    """Why not everything was explained, in one line."""
    if not reasons:
        return None
    unique = "; ".join(dict.fromkeys(reasons))
    return unique if len(reasons) == images else f"{len(reasons)} of {images} images not analysed: {unique}"
