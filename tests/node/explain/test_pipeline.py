"""One study in, its answers out: every image leaves one, whatever it is like."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from radiographs import encode, instance_of, phantom, real, reread, study_of, synthetic, task_for
from radiographs import header as cr_header
from toy_explainer import TOY_MODEL, ToyExplainer

from dicom_node.dicom import elements, reading
from dicom_node.errors import DatasetUnreadable, Reason
from dicom_node.explain import building, pipeline
from dicom_node.nouns import PassedBy, SOPInstanceUID, StudyState
from dicom_node.results import ResultOptions
from dicom_node.results.objects.secondary_capture import SecondaryCapture
from dicom_node.route.patients import OTHER_PATIENT
from dicom_node.route.rules import decide_study
from dicom_node.settings.default_rules import DEFAULT_RULES
from dicom_node.settings.sections import Settings
from explain_core.errors import GeometryError

SR, SC, SEG = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"
OPTIONS = ResultOptions(long_edge=600, objects=("secondary_capture", "overlay", "structured_report"))


class Failing:
    """An explainer that raises."""

    identity = TOY_MODEL

    def __init__(self, error):
        self.error = error

    def classify(self, _):
        raise self.error

    def explain(self, _radiograph, _methods, _assessment=None):
        raise self.error


def film(number=1, **changes):
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    return synthetic(SOPInstanceUID=f"1.2.3.4.1.{number}", **window | changes)


def flat(number=1):
    """A film without any evidence."""
    smooth = np.rint(np.linspace(0.1, 0.6, 240)[:, np.newaxis].repeat(200, axis=1) * 4095)
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    return synthetic(smooth, SOPInstanceUID=f"1.2.3.4.1.{number}", **window)


@dataclass(frozen=True)
class Answered:
    """What the tests ask of an analysis and of what was built from it."""

    analysis: pipeline.Analysis
    results: tuple[building.Result, ...]

    @property
    def datasets(self):
        return [one.dataset for one in self.results if not one.standby]

    def of(self, kind):
        return [one.dataset for one in self.results if one.kind == kind]


def answer(analysis, options=OPTIONS, **more):
    return Answered(analysis, building.build(analysis, options, **more))


def explain(*datasets, explainer=None, options=OPTIONS, revision=1, selected=None, rules=(), **more):
    study, read = study_of(*datasets, revision=revision)
    decided = decide_study([(str(ds.SOPInstanceUID), ds, "MODALITY") for ds in datasets], rules) if rules else None
    task = task_for(study, selected=selected, passed_by=decided.ignored if decided else ())
    negatives = options.explain == "always"
    analysis = pipeline.analyse(
        task, study, read, explainer or ToyExplainer(), methods=options.methods, negatives=negatives
    )
    return answer(analysis, options, **more)


def texts(ds):
    found = []
    for item in ds.get("ContentSequence", ()):
        found += [item.TextValue] if "TextValue" in item else []
        found += texts(item)
    return found


def test_one_image():
    result = explain(film())
    assert result.analysis.state is StudyState.EXPLAINED
    assert result.analysis.reason is None
    assert [ds.SOPClassUID for ds in result.datasets] == [SC, SC, SR]
    assert len(result.analysis.explained) == 1
    assert result.analysis.explained[0].assessment.prediction.label == "Lung opacity"


def test_the_real_film_from_its_file(tmp_path):
    ds = reading.read(real("RG1_UNCR.dcm"))
    study, _ = study_of(ds)
    instance = replace(study.instances[0], path=real("RG1_UNCR.dcm"))
    study = replace(study, instances=(instance,))
    result = answer(
        pipeline.analyse(
            task_for(study), study, lambda one: reading.read(one.path), ToyExplainer(), methods=["similar_adversarial"]
        )
    )
    assert result.analysis.state is StudyState.EXPLAINED
    for number, one in enumerate(result.datasets):
        path = tmp_path / f"{number}.dcm"
        one.save_as(path, enforce_file_format=True)
        assert reading.read(path) == reread(one)


def test_only_the_objects_asked_for():
    options = replace(OPTIONS, objects=("structured_report",))
    assert [ds.SOPClassUID for ds in explain(film(), options=options).datasets] == [SR]
    with pytest.raises(LookupError, match="no 'hologram'; there is: key_object, morphs"):
        explain(film(), options=replace(OPTIONS, objects=("hologram",)))


def test_only_the_images_selected():
    first, second = film(1), film(2)
    result = explain(first, second, selected=[SOPInstanceUID("1.2.3.4.1.2")])
    assert len(result.analysis.explained) == 1
    assert {ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in result.datasets[:2]} == {"1.2.3.4.1.2"}
    assert result.analysis.refused == ()


def test_images_that_the_rules_pass_by_are_in_the_report_with_the_reason():
    pa, lateral, other = film(1), film(2, ViewPosition="LL"), film(3)
    rules = Settings(rules=DEFAULT_RULES).rules
    result = explain(pa, lateral, other, selected=[SOPInstanceUID("1.2.3.4.1.1")], rules=rules)
    (refused,) = result.analysis.refused
    assert (refused.reason, refused.code) == ("it is a lateral view: View Position is 'LL'", Reason.VIEW)
    assert [source.sop_instance_uid for source in refused.sources] == ["1.2.3.4.1.2"], "film 3 is another task's"
    (report,) = result.of("structured_report")
    assert "Not analysed because it is a lateral view: View Position is 'LL'." in texts(report)
    assert result.analysis.reason is None, "every image that was chosen was explained"


def test_our_own_results_are_passed_over_in_silence():
    made = explain(film(1)).of("secondary_capture")
    rules = Settings(rules=DEFAULT_RULES).rules
    result = explain(film(1), *made, selected=[SOPInstanceUID("1.2.3.4.1.1")], rules=rules)
    assert result.analysis.refused == ()


NEGATIVE = ToyExplainer(threshold=0.9)


@dataclass
class Counting:
    """The toy, which counts."""

    toy: ToyExplainer
    classified: int = 0
    explained: int = 0

    @property
    def identity(self):
        return self.toy.identity

    def classify(self, radiograph):
        self.classified += 1
        return self.toy.classify(radiograph)

    def explain(self, radiograph, methods, assessment=None):
        self.explained += 1
        self.classified += assessment is None
        return self.toy.explain(radiograph, methods, assessment)


@pytest.mark.parametrize("policy", ["always", "positives"])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_policy_of_explaining(policy, threshold):
    explainer = Counting(ToyExplainer(threshold=threshold))
    result = explain(film(), explainer=explainer, options=replace(OPTIONS, explain=policy))
    explained = policy == "always" or threshold == 0.5
    assert explainer.explained == explained, "generators run only when somebody wants them"
    assert explainer.classified == 1
    assert result.analysis.state is StudyState.EXPLAINED
    assert len(result.of("secondary_capture")) == explained
    assert len(result.of("structured_report")) == 1


def test_destinations_of_both_policies_share_an_analysis():
    analysis = explain(film(), explainer=NEGATIVE).analysis
    every, positives = (answer(analysis, replace(OPTIONS, explain=policy)) for policy in ("always", "positives"))
    assert len(every.of("secondary_capture")) == 1
    assert positives.datasets == positives.of("structured_report")
    assert any(text.startswith("Not explained because") for text in texts(positives.datasets[0]))


def test_report_is_never_left_out_when_there_is_no_picture():
    options = replace(OPTIONS, objects=("secondary_capture",), explain="positives")
    assert [ds.SOPClassUID for ds in explain(film(), explainer=NEGATIVE, options=options).datasets] == [SR]
    assert [ds.SOPClassUID for ds in explain(film(ViewPosition="LL"), options=options).datasets] == [SR]
    assert [ds.SOPClassUID for ds in explain(film(), options=options).datasets] == [SC]


@pytest.mark.parametrize("kind", ["segmentation", "parametric_map", "key_object"])
def test_report_goes_out_when_nothing_that_was_asked_for_can_be_made(kind):
    result = explain(flat(), options=replace(OPTIONS, objects=(kind,)))
    assert [ds.SOPClassUID for ds in result.datasets] == [SR]


def test_an_image_that_no_object_shows_is_in_a_report():
    """A film with evidence has a segmentation and one without has none: silence is never an answer."""
    positive, negative = film(1), flat(2)
    for objects in (("segmentation",), ("segmentation", "key_object")):
        result = explain(positive, negative, options=replace(OPTIONS, objects=objects))
        shown = {ds.SOPClassUID: set(elements.referenced(ds)) for ds in result.datasets}
        assert positive.SOPInstanceUID in shown[SEG]
        assert negative.SOPInstanceUID not in shown[SEG]
        assert negative.SOPInstanceUID in shown[SR]


def test_the_fault_of_one_image_is_no_others(monkeypatch):
    picture = SecondaryCapture.of

    def of(self, context):
        if context.source.sop_instance_uid.endswith(".2"):
            raise ValueError("Canary^Bird")
        return picture(self, context)

    monkeypatch.setattr(SecondaryCapture, "of", of)
    result = explain(film(1), film(2), options=replace(OPTIONS, objects=("secondary_capture",)))
    (made,) = result.of("secondary_capture")
    assert set(elements.referenced(made)) == {film(1).SOPInstanceUID}
    (report,) = result.of("structured_report")
    assert film(2).SOPInstanceUID in set(elements.referenced(report))
    assert "No secondary capture was made because building it failed (ValueError)." in texts(report)


def test_a_builder_that_fails_takes_nothing_else_with_it(monkeypatch, caplog):
    class Broken:
        name, series, fallback, sop_class_uids = "segmentation", 5, "overlay", ("1.2",)

        def refuses(self, _):
            return None

        def build(self, _):
            raise ValueError("Canary^Bird")

    monkeypatch.setattr("dicom_node.results.objects.segmentation.PLUGIN", Broken())
    options = replace(OPTIONS, objects=("secondary_capture", "segmentation", "structured_report"))
    result = explain(film(), options=options)
    assert [ds.SOPClassUID for ds in result.datasets] == [SC, SR]
    said = texts(result.datasets[-1])
    assert "No segmentation was made because building it failed (ValueError)." in said
    assert "Canary" not in caplog.text + str(said)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ViewPosition": "LL"}, Reason.VIEW),
        ({"BodyPartExamined": "HAND"}, Reason.BODY_PART),
        ({"Modality": "CT", "SOPClassUID": CTImageStorage}, Reason.MODALITY),
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.RAW),
        ({"BodyPartExamined": None}, Reason.RULES),
    ],
)
def test_the_reason_of_the_rules_has_the_code_of_what_is_the_matter(changes, code):
    rules = Settings(rules=DEFAULT_RULES).rules
    result = explain(film(1, **changes), film(2, **changes), selected=[], rules=rules)
    assert [refused.code for refused in result.analysis.refused] == [code, code]
    assert all(len(refused.sources) == 1 for refused in result.analysis.refused)


def test_stand_ins_are_made_with_the_objects_they_stand_in_for():
    options = replace(OPTIONS, objects=("segmentation", "structured_report"))
    results = explain(film(), options=options).results
    assert {one.kind: one.standby for one in results} == {
        "segmentation": False,
        "structured_report": False,
        "overlay": True,
        "secondary_capture": True,
        "report_page": True,
    }
    assert {one.kind: one.fallback for one in results}["segmentation"] == "overlay"


def test_object_that_an_image_cannot_have_is_named_in_the_report():
    result = explain(film(), options=replace(OPTIONS, objects=("parametric_map", "structured_report")))
    assert result.of("parametric_map") == []
    (report,) = result.of("structured_report")
    assert any(text.startswith("No parametric map was made because") for text in texts(report))


def test_an_image_of_another_study_is_our_fault():
    with pytest.raises(LookupError, match=r"1\.2\.9 is not in revision 1"):
        explain(film(), selected=[SOPInstanceUID("1.2.9")])


def test_an_unsuitable_image_does_not_hold_up_the_others():
    result = explain(film(1), film(2, ViewPosition="LL"), film(3))
    assert result.analysis.state is StudyState.EXPLAINED
    assert len(result.analysis.explained) == 2
    assert [ds.SOPClassUID for ds in result.datasets] == [SC, SC, SC, SC, SR], "one report on all three"
    reason = "View Position is 'LL': not a frontal view (PA or AP)"
    assert result.analysis.reason == f"1 of 3 images not analysed: {reason}"
    assert f"Not analysed because {reason}." in texts(result.datasets[-1])


def test_objects_of_one_study_do_not_collide():
    result = explain(film(1), film(2, ViewPosition="LL"), film(3))
    assert len({ds.SOPInstanceUID for ds in result.datasets}) == 5
    assert len({ds.SeriesInstanceUID for ds in result.datasets}) == 3
    numbers = [(ds.SeriesInstanceUID, ds.InstanceNumber) for ds in result.datasets]
    assert len(set(numbers)) == 5


@pytest.mark.parametrize("error", [RecursionError(), OverflowError(), KeyError("Canary^Bird")])
def test_whatever_the_bytes_of_one_image_raise_is_that_images_line(error):
    study, read = study_of(film(1), film(2), film(3))

    def reads(instance):
        if instance.sop_instance_uid.endswith(".2"):
            raise error
        return read(instance)

    found = pipeline.analyse(task_for(study), study, reads, ToyExplainer(), methods=["similar_adversarial"])
    assert found.state is StudyState.EXPLAINED
    assert len(found.explained) == 2
    (refused,) = found.refused
    assert (refused.reason, refused.code) == (
        f"its file cannot be understood ({type(error).__name__})",
        Reason.UNREADABLE,
    )


def test_rows_with_two_values_are_one_images_line_too():
    result = explain(film(1), film(2, Rows=[240, 120]))
    assert len(result.analysis.explained) == 1
    assert any("Rows has several values" in text for text in texts(result.of("structured_report")[0]))


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_what_endangers_the_process_ends_the_task(error):
    def read(_instance):
        raise error

    study, _ = study_of(film())
    with pytest.raises(type(error)):
        pipeline.analyse(task_for(study), study, read, ToyExplainer(), methods=["similar_adversarial"])


def test_all_images_unsuitable():
    result = explain(film(1, BodyPartExamined="HAND"), film(2, BodyPartExamined="HAND"), film(3, ViewPosition="LL"))
    assert result.analysis.state is StudyState.FAILED
    assert (
        result.analysis.reason
        == "Body Part Examined is 'HAND': not the chest; View Position is 'LL': not a frontal view (PA or AP)"
    )
    assert [ds.SOPClassUID for ds in result.datasets] == [SR]
    assert result.analysis.explained == ()


@pytest.mark.parametrize("kind", ["no pixels", "truncated", "model"])
def test_what_the_image_is_to_blame_for_becomes_a_report(kind):
    ds, explainer = film(), ToyExplainer()
    if kind == "no pixels":
        del ds.PixelData
    elif kind == "truncated":
        ds["PixelData"].value = ds.PixelData[:1000]
    else:
        explainer = Failing(GeometryError("the image is too narrow"))
    result = explain(ds, explainer=explainer)
    assert result.analysis.state is StudyState.FAILED
    (report,) = result.datasets
    assert f"Not analysed because {result.analysis.reason}." in texts(report)
    assert report.PatientID == "CANARY7"
    assert report.DeviceUID


def test_a_fault_of_ours_is_raised():
    with pytest.raises(MemoryError):
        explain(film(), explainer=Failing(MemoryError()))
    with pytest.raises(ZeroDivisionError):
        explain(film(), explainer=Failing(ZeroDivisionError()))


def test_unreadable_file_takes_patient_and_study_from_a_sibling():
    good, bad = film(1), film(2, Manufacturer="Other")
    study, read = study_of(bad, good)

    def reading(instance):
        if instance.sop_instance_uid == bad.SOPInstanceUID:
            raise DatasetUnreadable("the file cannot be read as DICOM")
        return read(instance)

    task = task_for(study, selected=[bad.SOPInstanceUID])
    result = answer(pipeline.analyse(task, study, reading, ToyExplainer(), methods=["similar_adversarial"]))
    (report,) = result.datasets
    assert report.PatientName == "Canary^Bird"
    assert len(report.ContributingEquipmentSequence) == 1, "the sibling's equipment did not make the bad file"
    assert encode(report)


def test_nothing_of_another_patient_stands_in_a_report_even_where_the_own_image_cannot_be_read():
    own, other = film(2), film(1, PatientID="STRANGER", PatientName="Other^Person")
    study, read = study_of(other, own)
    apart = [PassedBy(sop_instance_uid=other.SOPInstanceUID, reason=OTHER_PATIENT, code=Reason.PATIENT)]
    task = task_for(study, selected=[own.SOPInstanceUID], passed_by=apart)

    def reading(instance):
        if instance.sop_instance_uid == own.SOPInstanceUID:
            raise DatasetUnreadable("the file cannot be read as DICOM")
        return read(instance)

    for how, name in ((read, "Canary^Bird"), (reading, "")):
        analysis = pipeline.analyse(task, study, how, ToyExplainer(), methods=["similar_adversarial"])
        assert OTHER_PATIENT in analysis.reason
        for ds in answer(analysis).datasets:
            assert str(ds.PatientName or "") == name
            assert not any(word in str(ds) for word in ("STRANGER", "Other^Person"))


def test_a_header_of_deeply_nested_sequences_is_taken_apart_without_copying_it():
    item = Dataset()
    for _ in range(150):
        outer = Dataset()
        outer.ReferencedStudySequence = [item]
        item = outer
    ds = film(PatientID="DEEP")
    ds.RequestAttributesSequence = [item]
    result = explain(ds)
    assert result.analysis.state is StudyState.EXPLAINED, result.analysis.reason
    assert {str(one.PatientID) for one in result.datasets} == {"DEEP"}


def test_unreadable_study_still_gets_its_report():
    study, _ = study_of(film())

    def reading(_):
        raise DatasetUnreadable("the file cannot be read as DICOM")

    result = answer(pipeline.analyse(task_for(study), study, reading, ToyExplainer(), methods=["similar_adversarial"]))
    (report,) = result.datasets
    assert report.StudyInstanceUID == study.study_instance_uid
    assert not report.PatientName
    assert result.analysis.state is StudyState.FAILED
    assert "Not analysed because the file cannot be read as DICOM." in texts(reread(report))


def test_task_without_images_reports_the_rules_reason():
    study, read = study_of(film(1), film(2))
    task = task_for(study, selected=[], reason="rule 'not a chest': not a chest")
    result = answer(pipeline.analyse(task, study, read, ToyExplainer(), methods=["similar_adversarial"]))
    assert result.analysis.state is StudyState.IGNORED
    assert result.analysis.reason == task.reason
    (report,) = result.datasets
    assert any("not a chest" in text for text in texts(report))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == 2


@pytest.mark.parametrize("error", [DatasetUnreadable("x"), OSError(), RuntimeError("Canary^Bird"), KeyError()])
def test_report_is_made_whatever_reading_raises(error, caplog):
    study, _ = study_of(film())

    def reading(_):
        raise error

    result = answer(pipeline.not_analysed(task_for(study), study, reading, "an internal error occurred", Reason.FAILED))
    assert result.analysis.state is StudyState.FAILED
    assert encode(result.datasets[0])
    assert "Canary" not in caplog.text


def test_report_without_a_model():
    study, read = study_of(reread(cr_header(SOPClassUID=CTImageStorage, Modality="CT")))
    task = task_for(study)
    (report,) = answer(pipeline.not_analysed(task, study, read, "the model is missing", Reason.FAILED)).datasets
    assert "DeviceUID" not in report
    assert report.SeriesDescription == "NOT FOR DIAGNOSIS - AI structured report - no model"
    (named,) = answer(pipeline.not_analysed(task, study, read, "x", Reason.FAILED, model=TOY_MODEL)).datasets
    assert named.SeriesDescription == "NOT FOR DIAGNOSIS - AI structured report - toy 0.0.1"


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("opacity-evidence", "4.1", "structured report - opacity-evidence 4.1"),
        ("opacity-evidence", "4.1.0", "structured report - opacity-evidence"),
        ("opacity-evidence of the institution", "4.1.0", "structured report"),
    ],
)
def test_a_name_or_a_version_is_never_cut(name, version, said):
    study, read = study_of(reread(cr_header(SOPClassUID=CTImageStorage, Modality="CT")))
    model = replace(TOY_MODEL, name=name, version=version)
    (report,) = answer(pipeline.not_analysed(task_for(study), study, read, "x", Reason.FAILED, model=model)).datasets
    assert report.SeriesDescription == f"NOT FOR DIAGNOSIS - AI {said}"


def test_twice_is_once():
    datasets = [film(1), film(2, ViewPosition="LL")]
    first, second = (explain(*datasets) for _ in range(2))
    assert [encode(ds) for ds in first.datasets] == [encode(ds) for ds in second.datasets]


def test_order_of_instances_does_not_matter():
    one, other = film(1), film(2)
    assert [encode(ds) for ds in explain(one, other).datasets] == [encode(ds) for ds in explain(other, one).datasets]


def test_next_revision_is_another_object_that_names_the_earlier_report():
    first = explain(film())
    second = explain(film(), revision=2, earlier=first.datasets)
    assert not {ds.SOPInstanceUID for ds in first.datasets} & {ds.SOPInstanceUID for ds in second.datasets}
    assert {ds.SeriesInstanceUID for ds in first.datasets} == {ds.SeriesInstanceUID for ds in second.datasets}
    predecessor = second.datasets[-1].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.datasets[-1].SOPInstanceUID
    assert second.datasets[0].InstanceNumber != first.datasets[0].InstanceNumber


def test_sources_are_left_as_they_were():
    ds = film(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    before = encode(ds)
    explain(ds)
    assert encode(ds) == before


def test_no_patient_data_in_reasons_and_logs(caplog):
    caplog.set_level(0)
    datasets = [
        film(1, StudyDescription="Canary thorax"),
        film(2, BodyPartExamined="HAND"),
        film(3, BitsStored=17),
        film(4, PatientBirthDate="CanaryDay"),
    ]
    caplog.clear()  # what writing wrong values said
    result = explain(*datasets)
    for secret in ("Canary", "CANARY7", "19500102", "Doe^Jane"):
        assert secret not in str(result.analysis.reason) + caplog.text


def test_no_evidence_is_answered_without_a_region():
    smooth = np.rint(np.linspace(0.1, 0.6, 600)[:, np.newaxis].repeat(500, axis=1) * 4095)
    options = replace(OPTIONS, objects=("segmentation", "structured_report"))
    results = [explain(synthetic(stored, WindowCenter="2048", WindowWidth="4096"), options=options)
               for stored in (smooth, np.rint(phantom(600, 500) * 4095))]  # fmt: skip
    assert [len(result.of("segmentation")) for result in results] == [0, 1]
    assert ["Evidence 1" in texts(result.of("structured_report")[0]) for result in results] == [False, True]


def test_instance_helper_names_what_it_reads():
    assert instance_of(film(5)).sop_instance_uid == "1.2.3.4.1.5"
