"""The frames along attributes: one object an image, played in order, and nowhere to be taken for a radiograph."""

import dataclasses

import numpy as np
import pytest
from contexts import built, context_of, errors_of, film, with_morphs
from oddities import NAMES, ODD, PAIRED, SYNTAXES, assert_names_kept, assert_repeatable, named
from pydicom.tag import Tag
from radiographs import ACCEPTED, in_two_halves, real, reread

from dicom_node.dicom import reading
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.objects.morphs import LONG_EDGE, PLUGIN


def frames_of(ds):
    return np.frombuffer(ds.PixelData, np.uint8)[: ds.NumberOfFrames * ds.Rows * ds.Columns].reshape(
        ds.NumberOfFrames, ds.Rows, ds.Columns
    )


@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm"))
def test_real_images(name, tmp_path):
    assert errors_of(built(PLUGIN, with_morphs(context_of(reading.read(real(name))))), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD | PAIRED)
def test_odd_sources(name, tmp_path):
    ds = built(PLUGIN, with_morphs(context_of(film(**(ODD | PAIRED)[name])), count=1))
    assert errors_of(ds, tmp_path) == []
    assert ds.NumberOfFrames == 3


def test_an_image_without_attributes_has_none_and_nobody_misses_them():
    assert PLUGIN.refuses(context_of(film())) == ""
    assert PLUGIN.refuses(with_morphs(context_of(film()))) is None


def test_frames_come_in_their_order_and_say_what_they_are():
    ds = reread(built(PLUGIN, with_morphs(context_of(film()))))
    frames = frames_of(ds)
    assert ds.NumberOfFrames == 6
    assert ds.FrameIncrementPointer == Tag("FrameTime")
    assert float(ds.FrameTime) > 0
    middle = frames[:, ds.Rows // 3 : ds.Rows // 2, ds.Columns // 3 : ds.Columns // 2].astype(float).mean(axis=(1, 2))
    assert middle[0] > middle[1] > middle[2]
    assert middle[3] > middle[4] > middle[5]
    assert max(ds.Rows, ds.Columns) >= LONG_EDGE
    assert ds.SyntheticData == "YES"
    assert ds.ImageType[2] == "SYNTHETIC"
    assert ds.SeriesDescription.startswith("SYNTHETIC - NOT FOR DIAGNOSIS")
    assert "opacity 1 (20 %), opacity 2 (20 %)" in ds.ImageComments
    assert ds.ImageComments.endswith(DISCLAIMER)
    assert ds.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"


def test_only_what_was_invented_bears_the_pattern():
    """The first frame of an attribute is the radiograph; a blank one shows what was drawn upon it."""
    context = with_morphs(context_of(film()), count=1)
    (morph,) = context.explanation.morphs
    blank = dataclasses.replace(morph, images=np.full_like(morph.images, 0.5))
    ds = built(
        PLUGIN, dataclasses.replace(context, explanation=dataclasses.replace(context.explanation, morphs=(blank,)))
    )
    inner = frames_of(ds)[:, ds.Rows // 3 : ds.Rows // 2, ds.Columns // 3 : 2 * ds.Columns // 3]
    assert np.ptp(inner[0]) == 0
    assert np.ptp(inner[1]) > 10
    assert np.ptp(inner[2]) > 10


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", NAMES)
def test_foreign_names(kind, syntax):
    source, texts = named(kind, syntax)
    made = built(PLUGIN, with_morphs(context_of(source)))
    assert_names_kept(made, source, texts)


def test_it_repeats():
    assert_repeatable(lambda context: [built(PLUGIN, context)], with_morphs(context_of(film())))
