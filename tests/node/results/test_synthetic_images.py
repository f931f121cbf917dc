"""The series of four: in order, of one size, and nowhere to be taken for a radiograph of the patient."""

import dataclasses

import numpy as np
import pytest
from contexts import context_of, errors_of, film, study_context
from oddities import NAMES, ODD, PAIRED, SYNTAXES, assert_names_kept, assert_repeatable, named, with_prediction
from pydicom.uid import ExplicitVRLittleEndian
from radiographs import ACCEPTED, in_two_halves, real, reread

from dicom_node.dicom import reading
from dicom_node.results import ResultOptions
from dicom_node.results.bands import LEAST_SHARE
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.legend import COPY, SYNTHETIC
from dicom_node.results.objects.synthetic_images import PLUGIN, frames, placed, render
from dicom_node.results.text import WARNING
from explain_core import display

ROLES = ("original", "similar", "adversarial", "difference")
SQUARE = (1.0, 1.0)


def four(context):
    return PLUGIN.build(study_context(context))


def with_explanation(context, **changes):
    return dataclasses.replace(context, explanation=dataclasses.replace(context.explanation, **changes))


def with_images(context, seen, similar, adversarial):
    explanation = context.explanation
    return with_explanation(
        context,
        seen=seen,
        similar=dataclasses.replace(explanation.similar, image=similar),
        adversarial=dataclasses.replace(explanation.adversarial, image=adversarial),
    )


def pictures(context):
    """The four pictures without margins, and the place of all."""
    found = frames(context.explanation)
    place = placed(found, SQUARE)
    return [inner(render(frame, place), place) for frame in found]


def inner(image, place):
    box = place.picture
    return image[box.top : box.top + box.rows, box.left : box.left + box.columns]


def flat(value, shape=(64, 53)):
    return np.full(shape, value, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm"))
def test_real_images(name, tmp_path):
    made = four(context_of(reading.read(real(name))))
    assert [errors_of(one, tmp_path) for one in made] == [[], [], [], []]


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD | PAIRED)
def test_odd_sources(name, tmp_path):
    assert errors_of(four(context_of(film(**(ODD | PAIRED)[name])))[2], tmp_path) == []


def test_one_series_in_a_fixed_order():
    contexts = (context_of(film(), number=1), context_of(film(SOPInstanceUID="1.2.3.4.9"), number=2))
    made = PLUGIN.build(study_context(*contexts))
    assert [one.InstanceNumber for one in made] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len({one.SeriesInstanceUID for one in made}) == 1
    assert len({one.SOPInstanceUID for one in made}) == 8
    assert {one.SeriesDescription for one in made} == {"SYNTHETIC - NOT FOR DIAGNOSIS - similar adversarial"}
    assert {one.SeriesNumber for one in made} == {9907}
    for position, one in enumerate(made):
        assert (
            f"{position % 4 + 1} of 4, {('original', 'similar', 'adversarial', 'difference of 2 and 3')[position % 4]}"
            in (one.ImageComments)
        )
    sources = [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in made]
    assert sources == ["1.2.3.4.1"] * 4 + ["1.2.3.4.9"] * 4


def test_attributes_tell_synthetic_from_original():
    made = [reread(one) for one in four(context_of(film()))]
    assert [one.SyntheticData for one in made] == ["NO", "YES", "YES", "YES"]
    assert ["SYNTHETIC" in one.ImageType for one in made] == [False, True, True, True]
    assert {one.BurnedInAnnotation for one in made} == {"YES"}
    makers = [
        [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in one.ContributingEquipmentSequence] for one in made
    ]
    assert [purposes.count("109100") for purposes in makers] == [0, 1, 1, 1]
    assert all("109102" in purposes for purposes in makers)
    assert [[item.CodeValue for item in one.DerivationCodeSequence] for one in made] == [
        ["113085"],
        ["130401", "similar-image"],
        ["130401", "adversarial"],
        ["113062", "130401"],
    ]
    assert [one.DerivationDescription.startswith("SYNTHETIC") for one in made] == [False, True, True, True]
    assert all(DISCLAIMER in one.DerivationDescription and DISCLAIMER in one.ImageComments for one in made)


