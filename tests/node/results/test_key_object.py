"""The Key Object Selection: the positive images and our objects on them, chosen by a device."""

import dataclasses

import pytest
from contexts import assessed_of, context_of, errors_of, film, items, refused_study, study_context
from oddities import NAMES, ODD, SYNTAXES, assert_names_kept, assert_repeatable, named, with_prediction
from radiographs import ACCEPTED, real, reread
from toy_explainer import ToyExplainer

from dicom_node.dicom import reading
from dicom_node.results import codes
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.objects.key_object import PLUGIN
from dicom_node.results.objects.overlay import PLUGIN as OVERLAY
from dicom_node.results.objects.segmentation import PLUGIN as SEGMENTATION
from dicom_node.results.objects.structured_report import PLUGIN as REPORT
from dicom_node.results.objects.synthetic_images import PLUGIN as SYNTHETIC

NEVER = ToyExplainer(threshold=1)


def selection(*images, builders=(OVERLAY, REPORT), **changes):
    """What is built for a study after `builders` have built theirs, and these."""
    made = tuple(one for builder in builders for one in builder.build(study_context(*images, **changes)))
    return PLUGIN.build(study_context(*images, made=made, **changes)), made


def selected(ds):
    found = [item for item in items(ds) if "ReferencedSOPSequence" in item]
    return {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: item.ValueType for item in found}


def evidence(ds):
    return {
        (study.StudyInstanceUID, series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ACCEPTED, "RG1_UNCR.dcm"])
def test_real_images(name, tmp_path):
    (ds,), _ = selection(with_prediction(context_of(reading.read(real(name))), threshold=0))
    assert errors_of(ds, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_sources(name, tmp_path):
    (ds,), _ = selection(context_of(film(**ODD[name])))
    assert errors_of(ds, tmp_path) == []


def test_it_selects_the_image_and_our_pictures_of_it():
    """Nothing of a SOP Class that the destination may refuse: the selection would point to nowhere."""
    context = context_of(film())
    (ds,), made = selection(context, builders=(OVERLAY, REPORT, SEGMENTATION))
    ds = reread(ds)
    overlay, _, _ = made
    assert selected(ds) == {"1.2.3.4.1": "IMAGE", overlay.SOPInstanceUID: "IMAGE"}
    assert evidence(ds) == {
        ("1.2.3.4.3", "1.2.3.4.2", "1.2.3.4.1"),
        (overlay.StudyInstanceUID, overlay.SeriesInstanceUID, overlay.SOPInstanceUID),
    }
    assert ds.ConceptNameCodeSequence[0].CodeValue == codes.OF_INTEREST.value
    assert (ds.Modality, ds.SeriesNumber, ds.ContentTemplateSequence[0].TemplateIdentifier) == ("KO", 9909, "2010")


def test_a_negative_image_and_what_is_about_it_alone_are_left_out():
    positive = context_of(film())
    negative = context_of(film(SOPInstanceUID="1.2.3.4.9"), explainer=NEVER, number=2)
    (ds,), made = selection(positive, negative)
    of_positive, of_negative, _ = made
    assert set(selected(ds)) == {"1.2.3.4.1", of_positive.SOPInstanceUID}
    assert of_negative.SOPInstanceUID not in {uid for _, _, uid in evidence(ds)}


def test_nothing_positive_no_selection():
    negative = context_of(film(), explainer=NEVER)
    assert PLUGIN.refuses(negative) is None
    assert selection(negative)[0] == ()
    assert PLUGIN.build(refused_study(film())) == ()
    assert PLUGIN.build(study_context(negative, images=(), assessed=[assessed_of(film(), NEVER)])) == ()


def test_a_positive_image_without_explanation_is_selected(tmp_path):
    context = context_of(film())
    (ds,) = PLUGIN.build(study_context(context, images=(), assessed=[assessed_of(film())]))
    assert set(selected(ds)) == {"1.2.3.4.1"}
    assert errors_of(ds, tmp_path) == []


def test_synthetic_images_are_no_key_images():
    (ds,), made = selection(context_of(film()), builders=(OVERLAY, SYNTHETIC))
    assert len(made) == 5
    assert set(selected(ds)) == {"1.2.3.4.1", made[0].SOPInstanceUID}


def test_it_says_who_chose_and_why():
    (ds,), _ = selection(context_of(film()))
    (text,) = [item.TextValue for item in items(ds) if item.ConceptNameCodeSequence[0].CodeValue == "113012"]
    for part in ("Chosen by toy 0.0.1, not by a person", DISCLAIMER, "Lung opacity: 72.7%", "(threshold 50.0%)"):
        assert part in text
    (observer,) = [item for item in items(ds) if item.ConceptNameCodeSequence[0].CodeValue == "121005"]
    assert observer.ConceptCodeSequence[0].CodeValue == codes.DEVICE.value


def test_many_findings_do_not_push_the_disclaimer_out(tmp_path):
    images = [
        with_prediction(context_of(film(SOPInstanceUID=f"1.2.3.5.{n}"), number=n), label=f"Finding {n} " * 6)
        for n in range(1, 13)
    ]
    (ds,), _ = selection(*images, builders=(OVERLAY,))
    (text,) = [item.TextValue for item in items(ds) if item.ConceptNameCodeSequence[0].CodeValue == "113012"]
    assert DISCLAIMER in text
    assert len(text) <= 1024
    assert errors_of(ds, tmp_path) == []


def test_same_bytes_and_steady_uids():
    def build(context):
        return selection(context)[0]

    context = context_of(film())
    assert_repeatable(build, context)
    (alone,), _ = selection(context, builders=())
    assert alone.SOPInstanceUID != build(context)[0].SOPInstanceUID, "another destination, other objects"


def test_another_revision_is_another_selection():
    context = context_of(film())
    task = dataclasses.replace(context.task, revision=2)
    (first,), (second,) = selection(context)[0], selection(dataclasses.replace(context, task=task))[0]
    assert first.SOPInstanceUID != second.SOPInstanceUID


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", NAMES)
def test_names_survive_byte_for_byte(kind, syntax):
    source, texts = named(kind, syntax)
    (ds,), _ = selection(context_of(source))
    assert_names_kept(ds, source, texts)
