"""The report as pictures: everything that the structured report says in words, page by page."""

import re
from dataclasses import replace

import numpy as np
import pytest
from contexts import assessed_of, context_of, errors_of, film, refused_study, source_of, study_context
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import EncapsulatedPDFStorage, JPEGLSLossless
from radiographs import encode, reread
from toy_explainer import ToyExplainer

from dicom_node.errors import Reason
from dicom_node.results import Refusal, ResultOptions, SourceReference
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.legend import Sentence
from dicom_node.results.notes import NOT_AN_OUTLINE, which
from dicom_node.results.objects.report_page import COLUMNS, MOST_ROWS, PLUGIN, body, head, pages, render
from dicom_node.results.objects.report_page import TEXT as HEIGHT
from dicom_node.results.text import BACKGROUND, READABLE, TEXT, WARNING, font, line_height

LATERAL = "it is a lateral view"


def everything(**changes):
    """A study with an explained, an assessed and four refused instances, and an object that could not be made."""
    first = context_of(film(), explainer=ToyExplainer(margin=0.9, roughness_limit=0.001))
    other = film(SOPInstanceUID="1.2.3.4.9", ViewPosition="AP", SeriesNumber="2", InstanceNumber="3")
    lateral = [source_of(film(SOPInstanceUID=f"1.2.3.4.{n}")) for n in (20, 21, 22)]
    refused = [
        Refusal(sources=tuple(sources), reason=LATERAL, code=Reason.VIEW) for sources in (lateral[:2], lateral[2:])
    ]
    pdf = SourceReference(
        study_instance_uid="1.2.3.4.3",
        series_instance_uid="1.2.3.4.8",
        sop_class_uid=EncapsulatedPDFStorage,
        sop_instance_uid="1.2.3.4.30",
    )
    refused.append(Refusal(sources=(pdf,), reason="it is no image", code=Reason.MODALITY))
    sources = (*first.sources, source_of(other), *(source for one in refused for source in one.sources))
    values = {
        "assessed": [assessed_of(other, ToyExplainer(threshold=0.95))],
        "refused": refused,
        "omitted": (("parametric_map", "the source has no plane geometry"),),
        "sources": sources,
    }
    return study_context(first, **values | changes)


def lines_of_page(lines):
    return " / ".join(line.text for line in lines)


def test_it_says_what_the_structured_report_says():
    text = " / ".join(sentence.text for sentence in body(everything()))
    for part in (
        "Image 1 (PA): Lung opacity: 72.7%, called present (threshold 50.0%)",
        "Near the threshold (within 90.0 points): a small shift or turn of the image may change the decision.",
        "Far from the training data: score 0.0",
        "Similar image: 72.7%, keeps the decision",
        "Adversarial image:",
        "Deletion score",
        f"{NOT_AN_OUTLINE}.",
        "Method similar_adversarial. Colour: |x_s - x_a|",
        "Image 2 (AP, series 2, number 3): Lung opacity: 72.7%, not called (threshold 95.0%)",
        "Not explained",
        f"Not analysed because {LATERAL}: 3 images.",
        "Not analysed because it is no image: 1 image.",
        "No parametric map was made because the source has no plane geometry.",
    ):
        assert part in text
    assert "no finding" not in text


def test_the_distance_is_no_assurance():
    study = study_context(context_of(film(), explainer=ToyExplainer(roughness_limit=0.5)))
    (distance,) = [sentence for sentence in body(study) if "training data" in sentence.text]
    assert re.match(r"Distance from the training data 0\.0\d+ \(limit 0\.5\): mean difference of", distance.text)
    assert not distance.warning


@pytest.mark.parametrize(("value", "empty"), [(0.0, True), (0.02, True), (0.021, False)])
@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_an_empty_heatmap_is_told(value, empty, threshold):
    context = context_of(film(), explainer=ToyExplainer(threshold=threshold))
    explanation = context.explanation
    values = np.full_like(explanation.attribution.values, value)
    explanation = replace(explanation, attribution=replace(explanation.attribution, values=values))
    said = body(study_context(replace(context, explanation=explanation)))
    told = [one for one in said if "vidence" in one.text]
    if not empty:
        assert told[0].text.startswith("Evidence lies in: ")
        return
    text = "No evidence above the scale's floor"
    rest = ": the method does not show what this decision rests on." if threshold == 0.5 else "."
    assert told == [Sentence(f"{text}{rest}", warning=threshold == 0.5)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"SeriesNumber": "2", "InstanceNumber": "1"}, "PA, series 2, number 1"),
        ({"ViewPosition": None, "SeriesNumber": "2", "InstanceNumber": None}, "series 2"),
        ({"ViewPosition": "p\u00e4\\x", "SeriesNumber": "x", "InstanceNumber": "7"}, "P, number 7"),
        ({"ViewPosition": None, "SeriesNumber": None, "InstanceNumber": None}, ""),
    ],
)
def test_an_image_is_told_from_the_others_as_far_as_it_says(changes, expected):
    header = context_of(film()).header
    for keyword, value in changes.items():
        vr = dictionary_VR(keyword)
        raw = (value or "").encode("latin-1")
        header[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(raw), raw, 0, False, True)
    assert which(header) == expected


def test_warnings_and_refusals_are_to_be_noticed():
    warnings = [sentence.text for sentence in body(everything()) if sentence.warning]
    assert [text.split()[0] for text in warnings] == ["Near", "Far", "Not", "Not"]


def test_what_the_source_lacks_is_said():
    ds = film(PatientOrientation=None, PixelSpacing=["0", "0"])
    text = " / ".join(sentence.text for sentence in body(study_context(context_of(ds))))
    assert "no usable pixel spacing" in text
    assert "does not state Patient Orientation" in text


