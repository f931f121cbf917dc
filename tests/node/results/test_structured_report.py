"""The structured report: what it says of images that were explained, only decided, or not analysed at all."""

from dataclasses import replace

import numpy as np
import pytest
from contexts import (
    assessed_of,
    built,
    context_of,
    errors_of,
    every,
    film,
    items,
    refused_study,
    said,
    source_of,
    study_context,
)
from pydicom.sr.coding import Code
from pydicom.uid import EncapsulatedPDFStorage
from radiographs import header as cr_header
from radiographs import phantom, reread
from toy_explainer import TOY_METHODS, TOY_MODEL, ToyExplainer

from dicom_node.errors import Reason
from dicom_node.results import Refusal, ResultOptions, codes
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.notes import NO_EVIDENCE
from dicom_node.results.objects.structured_report import PLUGIN as REPORT
from dicom_node.results.summary import ALGORITHM_VERSION, read_summaries
from explain_core import display
from explain_core.explanation import Morph, OutOfDistribution, SecondOpinion

TRACKING, TRACKING_UID = Code("112039", "DCM", "Tracking Identifier"), "112040"


def report(study):
    (ds,) = REPORT.build(study)
    return ds


@pytest.mark.parametrize(
    ("control", "second", "of_adversarial", "changed", "said_of"),
    [
        (0.9, 0.8, 0.1, {"control": "NO", "second": "YES"}, []),
        (0.2, 0.8, 0.7, {"control": "YES", "second": "NO"}, ["The control image", "A second classifier does not"]),
        (0.9, 0.3, 0.1, {"control": "NO", "second": None}, ["A second classifier decides otherwise: 30.0%"]),
    ],
    ids=["sound", "doubtful", "the second decides otherwise from the start"],
)
def test_control_and_second_opinion_stand_beside_the_counterfactual(control, second, of_adversarial, changed, said_of):
    context = context_of(film())
    explanation = context.explanation
    assert explanation.prediction.positive
    explanation = replace(
        explanation,
        similar=replace(explanation.similar, second=0.75),
        adversarial=replace(explanation.adversarial, second=of_adversarial),
        control=replace(explanation.similar, role="control", probability=control, second=0.6),
        second=SecondOpinion(name="resnet20", probability=second, threshold=0.5),
    )
    image = replace(context.image, explanations=(explanation,))
    ds = reread(report(study_context(replace(context, explanation=explanation, image=image))))
    for code, value in (
        (codes.CONTROL_PROBABILITY, control), (codes.SECOND_PROBABILITY, second), (codes.SECOND_THRESHOLD, 0.5),
        (codes.SECOND_SIMILAR, 0.75), (codes.SECOND_ADVERSARIAL, of_adversarial), (codes.SECOND_CONTROL, 0.6),
    ):  # fmt: skip
        assert said(ds, code) == [round(100 * value, 2)], code
    for code, name in ((codes.CONTROL_CHANGED, "control"), (codes.SECOND_CHANGED, "second")):
        wanted = changed[name]
        assert said(ds, code) == ([getattr(codes, wanted).value] if wanted else []), code
    doubts = [text for text in said(ds, codes.COMMENT) if text.startswith(("The control", "A second"))]
    assert [any(text.startswith(start) for text in doubts) for start in said_of] == [True] * len(said_of)
    assert len(doubts) == len(said_of)


def test_attributes_of_the_model_are_named_with_what_they_do():
    context = context_of(film())
    morph = Morph(
        name="opacity 1", parts=(0.0, 1.0), images=np.zeros((2, 8, 8), np.float32), probabilities=(0.87, 0.31)
    )
    explanation = replace(context.explanation, morphs=(morph,))
    image = replace(context.image, explanations=(explanation,))
    ds = reread(report(study_context(replace(context, explanation=explanation, image=image))))
    told = [text for text in said(ds, codes.COMMENT) if "attribute" in text]
    assert told == ["Along the model's attribute 'opacity 1' the probability goes from 87.0% to 31.0%."]


