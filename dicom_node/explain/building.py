"""What one destination gets of an analysis: its objects, each made by a builder, and the pictures of the dashboard."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import structlog
from pydicom import Dataset

from dicom_node.dicom import elements
from dicom_node.explain.pipeline import Analysis
from dicom_node.nouns import REPORT, Task
from dicom_node.results import (
    AssessedImage,
    Builder,
    ExplainedImage,
    ResultContext,
    ResultOptions,
    StudyContext,
    view,
)
from dicom_node.watch.logs import place
from explain_core import plugins
from explain_core.explanation import Explanation, ModelIdentity

RESULTS = "dicom_node.results.objects"
DOCUMENTS = (REPORT, "report_page", "key_object")
_NUMBERS_PER_REVISION = 1000
_FAULTS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
"""Of a builder; what interrupts a task, or lacks memory or disk, is none of them."""

log = structlog.get_logger(__name__)


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


def build(analysis: Analysis, options: ResultOptions, *, earlier: Sequence[Dataset] = ()) -> tuple[Result, ...]:
    """What one destination gets of an analysis, and what it gets instead of objects that it refuses.

    An image has its objects once for each of the destination's methods. There is always something, of every image: what
    no object shows is said in the structured report.

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
    shown = _shown(results)
    if REPORT not in names and not (shown and shown.issuperset(one.source.sop_instance_uid for one in images)):
        results = _built(study, (*names, REPORT))
    return results


def _shown(results: Sequence[Result]) -> set[str]:
    """The images that an object shows which the destination gets; one that it may get instead of another is none."""
    return {uid for one in results if not one.standby for uid in elements.referenced(one.dataset)}


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
    made: list[tuple[Builder, Sequence[Dataset], list[str]]] = []
    for builder in _with_fallbacks(_in_order(names)):
        shown = tuple(dataset for one, datasets, _ in made if one.name in names for dataset in datasets)
        omitted = dict.fromkeys((one.name, why) for one, _, whys in made if one.name in names for why in whys)
        made.append((builder, *_made(dataclasses.replace(study, made=shown, omitted=tuple(omitted)), builder)))
    return tuple(
        Result(kind=one.name, dataset=dataset, fallback=one.fallback, standby=one.name not in names)
        for one, datasets, _ in made
        for dataset in datasets
    )


def _made(study: StudyContext, builder: Builder) -> tuple[Sequence[Dataset], list[str]]:
    """The data sets of one builder, and why there are none of some images."""
    refusals = [(image, builder.refuses(image)) for image in study.images]
    possible = tuple(image for image, why in refusals if why is None)
    whys = [why for _, why in refusals if why]
    try:
        return builder.build(dataclasses.replace(study, images=possible)), whys
    except _FAULTS as error:
        if builder.name == REPORT:
            raise
        log.error("object failed", kind=builder.name, error=type(error).__name__, place=place(error))  # noqa: TRY400
        if len(possible) > 1 and builder.name not in DOCUMENTS:  # one image's fault is no other's
            alone = [_made(dataclasses.replace(study, images=(image,)), builder) for image in possible]
            return [one for made, _ in alone for one in made], whys + [why for _, more in alone for why in more]
        return (), [*whys, f"building it failed ({type(error).__name__})"]


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
