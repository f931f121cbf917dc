"""One study revision -> analysis -> result data sets; plain functions, so that anything can call and repeat them.

`analyse` runs the model once; `build` makes what one destination gets of it. Every image leaves an answer: results,
or a line in the report that says why there are none. What the image is to blame for (unsuitable, unreadable, nothing
the model can use) ends with that line, and the other images are still explained. Anything else (out of memory, a
fault of ours) is raised: the caller records it and asks for `not_analysed`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import structlog
from pydicom import Dataset

from dicom_node.dicom import pixels
from dicom_node.errors import DatasetUnreadable, NodeError, Reason, StudyUnsuitable
from dicom_node.nouns import REPORT, Instance, PassedBy, SOPInstanceUID, Study, StudyState, Task
from dicom_node.results import (
    AssessedImage,
    Builder,
    ExplainedImage,
    Refusal,
    ResultContext,
    ResultOptions,
    SourceReference,
    StudyContext,
    view,
)
from dicom_node.results.header import header_of, patient_and_study
from dicom_node.watch.logs import place
from dicom_node.watch.stages import stage
from explain_core import plugins, progress
from explain_core.errors import ExplainError
from explain_core.explanation import Explainer, Explanation, ModelIdentity

RESULTS = "dicom_node.results.objects"
DOCUMENTS = (REPORT, "report_page", "key_object")
_NUMBERS_PER_REVISION = 1000
_FAULTS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
"""Of a builder; what interrupts a task, or lacks memory or disk, is none of them."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One object for one destination.

    Attributes:
        kind: name of its builder.
        dataset: complete with file meta information.
        fallback: the kind that a destination gets when it does not take this SOP Class, or None.
        standby: only for a destination that refuses another object.
    """

    kind: str
    dataset: Dataset
    fallback: str | None
    standby: bool


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


def build(analysis: Analysis, options: ResultOptions, *, earlier: Sequence[Dataset] = ()) -> tuple[Result, ...]:
    """What one destination gets of an analysis, and what it gets instead of objects that it refuses.

    An image has its objects once for each of the destination's methods. There is always something: what no picture
    shows is said in the structured report.

    Args:
        analysis: what the model said.
        options: what the destination wants; `options.objects` names the builders, `options.methods` the methods,
            by which the images were explained.
        earlier: results already sent there for this study, which new reports name as predecessors.

    Raises:
        LookupError: `options.objects` names no builder.
    """
    images, assessed = _by_policy(analysis, options)
    names = dict.fromkeys(options.objects)
    if analysis.refused or assessed:
        names[REPORT] = None
    common = _Common(task=analysis.task, model=analysis.model, options=options, earlier=earlier)
    first = _NUMBERS_PER_REVISION * (analysis.task.revision - 1)
    contexts = tuple(
        ResultContext(
            **common,
            header=one.header,
            sources=(one.source,),
            number=first + position,
            image=one,
            explanation=explanation,
        )
        for position, one in enumerate(images, start=1)
        for explanation in _of_methods(one, options.methods)
    )
    decided = (*images, *assessed)
    of_refused = [source for one in analysis.refused for source in one.sources]
    study = StudyContext(
        **common,
        header=next((one.header for one in decided), analysis.header),
        sources=(*(one.source for one in decided), *of_refused),
        number=first + 1,
        images=contexts,
        assessed=assessed,
        refused=analysis.refused,
    )
    results = _built(study, tuple(names))
    if all(one.standby for one in results):
        results = _built(study, (*names, REPORT))
    return results


def views(analysis: Analysis, options: ResultOptions) -> Iterator[tuple[str, bytes]]:
    """What the dashboard shows of each explained image by each method: the name of a file, and what it holds.

    One that cannot be drawn is left out, and the log says so: nobody waits for it.
    """
    common = _Common(task=analysis.task, model=analysis.model, options=options, earlier=())
    for image in analysis.explained:
        for explanation in image.explanations:
            name = f"{image.source.sop_instance_uid}-{explanation.provenance.method}"
            header, sources = image.header, (image.source,)
            context = ResultContext(
                **common, header=header, sources=sources, number=1, image=image, explanation=explanation
            )
            try:
                yield name, view.render(context)
            except _FAULTS as error:
                log.error("view failed", sop=name, error=type(error).__name__, place=place(error))  # noqa: TRY400


class _Common(TypedDict):
    """What every context is made from."""

    task: Task
    model: ModelIdentity | None
    options: ResultOptions
    earlier: Sequence[Dataset]


def _built(study: StudyContext, names: Sequence[str]) -> tuple[Result, ...]:
    """The objects `names` and their stand-ins: pictures first, so that documents can say what could not be made."""
    results: list[Result] = []
    omitted: dict[tuple[str, str], None] = {}
    wanted = _in_order(names)
    for builder in _with_fallbacks(wanted):
        standby = builder.name not in names
        refusals = [(image, builder.refuses(image)) for image in study.images]
        made = tuple(one.dataset for one in results if not one.standby)
        possible = tuple(image for image, why in refusals if why is None)
        whys = [why for _, why in refusals if why is not None]
        context = dataclasses.replace(study, images=possible, made=made, omitted=tuple(omitted))
        try:
            datasets = builder.build(context)
        except _FAULTS as error:
            if builder.name == REPORT:
                raise
            log.error("object failed", kind=builder.name, error=type(error).__name__, place=place(error))  # noqa: TRY400
            whys, datasets = [f"building it failed ({type(error).__name__})"], ()
        if not standby:
            omitted |= {(builder.name, why): None for why in whys if why}
        results += [
            Result(kind=builder.name, dataset=dataset, fallback=builder.fallback, standby=standby)
            for dataset in datasets
        ]
    return tuple(results)


def _in_order(names: Sequence[str] | dict[str, None]) -> tuple[Builder, ...]:
    builders: list[Builder] = [plugins.load(RESULTS, name) for name in names]
    return tuple(sorted(builders, key=lambda builder: (builder.name in DOCUMENTS, builder.series)))


def _with_fallbacks(wanted: Sequence[Builder]) -> tuple[Builder, ...]:
    """`wanted` and everything that may have to stand in for one of them."""
    names = {builder.name: builder.fallback for builder in wanted}
    while missing := {name for name in names.values() if name is not None} - names.keys():
        names |= {name: plugins.load(RESULTS, name).fallback for name in missing}
    return _in_order(list(names))


def _by_policy(
    analysis: Analysis, options: ResultOptions
) -> tuple[tuple[ExplainedImage, ...], tuple[AssessedImage, ...]]:
    if options.explain == "always":
        return analysis.explained, analysis.assessed
    positive = tuple(one for one in analysis.explained if one.assessment.prediction.positive)
    negative = tuple(one for one in analysis.explained if not one.assessment.prediction.positive)
    return positive, (*analysis.assessed, *negative)


def _of_methods(image: ExplainedImage, methods: Sequence[str]) -> Iterator[Explanation]:
    """The explanations by `methods`, in that order."""
    found = {one.provenance.method: one for one in image.explanations}
    for name in methods:
        yield found[name]


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