def test_few_words_say_what_each_image_is():
    found = frames(context_of(film()).explanation)
    assert tuple(frame.role for frame in found) == ROLES
    assert [[one.text for one in (*frame.said.above, *frame.said.below)] for frame in found] == [
        [banner, line, "toy 0.0.1. Research use only. Not for diagnosis."]
        for banner, line in (
            (COPY, "1 of 4, original: Lung opacity 73 % (threshold 50 %)"),
            (SYNTHETIC, "2 of 4, similar: Lung opacity 73 % (threshold 50 %), decision kept"),
            (SYNTHETIC, "3 of 4, adversarial: Lung opacity 30 % (threshold 50 %), decision changed"),
            (SYNTHETIC, "4 of 4, difference of 2 and 3: similar 73 %, adversarial 30 %"),
        )
    ]
    assert [frame.said.above[0].warning for frame in found] == [False, True, True, True]
    assert [frame.said.scale is None for frame in found] == [True, True, True, False]


def test_comments_say_what_the_picture_has_no_room_for():
    context = context_of(film(ViewPosition="AP", SeriesNumber="2", InstanceNumber="3"))
    made = [one.ImageComments for one in four(context)]
    assert all("Image: AP, series 2, number 3. " in one for one in made)
    assert all("Model resolution 53 x 64 pixels, enlarged" in one and DISCLAIMER in one for one in made)
    assert "Made by toy 0.0.1 to keep the decision" in made[1]
    assert "Made by toy 0.0.1 to change the decision" in made[2]
    assert "of this pair from 0.02 on, full scale 0.25; not the heatmap, which is averaged" in made[3]
    unnamed = context_of(film(ViewPosition=None, SeriesNumber=None, InstanceNumber=None))
    assert not any("Image:" in one.ImageComments for one in four(unnamed))


def test_texts_say_when_the_generators_failed():
    context = with_prediction(context_of(film()), threshold=0.2)
    explanation = context.explanation
    similar = dataclasses.replace(explanation.similar, probability=0.1)
    said = frames(with_explanation(context, similar=similar).explanation)
    assert "decision NOT kept" in said[1].said.below[0].text
    assert "decision NOT changed" in said[2].said.below[0].text


@pytest.mark.parametrize("shape", [(64, 53), (64, 64), (64, 21), (21, 64), (320, 290)])
@pytest.mark.parametrize("label", ["Lung opacity", "A finding with a name as long as a label can be " * 3])
def test_text_is_readable_and_the_picture_in_one_place(shape, label):
    context = with_prediction(with_images(context_of(film()), *(flat(level, shape) for level in (0.5, 0.5, 0.4))))
    found = frames(with_prediction(context, label=label).explanation)
    place = placed(found, SQUARE)
    box = place.picture
    assert place.text * LEAST_SHARE >= 1024
    assert max(box.rows, box.columns) == 1024
    assert box.columns / box.rows == pytest.approx(shape[1] / shape[0], rel=0.01)
    for frame in found:
        said = place.saying(frame.said)
        assert (said.picture, said.rows, said.columns) == (box, place.rows, place.columns)
        assert len(said.above) <= len(place.above)
        assert (said.scale.rows > 0) + len(said.below) <= 1 + len(place.below)
        if label == "Lung opacity":
            assert len(said.above) + len(said.below) + (said.scale.rows > 0) <= 4
        assert render(frame, place).shape == (place.rows, place.columns, 3)


def test_pixels_that_are_not_square_are_shown_in_their_shape():
    ds = four(context_of(film(PixelSpacing=["0.1", "0.2"])))[0]
    square = four(context_of(film()))[0]
    place = placed(frames(context_of(film()).explanation), (0.1, 0.2))
    assert place.picture.columns / place.picture.rows == pytest.approx(2 * 53 / 64, rel=0.01)
    assert (ds.Rows, ds.Columns) == (place.rows, place.columns) != (square.Rows, square.Columns)


