"""The machine-readable answer: a Comprehensive SR after TID 1500, also for what was not analysed.

    Imaging Measurement Report
      language, device observer (model and its Device UID), procedure
      Imaging Measurements
        Measurement Group, TID 1410: the whole image as a rectangle; probability, threshold, counterfactuals
        Measurement Group, TID 1410: one per salient region, as a closed polyline
      Qualitative Evaluations: outcome of the algorithms, decision, method, citation, disclaimer

Each group has coordinates, because a viewer (OHIF 3.13) shows nothing at all when one has none. A report on
what was not analysed has no groups. There is no Image Library: it asks for attributes that CR often lacks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import highdicom.sr as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, ComprehensiveSRStorage

from dicom_node.results import _codes as codes
from dicom_node.results._context import NotAnalysed, ResultContext, SourceReference, device_uid, uid
from dicom_node.results._header import DISCLAIMER, plain, reference, start
from explain_core import display
from explain_core.explanation import Explanation

MOST_REGIONS = 5

_CONTAINS = hd.RelationshipTypeValues.CONTAINS
_INFERRED = hd.RelationshipTypeValues.INFERRED_FROM


@dataclass(frozen=True, slots=True)
class StructuredReport:
    """Builds the TID 1500 report."""

    name: str = "structured_report"
    sop_class_uids: tuple[str, ...] = (ComprehensiveSRStorage,)
    series: int = 3

    def build(self, context: ResultContext) -> Dataset:
        """The report on an explained image."""
        report = hd.MeasurementReport(
            observation_context=_observer(context),
            procedure_reported=codes.CHEST_RADIOGRAPHY,
            imaging_measurements=list(_groups(context)),
        )
        root = report[0]
        root.ContentSequence.append(_evaluations(_findings(context)))
        return self._document(context, root)

    def report(self, refusal: NotAnalysed) -> Dataset:
        """The report that says why images were not analysed."""
        root = hd.ContainerContentItem(name=codes.MEASUREMENT_REPORT, template_id="1500")
        root.ContentSequence = hd.ContentSequence()
        root.ContentSequence.extend(hd.LanguageOfContentItemAndDescendants(hd.CodedConcept.from_code(codes.ENGLISH)))
        root.ContentSequence.extend(_observer(refusal))
        root.ContentSequence.append(
            hd.CodeContentItem(
                name=codes.PROCEDURE_REPORTED,
                value=codes.IMAGING_PROCEDURE,
                relationship_type=hd.RelationshipTypeValues.HAS_CONCEPT_MOD,
            )
        )
        root.ContentSequence.append(_evaluations(_refusal(refusal)))
        return self._document(refusal, root)

    def _document(self, answer: ResultContext | NotAnalysed, root: Dataset) -> Dataset:
        """The SR document around the content tree (PS3.3 A.35.3)."""
        ds = start(answer, self.name, ComprehensiveSRStorage)
        ds.Modality = "SR"
        ds.SeriesNumber = answer.options.series_number_base + self.series
        ds.ReferencedPerformedProcedureStepSequence = []
        ds.CompletionFlag = "COMPLETE"
        ds.VerificationFlag = "UNVERIFIED"
        ds.PreliminaryFlag = "PRELIMINARY"
        ds.PerformedProcedureCodeSequence = []
        ds.CurrentRequestedProcedureEvidenceSequence = _by_study(answer.sources)
        predecessors = tuple(_predecessors(answer, ds.SOPInstanceUID))
        if predecessors:
            ds.PredecessorDocumentsSequence = _by_study(predecessors)
        if isinstance(answer, ResultContext):
            ds.CodingSchemeIdentificationSequence = [codes.scheme()]
        for element in root:
            if element.keyword != "RelationshipType":
                ds.add(element)
        return ds


def _observer(answer: ResultContext | NotAnalysed) -> hd.ObservationContext:
    """This software with its model as device observer (TID 1001, 1002, 1004)."""
    options, model = answer.options, answer.model
    device = hd.DeviceObserverIdentifyingAttributes(
        uid=device_uid(model) if model is not None else uid("device", options.station_ae_title),
        name=plain(options.station_ae_title),
        manufacturer_name=plain(options.manufacturer),
        model_name=plain(f"{model.name} {model.version}") if model is not None else "no model",
    )
    return hd.ObservationContext(
        observer_device_context=hd.ObserverContext(
            observer_type=hd.CodedConcept.from_code(codes.DEVICE), observer_identifying_attributes=device
        )
    )


def _groups(context: ResultContext) -> Iterator[hd.PlanarROIMeasurementsAndQualitativeEvaluations]:
    """The measurement groups: the whole image, then the largest salient regions."""
    explanation = context.explanation
    prediction, values = explanation.prediction, explanation.attribution.values
    finding = codes.finding(plain(prediction.label))
    rows, columns = values.shape
    frame = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows], [0, 0]], dtype=np.float64)
    called = "called present" if prediction.positive else "not called"
    whole = f"{plain(prediction.label, 40)}: {called}"
    yield _group(context, whole, frame, finding, list(_measurements(explanation)))
    mask = display.salient(explanation.attribution)
    for number, outline in enumerate(display.outlines(mask, most=MOST_REGIONS), start=1):
        part = display.inside(outline, values.shape) & mask
        maximum = _number(codes.HEATMAP_MAXIMUM, float(values[part].max(initial=0)), codes.UNITY, 6)
        area = _number(codes.SALIENT_AREA, 100 * float(part.mean()), codes.PERCENT, 2)
        name = f"Salient region {number}"
        yield _group(context, name, outline, (codes.VISUAL_EXPLANATION, codes.CHEST), [maximum, area])


def _group(
    context: ResultContext,
    name: str,
    outline: display.Outline,
    finding: tuple[Code, Code],
    measurements: list[hd.Measurement],
) -> hd.PlanarROIMeasurementsAndQualitativeEvaluations:
    source, provenance = context.sources[0], context.explanation.provenance
    return hd.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            uid=uid("tracking", context.sop_instance_uid("tracking"), name), identifier=name
        ),
        referenced_region=hd.ImageRegion(
            graphic_type=hd.GraphicTypeValues.POLYLINE,
            graphic_data=outline,
            source_image=hd.SourceImageForRegion(
                referenced_sop_class_uid=source.sop_class_uid,
                referenced_sop_instance_uid=source.sop_instance_uid,
            ),
        ),
        finding_type=finding[0],
        method=Code(codes.slug(provenance.method), codes.SCHEME, plain(provenance.method)),
        finding_sites=[hd.FindingSite(finding[1])],
        algorithm_id=_algorithm(context),
        measurements=measurements,
    )


def _algorithm(context: ResultContext) -> hd.AlgorithmIdentification:
    """Name, version and parameters, the bundle's digest among them (TID 4019)."""
    provenance = context.explanation.provenance
    parameters = {
        "bundle SHA-256": provenance.model.digest,
        "method": provenance.method,
        **dict(sorted(provenance.parameters.items())),
        "software": provenance.software_version,
    }
    return hd.AlgorithmIdentification(
        name=plain(provenance.model.name),
        version=plain(provenance.model.version),
        parameters=[plain(f"{name}={value}", 256) for name, value in parameters.items()],
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=plain(context.options.manufacturer),
    )


