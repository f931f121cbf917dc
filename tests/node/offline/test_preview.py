from dataclasses import replace

import numpy as np
import pytest
from contexts import built, context_of, every, film
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless
from radiographs import phantom, real, reread, synthetic

from dicom_node.dicom import pixels
from dicom_node.offline import preview
from dicom_node.results import ResultOptions
from dicom_node.results.objects.overlay import PLUGIN as OVERLAY
from dicom_node.results.objects.presentation_state import PLUGIN as PRESENTATION_STATE
from dicom_node.results.objects.secondary_capture import PLUGIN as SECONDARY_CAPTURE
from dicom_node.results.objects.segmentation import PLUGIN as SEGMENTATION
from dicom_node.results.objects.structured_report import PLUGIN as STRUCTURED_REPORT
from explain_core.display import OPACITY, PALETTE

PLANE = {
    "FrameOfReferenceUID": "1.2.3.4.77",
    "PositionReferenceIndicator": "",
    "ImagePositionPatient": [0.0, 0.0, 0.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
}


def shown(ds, folder, source=None):
    """The preview as an array; None when there is none."""
    path = folder / "preview.png"
    path.unlink(missing_ok=True)
    written = preview.save_png(reread(ds), path, source)
    assert written == path.is_file()
    return np.asarray(Image.open(path)).astype(int) if written else None


def marked(context, where):
    attribution = context.explanation.attribution
    values = where.astype(np.float32) * attribution.scale.full_scale
    return replace(context, explanation=replace(context.explanation, attribution=replace(attribution, values=values)))


def square():
    where = np.zeros((240, 200), np.bool_)
    where[100:150, 60:110] = True
    return where


def grey_of(source):
    return np.repeat(np.rint(pixels.radiograph(source).pixels * 255).astype(int)[..., np.newaxis], 3, axis=2)


def coloured(picture):
    return np.ptp(picture, axis=2) > 20


@pytest.mark.slow
def test_every_object_has_a_preview_but_the_key_object(tmp_path):
    source = film(**PLANE)
    made = every(source)
    assert {"parametric_map", "segmentation", "presentation_state", "key_object"} <= {kind for kind, _ in made}
    for kind, ds in made:
        assert (shown(ds, tmp_path, source) is not None) == (kind != "key_object"), kind
        assert (shown(ds, tmp_path) is not None) == (kind != "key_object"), kind


def test_objects_without_anything_to_see_have_none(tmp_path):
    empty = Dataset()
    empty.SOPClassUID = "1.2.3"
    assert not preview.save_png(empty, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


# --- images ---


@pytest.mark.parametrize("compression", ["none", "rle", "jpeg-2000", "jpeg-ls", "jpeg"])
def test_colour_images_are_shown_as_stored_in_any_compression(compression, tmp_path):
    plain = reread(built(SECONDARY_CAPTURE, context_of(film()))).pixel_array.astype(int)
    ds = built(SECONDARY_CAPTURE, context_of(film(), options=ResultOptions(compression=compression)))
    difference = np.abs(shown(ds, tmp_path) - plain)
    assert difference.mean() < 3 if compression == "jpeg" else not difference.any()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_grey_images_are_shown_in_any_compression(syntax, tmp_path):
    ds = reread(built(OVERLAY, film()))
    plain = shown(ds, tmp_path)
    ds.compress(syntax)
    assert np.array_equal(shown(ds, tmp_path), plain)


def test_overlay_planes_are_drawn_in_two_colours(tmp_path):
    source = film()
    ds = built(OVERLAY, marked(context_of(source), square()))
    picture = shown(ds, tmp_path)
    outline = reread(ds).overlay_array(0x6000) > 0
    assert (picture[outline] == (110, 220, 255)).all()
    inside = picture[105:145, 65:105].reshape(-1, 3)
    veil = 0.65 * grey_of(source)[105:145, 65:105].reshape(-1, 3) + 0.35 * np.array((250, 122, 26))
    assert np.abs(inside - veil).max() <= 2
    elsewhere = ~outline & ~square()
    elsewhere[200:] = False  # the disclaimer
    assert np.abs(picture[elsewhere] - grey_of(source)[elsewhere]).max() <= 1


def test_planes_are_left_out_of_images_without_them(tmp_path):
    ds = reread(built(OVERLAY, film()))
    for group in (0x6000, 0x6002):
        for element in [element.tag for element in ds if element.tag.group == group]:
            del ds[element]
    assert not coloured(shown(ds, tmp_path)).any()


def test_frames_stand_side_by_side(tmp_path):
    ds = synthetic(bits=8)
    ds.NumberOfFrames, ds.Rows = 2, 120
    picture = shown(ds, tmp_path)
    assert picture.shape == (120, 400, 3)
    assert np.array_equal(picture[:, 200:, 0], ds.pixel_array[1])


def test_inverse_images_are_shown_as_a_viewer_does(tmp_path):
    assert np.array_equal(
        shown(synthetic(bits=8, PhotometricInterpretation="MONOCHROME1"), tmp_path),
        255 - shown(synthetic(bits=8), tmp_path),
    )


# --- regions over the source ---


def test_segmentation_is_shown_over_the_source_and_alone(tmp_path):
    source = film()
    ds = built(SEGMENTATION, marked(context_of(source), square()))
    assert np.array_equal(coloured(shown(ds, tmp_path, source)), square())
    alone = shown(ds, tmp_path)
    assert np.array_equal(alone[..., 0] == 255, square())
    assert not alone[~square()].any()


def test_segmentation_of_another_image_is_shown_alone(tmp_path):
    ds = built(SEGMENTATION, marked(context_of(film()), square()))
    assert np.array_equal(shown(ds, tmp_path, film(phantom(200, 240) * 4095)), shown(ds, tmp_path))


def test_parametric_map_has_the_palette_on_the_declared_scale(tmp_path):
    source = film(**PLANE)
    half = square() * np.float32(0.135)  # midway from the floor to full scale
    context = context_of(source)
    attribution = replace(context.explanation.attribution, values=half)
    context = replace(context, explanation=replace(context.explanation, attribution=attribution))
    (ds,) = [
        ds
        for kind, ds in every(source, explainer=Fixed(context.explanation), kinds=("parametric_map",))
        if kind == "parametric_map"
    ]
    picture = shown(ds, tmp_path)
    middle = PALETTE[round(0.5 * 255)] * OPACITY * 0.5  # half of full scale: half as opaque, on black
    assert np.abs(picture[120, 80] - middle).max() <= 2
    assert not picture[~square()].any()
    over = shown(ds, tmp_path, source)
    assert np.array_equal(over[~square()], grey_of(source)[~square()])


class Fixed:
    """An explainer that says what it was made with."""

    def __init__(self, explanation):
        self.identity = explanation.provenance.model
        self._explanation = explanation

    def classify(self, _radiograph):
        return self._explanation.assessment

    def explain(self, _radiograph, _methods, _assessment=None):
        return (self._explanation,)


def test_presentation_state_is_drawn_over_the_source(tmp_path):
    source = film(PhotometricInterpretation="MONOCHROME1")
    context = marked(context_of(source), square())
    picture = shown(built(PRESENTATION_STATE, context), tmp_path, source)
    marks = coloured(picture)
    assert marks[100:150, 59:61].any(axis=1).all()
    assert marks[149:151, 62:108].any(axis=0).all()
    assert not marks[105:145, 65:105].any()
    assert marks[75:100, 60:150].any()  # the finding
    undisturbed = np.s_[105:145, 65:105]
    assert np.array_equal(picture[undisturbed], grey_of(source)[undisturbed])
    assert np.array_equal(picture[160:, 198:], grey_of(source)[160:, 198:])


def test_presentation_state_alone_is_on_black_in_the_size_of_the_image(tmp_path):
    picture = shown(built(PRESENTATION_STATE, marked(context_of(film()), square())), tmp_path)
    assert picture.shape == (240, 200, 3)
    assert not picture[105:145, 65:105].any()
    assert coloured(picture)[100:150, 59:61].any(axis=1).all()


def test_text_in_display_units_is_scaled_to_the_image(tmp_path):
    ds = reread(built(PRESENTATION_STATE, film()))
    layer = ds.GraphicAnnotationSequence[-1]
    (text, *_) = layer.TextObjectSequence
    layer.TextObjectSequence = [text]
    del ds.GraphicAnnotationSequence[0], text.AnchorPoint, text.AnchorPointVisibility
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner = [0.25, 0.5], [1.0, 0.6]
    rows, columns = np.nonzero(coloured(shown(ds, tmp_path)))
    assert 118 <= rows.min() < rows.max() <= 148
    assert 48 <= columns.min() < 60


# --- reports ---


def test_report_shows_its_regions_on_the_source_and_its_text_beside(tmp_path):
    source = film()
    context = marked(context_of(source), square())
    picture = shown(built(STRUCTURED_REPORT, context), tmp_path, source)
    left = coloured(picture[:240, :200])
    assert left[100:150, 59:61].any(axis=1).all()
    assert left[:, [0, 198]].any(axis=0).any()  # the whole image's rectangle
    assert not left[105:145, 65:105].any()
    assert (picture[:, 200:] > 200).any()
    assert np.array_equal(picture[110, 80], grey_of(source)[110, 80])


def test_report_shows_only_regions_of_the_given_image(tmp_path):
    source = film()
    ds = built(STRUCTURED_REPORT, marked(context_of(source), square()))
    source.SOPInstanceUID = "1.2.3.4.9"
    assert not coloured(shown(ds, tmp_path, source)[:240, :200]).any()


def test_report_alone_or_beside_what_cannot_be_shown_is_text(tmp_path):
    source = film()
    ds = built(STRUCTURED_REPORT, source)
    alone = shown(ds, tmp_path)
    assert (alone > 200).any()
    source.ViewPosition = "LL"
    assert np.array_equal(shown(ds, tmp_path, source), alone)


def test_panel_says_what_the_tree_says():
    ds = reread(built(STRUCTURED_REPORT, film()))
    said = [f"{preview._name(item)}: {preview._value(item)}" for _, item in preview._items(ds)]
    assert "Probability: 72.68 %" in said
    assert any(line.startswith("Image Region: POLYLINE of ") for line in said)
    assert "Classifier decision: Present" in said
    assert any("RESEARCH USE ONLY" in line for line in said)
    depths = [depth for depth, _ in preview._items(ds)]
    assert depths[0] == 1
    assert max(depths) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "siim_one/siim_fake_mono1.dcm", "nih_google_udacity/test2.dcm"])
def test_real_files_in_their_own_geometry(name, tmp_path):
    source = dcmread(real(name))
    context = context_of(source)
    where = context.explanation.attribution.half_of_evidence
    picture = shown(built(PRESENTATION_STATE, context), tmp_path, source)
    assert picture.shape[:2] == where.shape
    state = shown(built(SEGMENTATION, context), tmp_path, source) if where.any() else picture
    assert state.shape[:2] == where.shape
    far = ~coloured(picture)
    assert np.mean(picture[far] == grey_of(source)[far]) > 0.9