def test_report_of_a_positive_image():
    context = context_of(film())
    ds = reread(built(REPORT, context))
    explanation = context.explanation
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.Modality) == ("COMPLETE", "UNVERIFIED", "SR")
    assert said(ds, codes.OUTCOME) == ["111242"]
    assert said(ds, codes.DECISION) == [codes.PRESENT.value]
    assert said(ds, codes.DECISION_CHANGED) == [codes.YES.value]
    assert said(ds, codes.PROBABILITY) == [round(100 * explanation.prediction.probability, 2)]
    assert said(ds, codes.THRESHOLD) == [50]
    assert said(ds, codes.ADVERSARIAL_PROBABILITY) == [round(100 * explanation.adversarial.probability, 2)]
    assert said(ds, codes.SIMILAR_PROBABILITY) == [round(100 * explanation.similar.probability, 2)]
    assert said(ds, codes.METHOD) == ["similar_adversarial"]
    assert said(ds, codes.METHOD_CITATION) == [explanation.provenance.reference]
    assert "fraction of full luminance" in said(ds, codes.HEATMAP_SCALE)[0]
    assert DISCLAIMER in said(ds, codes.COMMENT)[-1]
    parameters = [item.TextValue for item in items(ds) if item.get("TextValue", "").startswith("bundle SHA-256=")]
    assert set(parameters) == {f"bundle SHA-256={TOY_MODEL.digest}"}
    assert set(said(ds, ALGORITHM_VERSION)) == {f"{TOY_MODEL.version}+{TOY_MODEL.digest}"}
    assert said(ds, codes.SIMILAR_KEPT) == [codes.YES.value]
    assert said(ds, codes.DELETION) == [round(explanation.deletion, 3)]


def of_methods(ds, **changes):
    """The contexts of one image by both methods of the toy."""
    toy, options = ToyExplainer(), ResultOptions(methods=TOY_METHODS, method_order=TOY_METHODS)
    first = context_of(ds, explainer=toy, options=options, **changes)
    explanations = toy.explain(first.radiograph, TOY_METHODS)
    return [replace(first, explanation=one) for one in explanations]


def test_two_methods_have_an_entry_each_and_the_decision_once(tmp_path):
    images = of_methods(film())
    ds = reread(report(study_context(*images)))
    assert errors_of(ds, tmp_path) == []
    assert len(said(ds, codes.PROBABILITY)) == len(said(ds, codes.DECISION)) == len(said(ds, codes.NEAR_THRESHOLD)) == 1
    assert len(read_summaries(ds)) == 1
    assert said(ds, codes.METHOD) == list(TOY_METHODS)
    assert [one.split(":")[0] for one in said(ds, codes.METHOD_CITATION)] == list(TOY_METHODS)
    assert [one.split(":")[0] for one in said(ds, codes.HEATMAP_SCALE)] == list(TOY_METHODS)
    highest = [float(image.explanation.attribution.values.max()) for image in images]
    assert said(ds, codes.HEATMAP_MAXIMUM)[0] == pytest.approx(highest[0], abs=1e-5)
    assert any(value == pytest.approx(highest[1], abs=1e-5) for value in said(ds, codes.HEATMAP_MAXIMUM))
    assert len(said(ds, codes.ADVERSARIAL_PROBABILITY)) == 1, "the second method makes no images"
    uids = [item.UID for item in items(ds) if item.ConceptNameCodeSequence[0].CodeValue == TRACKING_UID]
    names = [name for name in said(ds, TRACKING) if name.startswith(TOY_METHODS)]
    assert names[0] == f"{TOY_METHODS[0]}: Lung opacity: called present"
    assert f"{TOY_METHODS[1]}: heatmap" in names
    assert len(names) == len(set(names)) == len(set(uids)) == len(uids)


def test_two_methods_of_two_images_are_numbered_by_image():
    other = of_methods(film(SOPInstanceUID=SECOND), number=2)
    names = said(report(study_context(*of_methods(film()), *other)), TRACKING)
    whole = [name for name in names if name.endswith(("called present", "heatmap"))]
    assert [name.split(" (")[0].split(":")[0] for name in whole] == ["Image 1"] * 2 + ["Image 2"] * 2


def test_an_empty_map_is_said_of_its_method():
    first, second = of_methods(film())
    values = np.zeros_like(second.explanation.attribution.values)
    empty = replace(second.explanation, attribution=replace(second.explanation.attribution, values=values))
    comments = said(report(study_context(first, replace(second, explanation=empty))), codes.COMMENT)
    assert [one for one in comments if one.startswith(f"{TOY_METHODS[1]}: {NO_EVIDENCE}: ")]
    assert not [one for one in comments if one.startswith(f"{TOY_METHODS[0]}: {NO_EVIDENCE}")]


def test_report_of_a_negative_image():
    ds = built(REPORT, context_of(film(), explainer=ToyExplainer(threshold=0.9)))
    assert said(ds, codes.OUTCOME) == ["111241"]
    assert said(ds, codes.DECISION) == [codes.ABSENT.value]
    assert said(ds, codes.DECISION_CHANGED) == [codes.NO.value]


