"""Measurement groups of the report (TID 1410): what is known of an image and of its regions, with coordinates.

Of each image one group has the decision and the figures of the first method; each further method has its own group.

Each group has coordinates, because a viewer (OHIF 3.13) shows nothing at all when one has none; what concerns the
whole image has the image's border. The same viewer writes the figures and the finding site of each group at its right,
whatever stands there: so figures belong to the image alone, and of a region it is said, as a code, in which zone of the
lungs it lies.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import highdicom.sr as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.dicom.elements import integer
from dicom_node.results import codes
from dicom_node.results.context import AssessedImage, ResultContext, SourceReference, StudyContext, uid
from dicom_node.results.header import plain
from dicom_node.results.notes import which
from dicom_node.results.regions import contours, places_of
from explain_core import display
from explain_core.explanation import Explanation, OutOfDistribution, Prediction, Provenance
from explain_core.zones import Place

MOST_REGIONS = 20

Group = hd.PlanarROIMeasurementsAndQualitativeEvaluations


def groups(study: StudyContext) -> Iterator[Group]:
    """Of every decided image the whole, then the largest parts of the region with half of the evidence."""
    many = len(study.explained) + len(study.assessed) > 1
    number = 0
    for images in study.explained:
        number += 1
        prefix = _prefix(number, images[0].header) if many else ""
        for image in images:
            named = f"{prefix}{plain(image.method)}: " if len(images) > 1 else prefix
            yield from _explained(study, image, named, decision=image is images[0])
    for assessed in study.assessed:
        number += 1
        yield _assessed(study, assessed, _prefix(number, assessed.header) if many else "")


def _prefix(number: int, header: Dataset) -> str:
    """Which image it is, in a study of several."""
    stated = which(header)
    return f"Image {number} ({stated}): " if stated else f"Image {number}: "


def _explained(study: StudyContext, image: ResultContext, prefix: str, *, decision: bool) -> Iterator[Group]:
    """What a method shows of an image, with the decision where it is told here."""
    explanation = image.explanation
    prediction, attribution = explanation.prediction, explanation.attribution
    rows, columns = attribution.values.shape
    make = _Maker(study, image.source, explanation.provenance, prefix)
    figures = list(_of_explanation(explanation))
    if decision:
        figures = [*_decision(prediction), *figures, *_distance(explanation.out_of_distribution)]
    name = _called(prediction) if decision else "heatmap"
    yield make.group(name, _border(rows, columns), codes.finding(plain(prediction.label)), figures)
    for number, outline in enumerate(contours(explanation, most=MOST_REGIONS, holes=False), start=1):
        found = places_of(image, display.inside(outline, (rows, columns)))
        sites = [_evaluation(evidence_site(one)) for one in found]
        yield make.region(f"Evidence {number}", outline, sites)


def _assessed(study: StudyContext, image: AssessedImage, prefix: str) -> Group:
    assessment = image.assessment
    make = _Maker(study, image.source, assessment.provenance, prefix)
    border = _border(integer(image.header, "Rows", 1), integer(image.header, "Columns", 1))
    return make.group(
        _called(assessment.prediction),
        border,
        codes.finding(plain(assessment.prediction.label)),
        [*_decision(assessment.prediction), *_distance(assessment.out_of_distribution)],
    )


class _Maker:
    """Makes the groups of one image."""

    def __init__(self, study: StudyContext, source: SourceReference, provenance: Provenance, prefix: str) -> None:
        self._tracking = study.sop_instance_uid("tracking")
        self._source = source
        self._prefix = prefix
        self._method = Code(codes.slug(provenance.method), codes.SCHEME, plain(provenance.method))
        self._algorithm = _algorithm(provenance, study.options.manufacturer)

    def group(
        self, name: str, outline: display.Outline, finding: tuple[Code, Code], measurements: list[hd.Measurement]
    ) -> Group:
        """What was measured of an image (TID 1410)."""
        kind, site = finding
        return self._made(name, outline, kind, finding_sites=[hd.FindingSite(site)], measurements=measurements)

    def region(self, name: str, outline: display.Outline, sites: list[hd.QualitativeEvaluation]) -> Group:
        """A region with the zones in which it lies, and without anything that a viewer would write beside it."""
        return self._made(name, outline, codes.VISUAL_EXPLANATION, qualitative_evaluations=sites)

    def _made(self, name: str, outline: display.Outline, kind: Code, **content: Any) -> Group:
        source, name = self._source, f"{self._prefix}{name}"
        return Group(
            tracking_identifier=hd.TrackingIdentifier(
                uid=uid("tracking", self._tracking, source.sop_instance_uid, name), identifier=name
            ),
            referenced_region=hd.ImageRegion(
                graphic_type=hd.GraphicTypeValues.POLYLINE,
                graphic_data=outline,
                source_image=hd.SourceImageForRegion(
                    referenced_sop_class_uid=source.sop_class_uid,
                    referenced_sop_instance_uid=source.sop_instance_uid,
                ),
            ),
            finding_type=kind,
            method=self._method,
            algorithm_id=self._algorithm,
            **content,
        )


def evidence_site(place: Place) -> hd.CodeContentItem:
    """A zone of the lungs in which evidence lies, with the patient's side where the source states sides."""
    item = hd.CodeContentItem(
        name=codes.EVIDENCE_SITE, value=codes.ZONES[place.zone], relationship_type=hd.RelationshipTypeValues.CONTAINS
    )
    if place.sided and place.side:
        side = hd.CodeContentItem(
            name=codes.LATERALITY,
            value=codes.SIDES[place.side],
            relationship_type=hd.RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
        item.ContentSequence = hd.ContentSequence([side])
    return item


def _evaluation(site: hd.CodeContentItem) -> hd.QualitativeEvaluation:
    evaluation = hd.QualitativeEvaluation(name=site.name, value=site.value)
    if "ContentSequence" in site:  # the side, which the constructor does not know
        evaluation[0].ContentSequence = site.ContentSequence
    return evaluation


def _called(prediction: Prediction) -> str:
    return f"{plain(prediction.label, 40)}: {'called present' if prediction.positive else 'not called'}"


def _border(rows: int, columns: int) -> display.Outline:
    return np.array([[0, 0], [columns, 0], [columns, rows], [0, rows], [0, 0]], dtype=np.float64)


def _algorithm(provenance: Provenance, manufacturer: str) -> hd.AlgorithmIdentification:
    """Name, version with the bundle's digest, and parameters (TID 4019)."""
    model = provenance.model
    parameters: Mapping[str, object] = {
        "bundle SHA-256": model.digest,
        "method": provenance.method,
        **dict(sorted(provenance.parameters.items())),
        "software": provenance.software_version,
    }
    return hd.AlgorithmIdentification(
        name=plain(model.name),
        version=plain(f"{model.version}+{model.digest}", 128),
        parameters=[plain(f"{name}={value}", 256) for name, value in parameters.items()],
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=plain(manufacturer),
    )


def _decision(prediction: Prediction) -> Iterator[hd.Measurement]:
    yield _number(codes.PROBABILITY, 100 * prediction.probability, codes.PERCENT, 2)
    yield _number(codes.THRESHOLD, 100 * prediction.threshold, codes.PERCENT, 2)
    if prediction.margin:
        yield _number(codes.MARGIN, 100 * prediction.margin, codes.PERCENT, 2)


def _distance(distance: OutOfDistribution | None) -> Iterator[hd.Measurement]:
    if distance is not None:
        yield _number(codes.DISTANCE, distance.score, codes.UNITY, 3)
        yield _number(codes.DISTANCE_LIMIT, distance.limit, codes.UNITY, 3)


def _of_explanation(explanation: Explanation) -> Iterator[hd.Measurement]:
    attribution, second = explanation.attribution, explanation.second
    for image, own, others in (
        (explanation.similar, codes.SIMILAR_PROBABILITY, codes.SECOND_SIMILAR),
        (explanation.adversarial, codes.ADVERSARIAL_PROBABILITY, codes.SECOND_ADVERSARIAL),
        (explanation.control, codes.CONTROL_PROBABILITY, codes.SECOND_CONTROL),
    ):
        if image is not None:
            yield _number(own, 100 * image.probability, codes.PERCENT, 2)
            if image.second is not None:
                yield _number(others, 100 * image.second, codes.PERCENT, 2)
    if second is not None:
        yield _number(codes.SECOND_PROBABILITY, 100 * second.probability, codes.PERCENT, 2)
        yield _number(codes.SECOND_THRESHOLD, 100 * second.threshold, codes.PERCENT, 2)
    for name, value in (
        (codes.OUTLINED_AREA, attribution.outlined_area),
        (codes.COVERAGE, float(attribution.covered.mean())),
    ):
        yield _number(name, 100 * value, codes.PERCENT, 2)
    yield _number(codes.HEATMAP_MAXIMUM, attribution.maximum, codes.UNITY, 6)
    if explanation.deletion is not None:
        yield _number(codes.DELETION, explanation.deletion, codes.UNITY, 3)


def _number(name: Code, value: float, unit: Code, digits: int) -> hd.Measurement:
    return hd.Measurement(name=name, value=round(value, digits), unit=unit)