def test_the_banner_is_drawn_in_the_colour_of_warnings():
    found = frames(context_of(film()).explanation)
    place = placed(found, SQUARE)
    amber = [
        (np.abs(render(frame, place)[: place.picture.top].astype(int) - WARNING).max(axis=2) < 20).sum()
        for frame in found
    ]
    assert amber[0] == 0
    assert min(amber[1:]) > 2000


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_no_part_of_a_synthetic_picture_is_without_its_mark(level):
    """A quarter of the width, wherever it is cut out, shows the pattern, on any grey; the original is unmarked."""
    original, *synthetic = pictures(with_images(context_of(film()), *(flat(level),) * 3))
    rows, columns = original.shape[:2]
    assert np.ptp(original) == 0
    for picture in synthetic:
        for top in range(0, rows - columns // 4, columns // 8):
            for left in range(0, columns * 3 // 4 + 1, columns // 8):
                cut = picture[top : top + columns // 4, left : left + columns // 4, 0].astype(int)
                assert np.ptp(cut) >= 15, (top, left)


def test_the_mark_hides_nothing():
    context = context_of(film())
    original, similar, *_ = pictures(context)  # the toy's similar image is what it saw
    assert np.abs(original.astype(int) - similar).max() <= 0.16 * 255 + 1
    assert (original != similar).any(axis=2).mean() < 0.25


def test_pictures_are_the_explanations_images():
    seen = np.tile(np.linspace(0.1, 0.9, 53, dtype=np.float32), (64, 1))
    original, similar, adversarial, _ = pictures(with_images(context_of(film()), seen, seen[:, ::-1], 0.5 * seen))
    for picture, expected in ((original, seen), (similar, seen[:, ::-1]), (adversarial, 0.5 * seen)):
        shown = np.median(picture[..., 0].astype(float), axis=0)
        wanted = display.resize(expected * 255, (8, picture.shape[1]))[0]
        assert np.abs(shown - wanted).max() <= 3, "the pattern is in fewer than half of the pixels of a column"


def test_difference_is_laid_over_the_film_like_a_heatmap():
    similar = flat(0.5)
    adversarial = similar.copy()
    adversarial[:, 10:20] -= 0.01  # below the floor
    adversarial[:, 20:30] += 0.135  # halfway; the sign does not count
    adversarial[:, 30:40] -= 0.4  # beyond full scale
    context = with_images(context_of(film()), flat(0.2), similar, adversarial)
    picture = frames(context.explanation)[3].picture
    assert (picture[:, :20] == 51).all()
    half, full = display.OPACITY / 2, display.OPACITY
    assert np.abs(picture[:, 20:30] - ((1 - half) * 51 + half * display.PALETTE[128])).max() <= 3
    assert np.abs(picture[:, 30:40] - ((1 - full) * 51 + full * display.PALETTE[-1])).max() <= 1


def test_only_the_difference_has_the_scale():
    found = frames(context_of(film()).explanation)
    place = placed(found, SQUARE)
    below = [render(frame, place)[place.scale.top :].astype(int) for frame in found]
    assert [bool(np.ptp(band, axis=2).max() > 60) for band in below] == [False, False, False, True]


def test_a_method_without_generators_makes_none():
    context = context_of(film())
    assert PLUGIN.refuses(context) is None
    for part in ("seen", "similar", "adversarial"):
        lacking = with_explanation(context, **{part: None})
        assert PLUGIN.refuses(lacking) == "the method makes no synthetic images"
        with pytest.raises(ValueError, match="no synthetic images"):
            four(lacking)


def test_no_measuring_on_what_is_not_there():
    for one in four(context_of(film())):
        assert not {"PixelSpacing", "ImagerPixelSpacing", "FrameOfReferenceUID"} & set(one.dir())
        assert one.SourceImageSequence[0].SpatialLocationsPreserved == "NO"


def test_compression_of_the_destination(tmp_path):
    plain, packed = (
        four(context_of(film(), options=ResultOptions(compression=compression)))[1] for compression in ("none", "rle")
    )
    assert plain.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian != packed.file_meta.TransferSyntaxUID
    assert plain.SOPInstanceUID != packed.SOPInstanceUID
    assert errors_of(packed, tmp_path) == []
    assert np.array_equal(reread(packed).pixel_array, plain.pixel_array)


def test_same_bytes_and_steady_uids():
    assert_repeatable(four, context_of(film()))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", NAMES)
def test_names_survive_byte_for_byte(kind, syntax):
    source, texts = named(kind, syntax)
    assert_names_kept(four(context_of(source))[1], source, texts)
