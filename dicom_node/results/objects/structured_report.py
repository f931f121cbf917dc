"""The machine-readable answer: one Comprehensive SR after TID 1500 for all images of a study, analysed or not.

    Imaging Measurement Report
      language, device observer (model and its Device UID), procedure
      Imaging Measurements (when an image was decided)
        Measurement Group, TID 1410: the whole image as a rectangle; probability, threshold, counterfactuals, quality
        Measurement Group, TID 1410: one per part of the region with half of the evidence, as a closed polyline
        ... the same of each further method, without the decision, and of the next image
      Qualitative Evaluations: outcome of the algorithms; of each image the decision, what it is worth, where the
        evidence lies and what the source does not state; why images were not analysed, coded and in words; method,
        citation, disclaimer

There is no Image Library: it asks for attributes that CR often lacks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import highdicom.sr as hd
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ComprehensiveSRStorage

from dicom_node.results import codes
from dicom_node.results.context import AssessedImage, Context, ResultContext, SourceReference, StudyContext
from dicom_node.results.header import DISCLAIMER, by_study, plain, start
from dicom_node.results.measurements import evidence_site, groups
from dicom_node.results.notes import NOT_AN_OUTLINE, attributes_of, doubts_of, emptiness, limits_of, warnings_of
from dicom_node.results.observer import device_observer
from dicom_node.results.regions import places_of
from explain_core.explanation import OutOfDistribution, Prediction
from explain_core.zones import in_words

_CONTAINS = hd.RelationshipTypeValues.CONTAINS
_INFERRED = hd.RelationshipTypeValues.INFERRED_FROM
_NEGATIVES = "negative decisions are reported without explanation here (explain = positives)"


@dataclass(frozen=True, slots=True)
class StructuredReport:
    """Builds the TID 1500 report."""

    name: str = "structured_report"
    sop_class_uids: tuple[str, ...] = (ComprehensiveSRStorage,)
    series: int = 3
    fallback: str | None = "report_page"

    def refuses(self, image: ResultContext) -> str | None:  # noqa: ARG002 - it fits every image
        """Every image can be reported."""
        return None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One report on everything."""
        if study.images or study.assessed:
            report = hd.MeasurementReport(
                observation_context=hd.ObservationContext(observer_device_context=device_observer(study)),
                procedure_reported=codes.CHEST_RADIOGRAPHY,
                imaging_measurements=list(groups(study)),
            )
            root = report[0]
        else:
            root = _without_measurements(study)
        container = hd.ContainerContentItem(name=codes.QUALITATIVE_EVALUATIONS, relationship_type=_CONTAINS)
        container.ContentSequence = hd.ContentSequence(list(_evaluations(study)))
        root.ContentSequence.append(container)  # TID 1500, row 12
        return (self._document(study, root),)

    def _document(self, study: StudyContext, root: Dataset) -> Dataset:
        """The SR document around the content tree (PS3.3 A.35.3)."""
        ds = start(study, self.name, ComprehensiveSRStorage)
        ds.Modality = "SR"
        ds.SeriesNumber = study.series_number(self.series)
        ds.ReferencedPerformedProcedureStepSequence = []
        ds.CompletionFlag = "COMPLETE"
        ds.VerificationFlag = "UNVERIFIED"
        ds.PreliminaryFlag = "PRELIMINARY"
        ds.PerformedProcedureCodeSequence = []
        ds.CurrentRequestedProcedureEvidenceSequence = by_study(study.sources)
        predecessors = tuple(_predecessors(study, ds.SOPInstanceUID))
        if predecessors:
            ds.PredecessorDocumentsSequence = by_study(predecessors)
        ds.CodingSchemeIdentificationSequence = [codes.scheme()]
        for element in root:
            if element.keyword != "RelationshipType":
                ds.add(element)
        return ds


def _without_measurements(study: StudyContext) -> hd.ContainerContentItem:
    root = hd.ContainerContentItem(name=codes.MEASUREMENT_REPORT, template_id="1500")
    root.ContentSequence = hd.ContentSequence()
    root.ContentSequence.extend(hd.LanguageOfContentItemAndDescendants(hd.CodedConcept.from_code(codes.ENGLISH)))
    root.ContentSequence.extend(hd.ObservationContext(observer_device_context=device_observer(study)))
    procedure = _code(codes.PROCEDURE_REPORTED, codes.IMAGING_PROCEDURE)
    procedure.RelationshipType = hd.RelationshipTypeValues.HAS_CONCEPT_MOD.value
    root.ContentSequence.append(procedure)
    return root


def _evaluations(study: StudyContext) -> Iterator[hd.ContentItem]:
    """What the whole analysis comes to, as codes and sentences."""
    yield _code(codes.OUTCOME, _outcome(study), study.sources)
    for images in study.explained:
        yield from _of_explained(images)
    for assessed in study.assessed:
        yield from _of_assessed(assessed)
    for refusal in study.refused:
        yield _code(codes.NOT_ANALYSED, codes.REASONS[refusal.code], refusal.sources)
        yield _text(codes.COMMENT, f"Not analysed because {refusal.reason}.", refusal.sources)
    for name, why in study.omitted:
        yield _text(codes.COMMENT, f"No {name.replace('_', ' ')} was made because {why}.")
    yield from _methods(study)
    if study.refused and not (study.images or study.assessed):
        yield _text(codes.COMMENT, f"This says nothing about the image: it is no finding. {DISCLAIMER}.")
    else:
        yield _text(codes.COMMENT, f"{DISCLAIMER}.")