def test_the_head_is_on_every_page_and_nothing_is_lost():
    below = [Sentence(f"Sentence number {n} of a long report, which goes on from page to page.") for n in range(60)]
    top = head(everything())
    made = pages(top, below)
    assert len(made) > 3
    for number, lines in enumerate(made, start=1):
        text = lines_of_page(lines)
        assert text.startswith(DISCLAIMER)
        assert "Patient: Canary Bird, ID CANARY7" in text
        assert "Model toy 0.0.1 (70f00000)" in text
        assert f"Page {number} of {len(made)}" in text
    words = " ".join(line.text for lines in made for line in lines)
    assert all(f"number {n} of" in words for n in range(60))


def test_no_sentence_is_on_two_pages():
    below = [Sentence(f"begin{n} {'word ' * (20 + 13 * n % 60)} end{n}.") for n in range(30)]
    made = pages(head(everything()), below)
    assert len(made) > 3
    texts = [lines_of_page(lines) for lines in made]
    for n in range(30):
        assert [f"begin{n} " in text for text in texts] == [f"end{n}." in text for text in texts]
        assert sum(f"begin{n} " in text for text in texts) == 1


def test_a_sentence_longer_than_a_page_is_kept_whole():
    below = [Sentence("first."), Sentence(" ".join(f"w{n}." for n in range(1000))), Sentence("last.")]
    words = " ".join(line.text for lines in pages((), below) for line in lines).split()
    kept = [word for word in words if word[-1] == "."]
    assert kept == ["first.", *(f"w{n}." for n in range(1000)), "last."]


@pytest.mark.parametrize("sentences", [0, 1, 17, 60])
def test_pages_are_readable_and_inside(sentences):
    for lines in pages(head(everything()), [Sentence("word " * 30, warning=True)] * sentences):
        image = render(lines)
        rows, columns, _ = image.shape
        assert (columns, image.dtype) == (COLUMNS, np.uint8)
        assert rows <= MOST_ROWS
        assert rows <= READABLE * HEIGHT
        assert max(font(HEIGHT, line.text).getlength(line.text) for line in lines) <= COLUMNS - 2 * HEIGHT
        for edge in (image[:8], image[-8:], image[:, :8], image[:, -8:]):
            assert (edge == BACKGROUND).all()
        for number, line in enumerate(lines):
            top = HEIGHT + number * line_height(HEIGHT)
            band = image[top : top + line_height(HEIGHT)]
            amber, white = (band == WARNING).all(axis=2).sum(), (band == TEXT).all(axis=2).sum()
            assert (amber > white) == line.warning, line.text
            assert amber + white > 50


def test_the_pages_are_objects_of_one_series(tmp_path):
    refused = [
        Refusal(sources=(source_of(film()),), reason=f"of a reason that is the {n}th of many", code=Reason.MODEL)
        for n in range(30)
    ]
    study = everything(refused=refused, number=2001)
    made = [reread(ds) for ds in PLUGIN.build(study)]
    assert len(made) == 5
    assert [ds.InstanceNumber for ds in made] == [2001, 2002, 2003, 2004, 2005]
    assert len({ds.SOPInstanceUID for ds in made}) == 5
    assert len({ds.SeriesInstanceUID for ds in made}) == 1
    for ds in made:
        assert errors_of(ds, tmp_path) == []
        assert ds.SeriesNumber == 9908
        assert (ds.BurnedInAnnotation, list(ds.ImageType)) == ("YES", ["DERIVED", "SECONDARY"])
        assert ds.PatientName == "Canary^Bird"
    assert [encode(ds) for ds in PLUGIN.build(study)] == [encode(ds) for ds in made], "the same bytes again"


def test_it_names_every_image_and_nothing_else_as_its_source():
    (first, *_) = PLUGIN.build(everything())
    named = [item.ReferencedSOPInstanceUID for item in first.SourceImageSequence]
    assert named == ["1.2.3.4.1", "1.2.3.4.9", "1.2.3.4.20", "1.2.3.4.21", "1.2.3.4.22"], "the PDF is no image"


@pytest.mark.parametrize("changes", [{}, {"header": Dataset()}, {"header": Dataset(), "model": None}])
def test_a_study_of_which_nothing_was_analysed(changes, tmp_path):
    study = refused_study(film(), LATERAL, **changes)
    text = " / ".join(sentence.text for sentence in (*head(study), *body(study)))
    assert f"Not analysed because {LATERAL}: 1 image." in text
    assert "it is no finding" in text
    assert ("No model was loaded" in text) == ("model" in changes)
    (ds,) = PLUGIN.build(study)
    assert errors_of(reread(ds), tmp_path) == []
    assert ds.StudyInstanceUID == study.task.study_instance_uid


def test_options_reach_the_page():
    plain = everything()
    (first, *_) = PLUGIN.build(plain)
    (hidden, *_) = PLUGIN.build(everything(options=ResultOptions(patient_in_image=False)))
    assert "Canary" in lines_of_page(pages(head(plain), ())[0])
    assert "Canary" not in lines_of_page(pages(head(everything(options=ResultOptions(patient_in_image=False))), ())[0])
    (compressed, *_) = PLUGIN.build(everything(options=ResultOptions(compression="jpeg-ls")))
    assert compressed.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert (compressed.pixel_array == first.pixel_array).all()
    assert len({first.SOPInstanceUID, hidden.SOPInstanceUID, compressed.SOPInstanceUID}) == 3


def test_it_stands_in_for_the_report_and_nothing_stands_in_for_it():
    assert PLUGIN.fallback is None
    assert PLUGIN.refuses(context_of(film())) is None