def _measurements(explanation: Explanation) -> Iterator[hd.Measurement]:
    """What is known of the whole image, as numbers."""
    prediction, attribution = explanation.prediction, explanation.attribution
    similar, adversarial = explanation.similar, explanation.adversarial
    for name, value in (
        (codes.PROBABILITY, prediction.probability),
        (codes.THRESHOLD, prediction.threshold),
        (codes.SIMILAR_PROBABILITY, None if similar is None else similar.probability),
        (codes.ADVERSARIAL_PROBABILITY, None if adversarial is None else adversarial.probability),
        (codes.SALIENT_AREA, float(display.salient(attribution).mean())),
        (codes.COVERAGE, float(attribution.covered.mean())),
    ):
        if value is not None:
            yield _number(name, 100 * value, codes.PERCENT, 2)
    yield _number(codes.HEATMAP_MAXIMUM, float(attribution.values.max()), codes.UNITY, 6)


def _number(name: Code, value: float, unit: Code, digits: int) -> hd.Measurement:
    return hd.Measurement(name=name, value=round(value, digits), unit=unit)


def _findings(context: ResultContext) -> Iterator[hd.ContentItem]:
    """What the whole analysis comes to, as codes and sentences."""
    explanation = context.explanation
    positive, scale = explanation.prediction.positive, explanation.attribution.scale
    outcome = _code(codes.OUTCOME, codes.WITH_FINDINGS if positive else codes.WITHOUT_FINDINGS)
    outcome.ContentSequence = hd.ContentSequence([_inferred_from(context.sources[0])])
    yield outcome
    yield _code(codes.DECISION, codes.PRESENT if positive else codes.ABSENT)
    if explanation.decision_changed is not None:
        yield _code(codes.DECISION_CHANGED, codes.YES if explanation.decision_changed else codes.NO)
    yield _text(codes.METHOD, explanation.provenance.method)
    yield _text(codes.METHOD_CITATION, explanation.provenance.reference)
    limits = f"salient from {scale.salient:.6g}, full scale {scale.full_scale:.6g}"
    yield _text(codes.HEATMAP_SCALE, f"{scale.unit}; {limits}")
    yield _text(codes.COMMENT, f"{DISCLAIMER}.")