def _outcome(study: StudyContext) -> Code:
    """PS3.16 CID 6047: how many images were analysed, and whether anything was found."""
    decisions = [image.explanation.prediction.positive for image in study.images]
    decisions += [image.assessment.prediction.positive for image in study.assessed]
    if not decisions:
        return codes.NONE_SUCCEEDED
    if study.refused:
        return codes.SOME_WITH_FINDINGS if any(decisions) else codes.SOME_WITHOUT_FINDINGS
    return codes.WITH_FINDINGS if any(decisions) else codes.WITHOUT_FINDINGS


def _of_explained(images: Sequence[ResultContext]) -> Iterator[hd.ContentItem]:
    """The decision about an image once, then what each method's map and images come to."""
    first, of = images[0], images[0].sources
    prediction, distance = first.explanation.prediction, first.explanation.out_of_distribution
    yield from _decided(prediction, distance, of)
    about_maps: dict[str, None] = {}
    for image in images:
        explanation = image.explanation
        for name, holds in (
            (codes.SIMILAR_KEPT, explanation.similar_kept),
            (codes.DECISION_CHANGED, explanation.decision_changed),
            (codes.CONTROL_CHANGED, explanation.control_changed),
            (codes.SECOND_CHANGED, explanation.second_changed),
        ):
            if holds is not None:
                yield _code(name, codes.YES if holds else codes.NO, of)
        named = f"{plain(image.method)}: " if len(images) > 1 else ""
        empty, found = emptiness(explanation), places_of(image)
        for one in found:
            site = evidence_site(one)
            site.ContentSequence = hd.ContentSequence([*site.get("ContentSequence", ()), *map(_inferred_from, of)])
            yield site
        if empty is None:
            about_maps[f"{named}Evidence lies in: {in_words(found)}"] = None
        about_maps[NOT_AN_OUTLINE if empty is None else f"{named}{empty}"] = None
        sentences = (*attributes_of(explanation), *doubts_of(explanation))
        about_maps |= {f"{named}{sentence}": None for sentence in sentences}
    for sentence in (*warnings_of(prediction, distance), *about_maps, *limits_of(first.header, first.image.greys)):
        yield _text(codes.COMMENT, f"{sentence}.", of)


def _decided(
    prediction: Prediction, distance: OutOfDistribution | None, of: Sequence[SourceReference]
) -> Iterator[hd.ContentItem]:
    yield _code(codes.DECISION, codes.PRESENT if prediction.positive else codes.ABSENT, of)
    yield _code(codes.NEAR_THRESHOLD, codes.YES if prediction.near_threshold else codes.NO, of)
    if distance is not None:
        yield _code(codes.FAR, codes.YES if distance.far else codes.NO, of)


def _of_assessed(image: AssessedImage) -> Iterator[hd.ContentItem]:
    prediction, distance, of = image.assessment.prediction, image.assessment.out_of_distribution, (image.source,)
    yield from _decided(prediction, distance, of)
    for sentence in (*warnings_of(prediction, distance), *limits_of(image.header)):
        yield _text(codes.COMMENT, f"{sentence}.", of)
    yield _text(codes.COMMENT, f"Not explained because {_NEGATIVES}.", of)


def _methods(study: StudyContext) -> Iterator[hd.ContentItem]:
    """Method, citation and scale, each once."""
    said: dict[tuple[Code, str], None] = {}
    several = len({image.method for image in study.images}) > 1
    for image in study.images:
        provenance, scale = image.explanation.provenance, image.explanation.attribution.scale
        limits = f"painted above {scale.floor:.6g}, full scale {scale.full_scale:.6g}, outlined half of what is above"
        named = f"{provenance.method}: " if several else ""
        said[codes.METHOD, provenance.method] = None
        said[codes.METHOD_CITATION, f"{named}{provenance.reference}"] = None
        said[codes.HEATMAP_SCALE, f"{named}{scale.unit}; {limits}"] = None
    for name, value in said:
        yield _text(name, value)


def _code(name: Code, value: Code, of: Sequence[SourceReference] = ()) -> hd.CodeContentItem:
    item = hd.CodeContentItem(name=name, value=value, relationship_type=_CONTAINS)
    if of:
        item.ContentSequence = hd.ContentSequence([_inferred_from(source) for source in of])
    return item


def _text(name: Code, value: str, of: Sequence[SourceReference] = ()) -> hd.TextContentItem:
    item = hd.TextContentItem(name=name, value=plain(value, 1024), relationship_type=_CONTAINS)
    if of:
        item.ContentSequence = hd.ContentSequence([_inferred_from(source) for source in of])
    return item


def _inferred_from(source: SourceReference) -> hd.ContentItem:
    """The source as an image, or as any other composite object."""
    kind = hd.ImageContentItem if "Image" in UID(source.sop_class_uid).name else hd.CompositeContentItem
    return kind(
        name=codes.SOURCE_OF_MEASUREMENT,
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        relationship_type=_INFERRED,
    )


def _predecessors(about: Context, own: str) -> Iterator[SourceReference]:
    """Earlier reports of this node on the same images."""
    images = {source.sop_instance_uid for source in about.sources}
    for earlier in about.earlier:
        if earlier.get("SOPClassUID") != ComprehensiveSRStorage or earlier.SOPInstanceUID == own:
            continue
        evidence = {
            instance.ReferencedSOPInstanceUID
            for study in earlier.get("CurrentRequestedProcedureEvidenceSequence", ())
            for series in study.ReferencedSeriesSequence
            for instance in series.ReferencedSOPSequence
        }
        if evidence & images:
            yield SourceReference(
                study_instance_uid=str(earlier.StudyInstanceUID),
                series_instance_uid=str(earlier.SeriesInstanceUID),
                sop_class_uid=str(earlier.SOPClassUID),
                sop_instance_uid=str(earlier.SOPInstanceUID),
            )


PLUGIN = StructuredReport()
