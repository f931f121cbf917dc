"""What the dashboard shows of an image: every picture there, in its true shape, and nothing of the patient."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from contexts import context_of, film
from PIL import Image

from dicom_node.results import view
from explain_core import display


@pytest.fixture(scope="module")
def context():
    return context_of(film(PatientName="Canary^Yellow", PatientID="PAT-4711", AccessionNumber="ACC-0815"))


def opened(context):
    archive = zipfile.ZipFile(io.BytesIO(view.render(context)))
    pictures = {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if name != view.ABOUT}
    return json.loads(archive.read(view.ABOUT)), pictures


def test_all_pictures_are_there_and_fit_over_each_other(context):
    about, pictures = opened(context)
    assert set(pictures) == {
        "radiograph.jpg", "heatmap.png", "seen.jpg", "similar.jpg", "adversarial.jpg", "difference.png"
    }  # fmt: skip
    rows, columns = context.radiograph.pixels.shape
    assert about["size"] == list(pictures["radiograph.jpg"].size) == list(pictures["heatmap.png"].size)
    assert about["size"][0] / about["size"][1] == pytest.approx(columns / rows, rel=0.01)
    assert about["positive"] is context.explanation.prediction.positive
    assert about["probability"] == context.explanation.prediction.probability
    points = np.array([point for line in about["outlines"] for point in line])
    assert points.size
    assert points.min() >= 0
    assert points.max() <= 1


def test_the_layer_is_opaque_as_far_as_the_evidence_goes(context):
    about, pictures = opened(context)
    alpha = np.asarray(pictures["heatmap.png"])[..., 3] / 255
    attribution = context.explanation.attribution
    values = display.resize(attribution.painted, tuple(about["size"][::-1]))
    assert np.abs(alpha - display.evidence(values, attribution.scale)).max() < 0.003
    assert (alpha == 0).any()
    assert (alpha > 0).any()


def test_a_negative_image_shows_no_layer_and_no_outline(context):
    explanation = context.explanation
    negative = replace(explanation, attribution=replace(explanation.attribution, evident=False))
    about, pictures = opened(replace(context, explanation=negative))
    assert not np.asarray(pictures["heatmap.png"])[..., 3].any()
    assert about["outlines"] == []


def test_synthetic_images_have_the_word_across_them(context):
    _, pictures = opened(context)
    plain = display.resize(context.explanation.similar.image, pictures["similar.jpg"].size[::-1])
    shown = np.asarray(pictures["similar.jpg"].convert("L")) / 255
    assert (np.abs(shown - plain) > 0.05).mean() > 0.02, "something is drawn over it"
    radiograph = display.resize(context.radiograph.pixels, pictures["radiograph.jpg"].size[::-1])
    copy = np.asarray(pictures["radiograph.jpg"]) / 255
    assert (np.abs(copy - radiograph) > 0.05).mean() < 0.01, "but not over the radiograph"


def test_it_names_no_patient(context):
    content = view.render(context)
    for secret in (b"Canary", b"Yellow", b"PAT-4711", b"ACC-0815"):
        assert secret not in content