def _refusal(refusal: NotAnalysed) -> Iterator[hd.ContentItem]:
    """Why there is no analysis."""
    outcome = _code(codes.OUTCOME, codes.NONE_SUCCEEDED)
    outcome.ContentSequence = hd.ContentSequence([_inferred_from(source) for source in refusal.sources])
    yield outcome
    yield _text(codes.COMMENT, f"Not analysed because {refusal.reason}.")
    yield _text(codes.COMMENT, f"This says nothing about the image: it is no finding. {DISCLAIMER}.")


def _evaluations(items: Iterator[hd.ContentItem]) -> hd.ContainerContentItem:
    """TID 1500, row 12."""
    container = hd.ContainerContentItem(name=codes.QUALITATIVE_EVALUATIONS, relationship_type=_CONTAINS)
    container.ContentSequence = hd.ContentSequence(list(items))
    return container


def _code(name: Code, value: Code) -> hd.CodeContentItem:
    return hd.CodeContentItem(name=name, value=value, relationship_type=_CONTAINS)


def _text(name: Code, value: str) -> hd.TextContentItem:
    return hd.TextContentItem(name=name, value=plain(value, 1024), relationship_type=_CONTAINS)


def _inferred_from(source: SourceReference) -> hd.ContentItem:
    """The source as an image, or as any other composite object."""
    kind = hd.ImageContentItem if "Image" in UID(source.sop_class_uid).name else hd.CompositeContentItem
    return kind(
        name=codes.SOURCE_OF_MEASUREMENT,
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        relationship_type=_INFERRED,
    )


def _by_study(references: tuple[SourceReference, ...]) -> list[Dataset]:
    """References grouped by study and series (Hierarchical SOP Instance Reference Macro)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for one in references:
        series = studies.setdefault(one.study_instance_uid, {})
        series.setdefault(one.series_instance_uid, []).append(reference(one))
    items = []
    for study_uid, by_series in studies.items():
        item = Dataset()
        item.StudyInstanceUID = study_uid
        item.ReferencedSeriesSequence = []
        for series_uid, instances in by_series.items():
            series_item = Dataset()
            series_item.SeriesInstanceUID = series_uid
            series_item.ReferencedSOPSequence = instances
            item.ReferencedSeriesSequence.append(series_item)
        items.append(item)
    return items


def _predecessors(answer: ResultContext | NotAnalysed, own: str) -> Iterator[SourceReference]:
    """Earlier reports of this node on the same image."""
    about = {source.sop_instance_uid for source in answer.sources}
    for earlier in answer.earlier:
        if earlier.get("SOPClassUID") != ComprehensiveSRStorage or earlier.SOPInstanceUID == own:
            continue
        evidence = {
            instance.ReferencedSOPInstanceUID
            for study in earlier.get("CurrentRequestedProcedureEvidenceSequence", ())
            for series in study.ReferencedSeriesSequence
            for instance in series.ReferencedSOPSequence
        }
        if evidence & about:
            yield SourceReference(
                study_instance_uid=str(earlier.StudyInstanceUID),
                series_instance_uid=str(earlier.SeriesInstanceUID),
                sop_class_uid=str(earlier.SOPClassUID),
                sop_instance_uid=str(earlier.SOPInstanceUID),
            )


PLUGIN = StructuredReport()
