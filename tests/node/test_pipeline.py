"""One study in, its answers out: every image leaves one, whatever it is like."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.uid import CTImageStorage
from radiographs import encode, instance_of, phantom, real, reread, study_of, synthetic, task_for
from radiographs import header as cr_header

from dicom_node import header, pipeline
from dicom_node.errors import DatasetUnreadable
from dicom_node.model import SOPInstanceUID, StudyState
from dicom_node.results import ResultOptions
from explain_core.errors import GeometryError
from explain_core.testing import TOY_MODEL, ToyExplainer

SR, SC = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
OPTIONS = ResultOptions(long_edge=600)


class Failing:
    """An explainer that raises."""

    identity = TOY_MODEL

    def __init__(self, error):
        self.error = error

    def explain(self, _):
        raise self.error


def film(number=1, **changes):
    return synthetic(SOPInstanceUID=f"1.2.3.4.1.{number}", **changes)


def explain(*datasets, explainer=None, options=OPTIONS, revision=1, selected=None, **more):
    study, read = study_of(*datasets, revision=revision)
    task = task_for(study, selected=selected)
    return pipeline.explain_study(task, study, read, explainer or ToyExplainer(), options, **more)


def texts(ds):
    found = []
    for item in ds.get("ContentSequence", ()):
        found += [item.TextValue] if "TextValue" in item else []
        found += texts(item)
    return found


def test_one_image():
    result = explain(film())
    assert result.state is StudyState.EXPLAINED
    assert result.reason is None
    assert [ds.SOPClassUID for ds in result.datasets] == [SC, SC, SR]
    assert len(result.explanations) == 1
    assert result.explanations[0].prediction.label == "Lung opacity"


def test_the_real_film_from_its_file(tmp_path):
    ds = header.read(real("RG1_UNCR.dcm"))
    study, _ = study_of(ds)
    instance = replace(study.instances[0], path=real("RG1_UNCR.dcm"))
    study = replace(study, instances=(instance,))
    result = pipeline.explain_study(task_for(study), study, lambda one: header.read(one.path), ToyExplainer(), OPTIONS)
    assert result.state is StudyState.EXPLAINED
    for number, one in enumerate(result.datasets):
        path = tmp_path / f"{number}.dcm"
        one.save_as(path, enforce_file_format=True)
        assert header.read(path) == reread(one)


def test_only_the_objects_asked_for():
    options = replace(OPTIONS, objects=("structured_report",))
    assert [ds.SOPClassUID for ds in explain(film(), options=options).datasets] == [SR]
    with pytest.raises(LookupError, match="no 'hologram'; there is: overlay"):
        explain(film(), options=replace(OPTIONS, objects=("hologram",)))


def test_only_the_images_selected():
    first, second = film(1), film(2)
    result = explain(first, second, selected=[SOPInstanceUID("1.2.3.4.1.2")])
    assert len(result.explanations) == 1
    assert {ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in result.datasets[:2]} == {"1.2.3.4.1.2"}


def test_an_image_of_another_study_is_our_fault():
    with pytest.raises(LookupError, match=r"1\.2\.9 is not in revision 1"):
        explain(film(), selected=[SOPInstanceUID("1.2.9")])


def test_an_unsuitable_image_does_not_hold_up_the_others():
    result = explain(film(1), film(2, ViewPosition="LL"), film(3))
    assert result.state is StudyState.EXPLAINED
    assert len(result.explanations) == 2
    assert [ds.SOPClassUID for ds in result.datasets] == [SC, SC, SR, SR, SC, SC, SR]
    reason = "view position LL is not a frontal view (PA or AP)"
    assert result.reason == f"1 of 3 images not analysed: {reason}"
    assert f"Not analysed because {reason}." in texts(result.datasets[3])


def test_objects_of_one_study_do_not_collide():
    result = explain(film(1), film(2, ViewPosition="LL"), film(3))
    assert len({ds.SOPInstanceUID for ds in result.datasets}) == 7
    assert len({ds.SeriesInstanceUID for ds in result.datasets}) == 3
    numbers = [(ds.SeriesInstanceUID, ds.InstanceNumber) for ds in result.datasets]
    assert len(set(numbers)) == 7


def test_all_images_unsuitable():
    result = explain(film(1, BodyPartExamined="HAND"), film(2, BodyPartExamined="HAND"), film(3, ViewPosition="LL"))
    assert result.state is StudyState.FAILED
    assert result.reason == "body part HAND is not the chest; view position LL is not a frontal view (PA or AP)"
    assert [ds.SOPClassUID for ds in result.datasets] == [SR, SR, SR]
    assert result.explanations == ()


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
    assert result.state is StudyState.FAILED
    (report,) = result.datasets
    assert f"Not analysed because {result.reason}." in texts(report)
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
    result = pipeline.explain_study(task, study, reading, ToyExplainer(), OPTIONS)
    (report,) = result.datasets
    assert report.PatientName == "Canary^Bird"
    assert len(report.ContributingEquipmentSequence) == 1, "the sibling's equipment did not make the bad file"
    assert encode(report)


def test_unreadable_study_still_gets_its_report():
    study, _ = study_of(film())

    def reading(_):
        raise DatasetUnreadable("the file cannot be read as DICOM")

    result = pipeline.explain_study(task_for(study), study, reading, ToyExplainer(), OPTIONS)
    (report,) = result.datasets
    assert report.StudyInstanceUID == study.study_instance_uid
    assert not report.PatientName
    assert result.state is StudyState.FAILED
    assert "Not analysed because the file cannot be read as DICOM." in texts(reread(report))


def test_task_without_images_reports_the_rules_reason():
    study, read = study_of(film(1), film(2))
    task = task_for(study, selected=[], reason="rule 'not a chest': not a chest")
    result = pipeline.explain_study(task, study, read, ToyExplainer(), OPTIONS)
    assert result.state is StudyState.IGNORED
    assert result.reason == task.reason
    (report,) = result.datasets
    assert any("not a chest" in text for text in texts(report))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == 2


@pytest.mark.parametrize("error", [DatasetUnreadable("x"), OSError(), RuntimeError("Canary^Bird"), KeyError()])
def test_report_is_made_whatever_reading_raises(error, caplog):
    study, _ = study_of(film())

    def reading(_):
        raise error

    result = pipeline.report_not_analysed(task_for(study), study, reading, OPTIONS, "an internal error occurred")
    assert result.state is StudyState.FAILED
    assert encode(result.datasets[0])
    assert "Canary" not in caplog.text


def test_report_without_a_model():
    study, read = study_of(reread(cr_header(SOPClassUID=CTImageStorage, Modality="CT")))
    task = task_for(study)
    (report,) = pipeline.report_not_analysed(task, study, read, OPTIONS, "the model is missing").datasets
    assert "DeviceUID" not in report
    assert report.SeriesDescription == "Explanation - NOT FOR DIAGNOSIS"
    (named,) = pipeline.report_not_analysed(task, study, read, OPTIONS, "x", model=TOY_MODEL).datasets
    assert named.SeriesDescription == "toy 0.0.1 - NOT FOR DIAGNOSIS"


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
        assert secret not in str(result.reason) + caplog.text


def test_no_evidence_is_answered_without_heat():
    smooth = np.linspace(0.1, 0.6, 600)[:, np.newaxis].repeat(500, axis=1)
    result = explain(synthetic(np.rint(smooth * 4095), WindowCenter="2048", WindowWidth="4096"))
    pixels = result.datasets[0].pixel_array
    rows, columns = int(pixels.shape[0] * 0.6), int(pixels.shape[1] * 0.6)
    assert np.ptp(pixels[:rows, :columns].astype(int), axis=2).max() == 0
    hot = explain(synthetic(np.rint(phantom(600, 500) * 4095))).datasets[0].pixel_array
    assert np.ptp(hot[:rows, :columns].astype(int), axis=2).max() > 100


def test_instance_helper_names_what_it_reads():
    assert instance_of(film(5)).sop_instance_uid == "1.2.3.4.1.5"
