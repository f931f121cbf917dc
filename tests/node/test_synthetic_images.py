"""The series of four: in order, of one size, and nowhere to be taken for a radiograph of the patient."""

import dataclasses

import numpy as np
import pytest
from contexts import context_of, errors_of, film, study_context
from oddities import NAMES, ODD, PAIRED, SYNTAXES, assert_names_kept, assert_repeatable, named, with_prediction
from pydicom.uid import ExplicitVRLittleEndian
from radiographs import ACCEPTED, real, reread

from dicom_node import header
from dicom_node.results import ResultOptions
from dicom_node.results._header import DISCLAIMER
from dicom_node.results._text import READABLE, WARNING, font, line_height, lines_of
from dicom_node.results.synthetic_images import BANNER, PLUGIN, frames, layout, render
from explain_core import display
from explain_core.explanation import HeatmapScale

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
    place = layout(found, SQUARE)
    left, top, right, bottom = place.picture
    scale = context.explanation.attribution.scale
    return [render(frame, place, scale)[top:bottom, left:right] for frame in found]


def flat(value, shape=(64, 53)):
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize("name", [*ACCEPTED, "RG1_UNCR.dcm"])
def test_real_images(name, tmp_path):
    made = four(context_of(header.read(real(name))))
    assert [errors_of(one, tmp_path) for one in made] == [[], [], [], []]


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
        assert f"{position % 4 + 1} of 4, {('original', 'similar', 'adversarial', '|similar - ad')[position % 4]}" in (
            one.ImageComments
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


def test_texts_say_role_probability_decision_and_resolution():
    context = context_of(film())
    found = frames(context.explanation)
    assert tuple(frame.role for frame in found) == ROLES
    said = [" / ".join(sentence.text for sentence in frame.text) for frame in found]
    probability = context.explanation.prediction.probability
    assert f"1 of 4, original: Lung opacity {probability:.1%} (threshold 50.0%)" in said[0]
    assert f"{context.explanation.similar.probability:.1%} (threshold 50.0%), decision kept" in said[1]
    assert f"{context.explanation.adversarial.probability:.1%} (threshold 50.0%), decision changed" in said[2]
    assert "Colour: |x_s - x_a| of this pair, from 0.02 on; not the heatmap, which is averaged" in said[3]
    assert all("Model resolution 53 x 64 pixels, enlarged" in text and DISCLAIMER in text for text in said)
    assert [frame.banner.text == BANNER for frame in found] == [False, True, True, True]
    assert [frame.banner.warning for frame in found] == [False, True, True, True]


def test_every_banner_says_which_image_it_is_of():
    context = context_of(film(ViewPosition="AP", SeriesNumber="2", InstanceNumber="3"))
    made = four(context)
    assert all("Image: AP, series 2, number 3. " in one.ImageComments for one in made)
    unnamed = dataclasses.replace(
        context, header=context_of(film(ViewPosition=None, SeriesNumber=None, InstanceNumber=None)).header
    )
    for one, other in zip(made, four(unnamed), strict=True):
        assert "Image:" not in other.ImageComments
        assert not np.array_equal(one.pixel_array, other.pixel_array)
    for frame in frames(context.explanation, "AP, series 2, number 3"):
        assert frame.banner.text.endswith(". Image: AP, series 2, number 3")
        assert frame.banner.warning == frame.synthetic


def test_texts_say_when_the_generators_failed():
    context = with_prediction(context_of(film()), threshold=0.2)
    explanation = context.explanation
    similar = dataclasses.replace(explanation.similar, probability=0.1)
    said = frames(with_explanation(context, similar=similar).explanation)
    assert "decision NOT kept" in said[1].text[0].text
    assert "decision NOT changed" in said[2].text[0].text


@pytest.mark.parametrize("shape", [(64, 53), (64, 64), (64, 21), (21, 64), (320, 290)])
@pytest.mark.parametrize("label", ["Lung opacity", "A finding with a name as long as a label can be " * 3])
def test_text_is_readable_and_fits(shape, label):
    context = with_prediction(with_images(context_of(film()), *(flat(level, shape) for level in (0.5, 0.5, 0.4))))
    context = with_prediction(context, label=label)
    scale = context.explanation.attribution.scale
    attribution = dataclasses.replace(
        context.explanation.attribution, scale=dataclasses.replace(scale, unit="a unit of many words " * 4)
    )
    found = frames(with_explanation(context, attribution=attribution).explanation)
    place = layout(found, SQUARE)
    left, top, right, bottom = place.picture
    assert place.height * READABLE >= place.rows
    _, low, _, high = font(place.height).getbbox("Ag")
    assert high - low >= max(place.rows / 32, 1024 // 40)
    assert max(right - left, bottom - top) == 1024
    assert (right - left) / (bottom - top) == pytest.approx(shape[1] / shape[0], rel=0.01)
    for frame in found:
        text = lines_of(frame.text, place.height, place.bar[2] - place.bar[0])
        end = top + len(text) * line_height(place.height)
        assert end <= place.bar[1] - 2 * place.height, "text ends above the bar and its numbers"
        assert render(frame, place, scale).shape == (place.rows, place.columns, 3)


def test_pixels_that_are_not_square_are_shown_in_their_shape():
    ds = four(context_of(film(PixelSpacing=["0.1", "0.2"])))[0]
    square = four(context_of(film()))[0]
    place = layout(frames(context_of(film()).explanation), (0.1, 0.2))
    left, top, right, bottom = place.picture
    assert (right - left) / (bottom - top) == pytest.approx(2 * 53 / 64, rel=0.01)
    assert (ds.Rows, ds.Columns) == (place.rows, place.columns) != (square.Rows, square.Columns)


def test_the_banner_is_drawn_in_the_colour_of_warnings():
    found = frames(context_of(film()).explanation)
    place = layout(found, SQUARE)
    scale = context_of(film()).explanation.attribution.scale
    amber = [
        (np.abs(render(frame, place, scale)[: place.picture[1]].astype(int) - WARNING).max(axis=2) < 20).sum()
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


def test_difference_has_the_colours_of_the_scale():
    scale = HeatmapScale(floor=0.02, salient=0.08, full_scale=0.25, unit="u")
    similar = flat(0.5)
    adversarial = similar.copy()
    adversarial[:, 10:20] -= 0.01  # below the floor
    adversarial[:, 20:30] += 0.135  # halfway; the sign does not count
    adversarial[:, 30:40] -= 0.4  # beyond full scale
    context = with_images(context_of(film()), similar, similar, adversarial)
    picture = frames(context.explanation)[3].picture
    assert context.explanation.attribution.scale.full_scale == scale.full_scale
    assert (picture[:, :20] == 0).all()
    assert np.abs(picture[:, 20:30].astype(int) - display.PALETTE[128]).max() <= 3
    assert (picture[:, 30:40] == display.PALETTE[-1]).all()


def test_only_the_difference_has_the_bar():
    context = context_of(film())
    found = frames(context.explanation)
    place = layout(found, SQUARE)
    x, y, end, low = place.bar
    bars = [render(frame, place, context.explanation.attribution.scale)[y:low, x:end] for frame in found]
    assert [bool(np.ptp(bar.astype(int), axis=2).max() > 50) for bar in bars] == [False, False, False, True]
    assert (bars[3][:, 0] == 0).all()
    assert (bars[3][:, -1] == display.PALETTE[-1]).all()


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