def test_report_without_generators_claims_nothing_about_them():
    context = context_of(film())
    ds = built(REPORT, replace(context, explanation=replace(context.explanation, similar=None, adversarial=None)))
    for code in (codes.DECISION_CHANGED, codes.SIMILAR_PROBABILITY, codes.ADVERSARIAL_PROBABILITY):
        assert said(ds, code) == []


def groups(ds):
    (measurements,) = [item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return measurements.ContentSequence


def scoord(group):
    (found,) = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    return found


@pytest.mark.parametrize("smooth", [False, True])
def test_every_measurement_group_has_coordinates_on_the_source(smooth):
    image = np.linspace(0.1, 0.6, 240)[:, np.newaxis].repeat(200, axis=1) if smooth else phantom()
    source = film(np.rint(image * 4095))
    context = context_of(source)
    whole, *regions = groups(reread(built(REPORT, context)))
    assert list(scoord(whole).GraphicData) == [0, 0, 200, 0, 200, 240, 0, 240, 0, 0]
    expected = display.outlines(context.explanation.attribution.half_of_evidence, most=5)
    assert len(regions) == len(expected) == (0 if smooth else len(expected))
    assert bool(regions) is not smooth
    for group in (whole, *regions):
        coordinates = scoord(group)
        assert coordinates.GraphicType == "POLYLINE"
        image_item = coordinates.ContentSequence[0].ReferencedSOPSequence[0]
        assert image_item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    for group, outline in zip(regions, expected, strict=True):
        assert np.allclose(np.reshape(scoord(group).GraphicData, (-1, 2)), outline, atol=1e-3)


def sites(ds):
    """Zone and side of every item that says where evidence lies."""
    return [
        (item.ConceptCodeSequence[0].CodeMeaning, *(side.ConceptCodeSequence[0].CodeMeaning for side in _sides(item)))
        for item in items(ds)
        if item.ValueType == "CODE" and item.ConceptNameCodeSequence[0].CodeValue == codes.EVIDENCE_SITE.value
    ]


def _sides(item):
    return [one for one in item.get("ContentSequence", ()) if one.RelationshipType == "HAS CONCEPT MOD"]


@pytest.mark.parametrize(
    ("orientation", "expected", "sentence"),
    [
        (["L", "F"], ("Middle zone of lung", "Left"), "Evidence lies in: left middle zone."),
        (["R", "F"], ("Middle zone of lung", "Right"), "Evidence lies in: right middle zone."),
        (None, ("Middle zone of lung",), "Evidence lies in: middle zone at image right."),
    ],
)
def test_where_the_evidence_lies_is_said_in_codes_and_words(orientation, expected, sentence, tmp_path):
    ds = reread(built(REPORT, context_of(film(PatientOrientation=orientation))))
    assert set(sites(ds)) == {expected}
    assert len(sites(ds)) == len(groups(ds)[1:]) + 1, "of each region, and of the image"
    assert sentence in said(ds, codes.COMMENT)
    assert errors_of(ds, tmp_path) == []
    for item in items(ds):
        if item.ValueType == "CODE" and item.ConceptNameCodeSequence[0].CodeValue == codes.EVIDENCE_SITE.value:
            value = item.ConceptCodeSequence[0]
            assert (value.CodeValue, value.CodingSchemeDesignator) == ("281393007", "SCT")


def test_nothing_that_a_viewer_writes_beside_it_belongs_to_a_region():
    """OHIF writes the figures and finding sites of a group at the right of its line, over whatever is there."""
    whole, *regions = groups(built(REPORT, context_of(film())))
    assert regions
    assert [item for item in whole.ContentSequence if item.ValueType == "NUM"]
    for group in regions:
        names = {item.ConceptNameCodeSequence[0].CodeValue for item in group.ContentSequence}
        assert not [item for item in group.ContentSequence if item.ValueType == "NUM"]
        assert "363698007" not in names, "Finding Site"


def test_report_without_evidence_says_so():
    smooth = np.linspace(0.1, 0.6, 240)[:, np.newaxis].repeat(200, axis=1)
    ds = built(REPORT, context_of(film(np.rint(smooth * 4095))))
    assert sites(ds) == []
    assert "No evidence above the scale's floor." in said(ds, codes.COMMENT)


def test_report_lists_its_evidence():
    source = film()
    ds = built(REPORT, context_of(source))
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    found = (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
    assert found == (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)


@pytest.mark.parametrize("label", ["Lung opacity", "Pneumothorax", "A finding with a rather long name", "Erguß"])
def test_finding_of_any_label(label, tmp_path):
    context = context_of(film())
    prediction = replace(context.explanation.prediction, label=label)
    ds = built(REPORT, replace(context, explanation=replace(context.explanation, prediction=prediction)))
    assert errors_of(ds, tmp_path) == []
    finding = groups(ds)[0].ContentSequence[2].ConceptCodeSequence[0]
    coded = (finding.get("CodeValue"), finding.CodingSchemeDesignator)
    assert (coded == ("112001", "DCM")) == (label == "Lung opacity")


def test_report_on_what_was_not_analysed():
    ds = reread(report(refused_study(film(), reason="view position LL is not a frontal view (PA or AP)")))
    assert said(ds, codes.OUTCOME) == ["111245"]
    assert "Not analysed because view position LL is not a frontal view (PA or AP)." in said(ds, codes.COMMENT)
    assert not [item for item in items(ds) if item.ValueType in {"NUM", "SCOORD"}]
    assert ds.PatientName == "Canary^Bird"
    images = [item for item in items(ds) if item.ValueType == "IMAGE"]
    assert {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images} == {"1.2.3.4.1"}
    assert said(ds, codes.NOT_ANALYSED) == ["view"]


def test_report_on_a_document_refers_to_it_as_a_composite():
    ds = report(refused_study(cr_header(SOPClassUID=EncapsulatedPDFStorage)))
    assert [item.ValueType for item in items(ds) if "ReferencedSOPSequence" in item] == ["COMPOSITE"] * 3


def test_another_reason_is_another_report():
    assert (
        report(refused_study(film())).SOPInstanceUID
        != report(refused_study(film(), reason="it is blank")).SOPInstanceUID
    )


def references(item):
    return {
        found.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for found in item.get("ContentSequence", ())
        if found.RelationshipType == "INFERRED FROM"
    }


def named(ds, code):
    return [item for item in items(ds) if item.ConceptNameCodeSequence[0].get("CodeValue") == code.value]


FIRST, SECOND, THIRD = "1.2.3.4.1", "1.2.3.4.91", "1.2.3.4.92"


def test_one_report_on_all_images_of_a_study(tmp_path):
    weak = film(np.rint(phantom() * 4095 * 0.5), SOPInstanceUID=SECOND)
    lateral = Refusal(sources=(source_of(film(SOPInstanceUID=THIRD)),), reason="it is lateral", code=Reason.VIEW)
    study = study_context(context_of(film()), context_of(weak), refused=[lateral])
    ds = reread(report(study))
    assert errors_of(ds, tmp_path) == []
    assert said(ds, codes.OUTCOME) == ["111244"]
    assert [references(item) for item in named(ds, codes.OUTCOME)] == [{FIRST, SECOND, THIRD}]
    assert [references(item) for item in named(ds, codes.DECISION)] == [{FIRST}, {SECOND}]
    assert said(ds, codes.DECISION) == [codes.PRESENT.value, codes.ABSENT.value]
    (refused,) = named(ds, codes.NOT_ANALYSED)
    assert (refused.ConceptCodeSequence[0].CodeValue, references(refused)) == ("view", {THIRD})
    whole = [one for one in groups(ds) if "called" in one.ContentSequence[0].TextValue]
    assert [one.ContentSequence[0].TextValue.partition(": ")[0] for one in whole] == ["Image 1 (PA)", "Image 2 (PA)"]
    measured = [scoord(one).ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in whole]
    assert measured == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("positive", "refused", "code"),
    [(True, False, "111242"), (False, False, "111241"), (True, True, "111244"), (False, True, "111243")],
)
def test_outcome_of_the_algorithms(positive, refused, code):
    refusals = [Refusal(sources=(source_of(film()),), reason="x", code=Reason.SIZE)] if refused else []
    explainer = ToyExplainer(threshold=0.5 if positive else 0.9)
    ds = report(study_context(context_of(film(), explainer=explainer), refused=refusals))
    assert said(ds, codes.OUTCOME) == [code]


def test_a_decision_without_explanation_is_reported_with_the_reason(tmp_path):
    explainer = ToyExplainer(threshold=0.9)
    assessed = assessed_of(film(SOPInstanceUID=SECOND), explainer)
    study = replace(refused_study(film(), sources=(assessed.source,)), assessed=(assessed,), refused=())
    ds = reread(report(study))
    assert errors_of(ds, tmp_path) == []
    (whole,) = groups(ds)
    assert list(scoord(whole).GraphicData) == [0, 0, 200, 0, 200, 240, 0, 240, 0, 0]
    assert said(ds, codes.PROBABILITY) == [round(100 * assessed.assessment.prediction.probability, 2)]
    assert said(ds, codes.OUTCOME) == ["111241"]
    assert any(text.startswith("Not explained because negative decisions") for text in said(ds, codes.COMMENT))


def test_decision_near_the_threshold_says_so():
    near = context_of(film())
    prediction = near.explanation.prediction
    for margin, answer in ((1.0, codes.YES), (1e-6, codes.NO)):
        changed = replace(near.explanation, prediction=replace(prediction, margin=margin))
        ds = built(REPORT, replace(near, explanation=changed))
        assert said(ds, codes.NEAR_THRESHOLD) == [answer.value]
        assert any("Near the threshold" in text for text in said(ds, codes.COMMENT)) == (answer is codes.YES)


def test_report_says_what_a_region_is_not_or_that_there_is_none():
    empty = film(np.rint(np.linspace(0.1, 0.6, 240)[:, np.newaxis].repeat(200, axis=1) * 4095))
    for ds, marked in ((film(), True), (empty, False)):
        comments = " ".join(said(built(REPORT, context_of(ds)), codes.COMMENT))
        assert ("not the outline of a finding" in comments) is marked
        assert ("No evidence above the scale's floor." in comments) is not marked


def test_image_far_from_the_training_data_says_so_with_its_score():
    context = context_of(film())
    for score, answer in ((9.5, codes.YES), (2.0, codes.NO)):
        distance = OutOfDistribution(score=score, limit=5.0, measure="Mahalanobis distance", reference="arXiv")
        changed = replace(context.explanation, out_of_distribution=distance)
        ds = built(REPORT, replace(context, explanation=changed))
        assert said(ds, codes.FAR) == [answer.value]
        assert (said(ds, codes.DISTANCE), said(ds, codes.DISTANCE_LIMIT)) == ([score], [5.0])
        assert any("Far from the training data" in text for text in said(ds, codes.COMMENT)) == (answer is codes.YES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PatientID": None}, "no Patient ID"),
        ({"PatientID": ""}, "no Patient ID"),
        ({"StudyDate": None}, "no Study Date"),
        ({"PixelSpacing": None}, "no usable pixel spacing"),
        ({"PixelSpacing": ["0.000", "0.000"]}, "no usable pixel spacing"),
        ({"PatientOrientation": None}, "does not state Patient Orientation"),
    ],
)
def test_what_the_source_does_not_say_is_said(changes, words, tmp_path):
    results = every(film(**changes), kinds=["structured_report", "secondary_capture"])
    assert [kind for kind, _ in results] == ["secondary_capture", "structured_report"], "it is explained all the same"
    ds = results[1][1]
    assert errors_of(ds, tmp_path) == []
    assert [text for text in said(ds, codes.COMMENT) if words in text]
    whole = every(film(), kinds=["structured_report"])[0][1]
    assert not [text for text in said(whole, codes.COMMENT) if words in text]


def test_object_that_could_not_be_made_is_named():
    study = study_context(context_of(film()), omitted=(("parametric_map", "the source has no plane geometry"),))
    assert "No parametric map was made because the source has no plane geometry." in said(report(study), codes.COMMENT)


def test_every_reason_has_a_code():
    assert set(codes.REASONS) == set(Reason)
    assert {code.value for code in codes.REASONS.values()} == {reason.value for reason in Reason}
    assert max(len(code.value) for code in codes.REASONS.values()) <= 16
    assert max(len(code.meaning) for code in codes.REASONS.values()) <= 64


def test_summaries_are_read_back():
    weak = film(np.rint(phantom() * 4095 * 0.5), SOPInstanceUID=SECOND)
    study = study_context(context_of(film()), context_of(weak))
    first, second = read_summaries(reread(report(study)))
    assert (first.decision, second.decision) == ("Present", "Absent")
    expected = [image.explanation.prediction.probability for image in study.images]
    assert [first.probability, second.probability] == pytest.approx(expected, abs=1e-4)
    assert first.model == f"toy {TOY_MODEL.version} ({TOY_MODEL.digest[:8]})"
    assert read_summaries(report(refused_study(film()))) == []
