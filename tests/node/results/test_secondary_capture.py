"""The picture for radiologists: everything said and nothing covered, in every shape, spacing and transfer syntax."""

import io
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from contexts import built, context_of, errors_of, film
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from radiographs import encode, phantom, real, reread
from toy_explainer import ToyExplainer

from dicom_node.results import ResultOptions, fonts
from dicom_node.results.bands import LEAST_SHARE, Bands, framed, layout
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.legend import Sentence, glance
from dicom_node.results.objects.secondary_capture import PLUGIN, picture_shape, render, spoken
from dicom_node.results.sides import Sides, sides
from dicom_node.results.text import BACKGROUND, TEXT, WARNING, font, line_height
from explain_core import display
from explain_core.explanation import HeatmapScale, Prediction

CAUTIOUS = ToyExplainer(margin=0.9, roughness_limit=0.001)
"""Near the threshold and far from the training data, whatever the image."""
SHAPES = [(1800, 600), (3464, 1155), (2022, 2022), (4000, 3000), (1000, 1000), (800, 1600), (600, 1800), (512, 200)]


def said_by(context):
    """Every line of the picture, from above downwards."""
    said = spoken(context)
    scale = "weak - strong evidence" if said.scale else ""
    beside = said.beside.text if said.beside else ""
    between = " | ".join(one for one in (scale, beside) if one)
    return [*(one.text for one in said.above), *([between] if between else []), *(one.text for one in said.below)]


def placed(context, long_edge=1600):
    shape = picture_shape(context.radiograph.pixels.shape, long_edge)
    return layout(shape, spoken(context))


def drawn(context, long_edge=1600):
    place = placed(context, long_edge)
    return render(context.radiograph, context.explanation, place, spoken(context)), place


def picture(image, box):
    return image[box.top : box.top + box.rows, box.left : box.left + box.columns]


def with_values(context, values, covered=None):
    """The same explanation with another heatmap."""
    attribution = replace(context.explanation.attribution, values=np.asarray(values, np.float32))
    if covered is not None:
        attribution = replace(attribution, covered=covered)
    return replace(context, explanation=replace(context.explanation, attribution=attribution))


# --- layout ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("explainer", [ToyExplainer(), CAUTIOUS])
def test_the_picture_has_its_full_width_and_four_readable_lines(shape, explainer):
    said = spoken(context_of(film(), explainer=explainer))
    shown = picture_shape(shape, 4000)
    place = layout(shown, said)
    assert (place.picture.rows, place.picture.columns) == shown
    if shown[1] >= 0.75 * shown[0]:
        assert (place.columns, place.picture.left) == (shown[1], 0), "nothing beside it"
    assert len(place.above) == 1
    assert len(place.above) + len(place.below) + (place.scale.rows > 0) <= 4
    assert place.text * LEAST_SHARE >= max(shown)
    assert [line.text for line in (*place.above, *place.below)] == [one.text for one in (*said.above, *said.below)]
    widest = max(font(place.text, line.text).getlength(line.text) for line in (*place.above, *place.below))
    assert widest <= place.columns
    assert place.rows - shown[0] < (0.2 if shown[0] >= shown[1] else 0.6) * shown[0]


@pytest.mark.parametrize("shape", [(1200, 400), (700, 650), (400, 1200)])
@pytest.mark.parametrize("orientation", [["L", "F"], ["F", "L"], None])
def test_no_text_is_clipped_at_the_edges_or_covers_the_picture(shape, orientation):
    context = context_of(film(np.rint(phantom(*shape) * 4095), PatientOrientation=orientation), explainer=CAUTIOUS)
    image, place = drawn(context)
    box = place.picture
    for edge in (image[0], image[-1]):
        assert (edge == BACKGROUND).all()
    for band in (image[: box.top], image[box.top + box.rows :]):
        assert (band[:, [0, -1]] == BACKGROUND).all()
        assert (band != BACKGROUND).any()
    without = framed(Image.fromarray(picture(image, box)), place, spoken(context))
    assert np.array_equal(without, image)


@pytest.mark.parametrize(
    ("shape", "long_edge", "expected"),
    [
        ((1300, 1000), 1000, (1000, 769)),
        ((1300, 1000), 1300, (1300, 1000)),
        ((1300, 1000), 8192, (1300, 1000)),
        ((900, 2700), 1024, (341, 1024)),
        ((169, 211), 1600, (410, 512)),
    ],
)
def test_the_radiograph_has_the_wanted_size(shape, long_edge, expected):
    assert picture_shape(shape, long_edge) == expected


def test_at_full_size_the_picture_is_the_radiograph_pixel_for_pixel():
    stored = np.random.default_rng(0).integers(0, 4096, (700, 601))
    context = context_of(film(stored), options=ResultOptions(long_edge=700))
    context = with_values(context, np.zeros((700, 601)))
    image, place = built(PLUGIN, context).pixel_array, placed(context, 700)
    expected = np.rint(context.radiograph.pixels * 255)[..., np.newaxis]
    assert (picture(image, place.picture) == expected).all()


@pytest.mark.parametrize("long_edge", [512, 700, 1400])
def test_heat_is_where_it_belongs(long_edge):
    context = context_of(film(np.full((1400, 1000), 2000) + np.arange(1000) % 2))
    values = np.zeros((1400, 1000))
    values[300:340, 800:860] = 0.25
    context = with_values(context, values)
    image, place = drawn(context, long_edge)
    image = picture(image, place.picture).astype(int)
    zoom = place.picture.rows / 1400
    blue = image[..., 2] > image[..., 0] + 20
    for shown in (np.ptp(image, axis=2) > 40, blue):
        rows, columns = np.nonzero(shown)
        for found, edge in ((rows.min(), 300), (rows.max() + 1, 340), (columns.min(), 800), (columns.max() + 1, 860)):
            assert found == pytest.approx(edge * zoom, abs=2)


def test_every_line_is_really_drawn_in_its_colour():
    image, place = drawn(context_of(film(np.rint(phantom(1000, 900) * 4095)), explainer=CAUTIOUS))
    tops = dict.fromkeys(place.above, place.text // 2)
    first = place.scale.top + place.scale.rows
    tops |= {line: first + number * line_height(place.text) for number, line in enumerate(place.below)}
    assert [line.warning for line in tops] == [True, False, False]
    for line, top in tops.items():
        band = image[top : top + line_height(place.text)]
        amber, white = ((band == colour).all(axis=2).sum() > 100 for colour in (WARNING, TEXT))
        assert (amber, white) == (line.warning, not line.warning), line.text
    row = image[place.scale.top : first]
    assert (row == TEXT).all(axis=2).sum() > 100, "the scale in words"
    assert (row == WARNING).all(axis=2).sum() > 100, "unlike the training images"


# --- what it says ---


def test_four_lines_say_what_a_glance_needs():
    lines = said_by(context_of(film()))
    assert lines == [
        "Lung opacity: likely 73 % (threshold 50 %), left middle zone",
        "weak - strong evidence | Outline: half of the evidence",
        "toy 0.0.1. Research use only. Not for diagnosis.",
        "Patient: Canary Bird, ID CANARY7, study of 2024-05-06",
    ]


@pytest.mark.parametrize(
    ("probability", "threshold", "margin", "words"),
    [
        (0.87, 0.42, 0.02, "likely 87 % (threshold 42 %)"),
        (0.06, 0.42, 0.02, "unlikely 6 % (threshold 42 %)"),
        (0.43, 0.42, 0.02, "uncertain 43 % (threshold 42 %)"),
        (0.41, 0.42, 0.02, "uncertain 41 % (threshold 42 %)"),
        (0.4232, 0.4201, 0.0, "likely 42.3 % (threshold 42.0 %)"),
        (0.0001, 0.42, 0.0, "unlikely < 1 % (threshold 42 %)"),
        (0.9999, 0.42, 0.0, "likely > 99 % (threshold 42 %)"),
        (0.0, 0.42, 0.0, "unlikely 0 % (threshold 42 %)"),
        (1.0, 0.42, 0.0, "likely 100 % (threshold 42 %)"),
    ],
)
def test_the_decision_in_words(probability, threshold, margin, words):
    prediction = Prediction(label="Opacity", probability=probability, threshold=threshold, margin=margin)
    said = glance(prediction, "right lower zone")
    assert said == Sentence(f"Opacity: {words}, right lower zone", warning=words.startswith("uncertain"))


def test_a_site_may_keep_the_patient_out_of_the_picture():
    ds = film()
    hidden = context_of(ds, options=ResultOptions(patient_in_image=False))
    assert not any("Canary" in line or "CANARY7" in line for line in said_by(hidden))
    assert len(said_by(hidden)) == 3
    shown, unnamed = built(PLUGIN, context_of(ds)), built(PLUGIN, hidden)
    assert shown.SOPInstanceUID != unnamed.SOPInstanceUID
    assert unnamed.PatientID == "CANARY7", "the header has it"


def test_an_image_unlike_the_training_images_is_said_to_be_so_in_amber():
    said = spoken(context_of(film(), explainer=CAUTIOUS))
    assert said.beside == Sentence("Unlike the training images", warning=True)
    assert said.above[0].warning, "near the threshold"
    assert spoken(context_of(film(), explainer=ToyExplainer(roughness_limit=0.5))).beside.warning is False


@pytest.mark.parametrize("threshold", [0.5, 0.95])
@pytest.mark.parametrize("value", [0.0, 0.019, 0.02])
def test_without_evidence_the_film_is_clean_and_a_positive_decision_a_warning(threshold, value):
    context = with_values(context_of(film(), explainer=ToyExplainer(threshold=threshold)), np.full((240, 200), value))
    said, positive = spoken(context), threshold == 0.5
    assert (said.scale, said.beside) == (None, None)
    assert said.above[0].warning is positive
    assert said.above[0].text.endswith(f"(threshold {threshold:.0%})".replace("%", " %")) is not positive
    assert said.above[0].text.endswith(", no evidence above the scale's floor") is positive
    image, place = drawn(context)
    assert np.ptp(picture(image, place.picture).astype(int), axis=2).max() == 0
    assert place.scale.rows == 0


def test_specks_are_coloured_and_not_outlined():
    values = np.zeros((240, 200))
    values[100:102, 60:62] = 0.25
    said = spoken(with_values(context_of(film()), values))
    assert said.beside is None
    assert said.scale is not None


# --- colours ---


def test_the_scale_runs_from_no_colour_to_the_strongest():
    image, place = drawn(context_of(film(np.rint(phantom(800, 800) * 4095))))
    row = picture(image, place.scale).astype(int)
    coloured = np.ptp(row, axis=2) > 30
    coloured &= row[..., 0] > row[..., 2]  # warm; the outline's word is blue
    _, columns = np.nonzero(coloured)
    middle = np.flatnonzero(coloured.sum(axis=1) == coloured.sum(axis=1).max())[0]
    saturation = np.ptp(row[middle, columns.min() : columns.max() + 1], axis=1)
    assert (np.diff(saturation) >= -2).all()
    assert saturation[-1] > 90
    assert columns.max() - columns.min() > 3 * place.text


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.5), (0.9, 1.0), (1e-7, 12345.0)])
def test_any_scale_can_be_drawn(scale):
    floor, full = scale
    declared = HeatmapScale(floor=floor, full_scale=full, unit="units")
    context = context_of(film())
    attribution = replace(context.explanation.attribution, scale=declared, values=np.full((240, 200), 1.0, np.float32))
    image, _ = drawn(replace(context, explanation=replace(context.explanation, attribution=attribution)))
    assert image.shape[2] == 3


@pytest.mark.parametrize("heat", [0.0, 0.25])
def test_a_burned_in_marker_stays_visible(heat):
    stored = np.zeros((600, 500), np.int64) + 300 + np.arange(500) % 2
    stored[50:150, 50:70] = stored[130:150, 50:110] = 4095  # an L
    context = with_values(context_of(film(stored), options=ResultOptions(long_edge=600)), np.full((600, 500), heat))
    image, place = drawn(context, 600)
    image = picture(image, place.picture).astype(int)
    contrast = np.abs(image[100, 60] - image[100, 90]).max()
    assert contrast >= (230 if heat == 0 else 45)


# --- sides ---


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (("L", "F"), Sides(upright=False, first="R", last="L")),
        (("R", "F"), Sides(upright=False, first="L", last="R")),
        (("LH", "FL"), Sides(upright=False, first="R", last="L")),
        (("F", "L"), Sides(upright=True, first="R", last="L")),
        (("H", "R"), Sides(upright=True, first="L", last="R")),
        (("P", "F"), None),
        (("", ""), None),
        (None, None),
    ],
)
def test_sides_follow_from_patient_orientation(orientation, expected):
    assert sides(orientation) == expected


def test_an_animals_left_and_rostral_are_not_mistaken():
    assert sides(("R", "CD"), quadruped=True) is None
    assert sides(("LE", "CD"), quadruped=True) == Sides(upright=False, first="R", last="L")
    assert sides(("RT", "CD"), quadruped=True) == Sides(upright=False, first="L", last="R")


def glyph(letter, height):
    """`letter` as it is drawn, cut out."""
    image = Image.new("RGB", (4 * height, 4 * height), BACKGROUND)
    ImageDraw.Draw(image).text((2 * height, 2 * height), letter, fill=(150, 154, 160), font=font(height), anchor="mm")
    return cut(np.asarray(image))


def cut(image):
    """What differs from the background, cut out."""
    inked = image.max(axis=2) > 75
    rows, columns = np.nonzero(inked)
    return inked[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        (["L", "F"], {"top left": "R", "top right": "L"}),
        (["R", "F"], {"top left": "L", "top right": "R"}),
        (["F", "L"], {"top left": "R", "bottom right": "L"}),
        (["F", "R"], {"top left": "L", "bottom right": "R"}),
        (None, {}),
        (["A", "F"], {}),
    ],
)
def test_small_letters_of_the_sides_stand_at_the_ends_of_the_bands(orientation, corners):
    context = context_of(film(np.rint(phantom(900, 800) * 4095), PatientOrientation=orientation))
    said = replace(spoken(context), below=(), scale=None, beside=Sentence("."))
    said = replace(said, above=(Sentence("."),))
    assert said.marked == sides(context.radiograph.orientation)
    place = layout((900, 800), said)
    image = framed(Image.new("RGB", (800, 900)), place, said)
    box, wide = place.picture, 2 * place.text
    ends = {
        "top left": image[: box.top, : place.text + place.text // 2],
        "top right": image[: box.top, -wide:],
        "bottom right": image[box.top + box.rows :, -wide:],
    }
    for name, end in ends.items():
        if name in corners:
            found, expected = cut(end), glyph(corners[name], place.text)
            assert found.shape == expected.shape, name
            assert (found == expected).mean() > 0.97, name
        elif name != "top left" or corners:
            assert (end == BACKGROUND).all(), name


@pytest.mark.parametrize("shape", [(900, 800), (300, 900)])
def test_the_letter_below_lies_over_no_word(shape):
    """Of a film stored on its side; also where the outline's words reach the end of their line."""
    context = context_of(film(np.rint(phantom(*shape) * 4095), PatientOrientation=["F", "L"]))
    whole = spoken(context)
    assert whole.scale is not None
    assert whole.beside is not None
    for said in (whole, replace(whole, scale=None, beside=None)):
        place = layout(shape, said)
        empty = Image.new("RGB", shape[::-1])
        marked, plain = (framed(empty, place, one) for one in (said, replace(said, marked=None)))
        below = slice(place.picture.top + place.picture.rows, None)
        differ = (marked[below] != plain[below]).any(axis=2)
        assert differ.any()
        assert (plain[below][differ] == BACKGROUND).all()


# --- spacing ---


@pytest.mark.parametrize(
    ("changes", "spacing"),
    [
        ({"PixelSpacing": ["0.2", "0.4"]}, 0.2),
        ({"PixelSpacing": None, "ImagerPixelSpacing": ["0.2", "0.4"]}, None),
        ({"PixelSpacing": None, "PixelAspectRatio": ["1", "2"]}, None),
        ({"PixelSpacing": ["0", "0"], "PixelAspectRatio": ["10", "20"]}, None),
    ],
)
@pytest.mark.parametrize("long_edge", [520, 2000])
def test_a_square_of_the_patient_stays_square(changes, spacing, long_edge):
    stored = np.full((600, 400), 200) + np.arange(400) % 2
    stored[200:400, 100:200] = 4000  # 200 rows of half the spacing of 100 columns
    context = context_of(film(stored, **changes), options=ResultOptions(long_edge=long_edge))
    ds = built(PLUGIN, with_values(context, np.zeros((600, 400))))
    said = spoken(with_values(context, np.zeros((600, 400))))
    box = layout(picture_shape((600, 400), long_edge, (1, 2)), said).picture
    assert (box.rows, box.columns) == ((600, 800) if long_edge == 2000 else (390, 520))
    rows, columns = np.nonzero(picture(ds.pixel_array, box)[..., 0] > 128)
    high, wide = rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
    assert high == pytest.approx(wide, abs=1)
    if spacing is None:
        assert "PixelSpacing" not in ds
        assert "PixelAspectRatio" not in ds, "these pixels are square"
    else:
        assert ds.PixelSpacing[0] == ds.PixelSpacing[1]
        assert float(ds.PixelSpacing[0]) * high == pytest.approx(200 * spacing, abs=2 * spacing), "millimetres"


@pytest.mark.parametrize("spacing", [["0.2", "0.2"], ["0", "0"], ["0.001", "9"]])
def test_square_and_senseless_spacings_leave_the_picture_as_it_is(spacing):
    context = context_of(film(PixelSpacing=spacing))
    place = placed(context)
    assert (built(PLUGIN, context).Rows, built(PLUGIN, context).Columns) == (place.rows, place.columns)
    assert (place.picture.rows, place.picture.columns) == (512, 427)


@pytest.mark.parametrize("shape", [(1000, 800), (1001, 333), (333, 1001)])
def test_pixel_spacing_is_that_of_the_pictures_longer_side(shape):
    ds = built(PLUGIN, film(np.rint(phantom(*shape) * 4095)), options=ResultOptions(long_edge=600))
    assert float(ds.PixelSpacing[0]) * 600 == pytest.approx(0.2 * max(shape), rel=1e-6), "millimetres"


# --- the object ---

SYNTAXES = {
    "none": (ExplicitVRLittleEndian, "RGB"),
    "rle": (RLELossless, "RGB"),
    "jpeg-ls": (JPEGLSLossless, "RGB"),
    "jpeg-2000": (JPEG2000Lossless, "YBR_RCT"),
    "jpeg": (JPEGBaseline8Bit, "YBR_FULL_422"),
}


def small(compression, **changes):
    """An object of little size in one transfer syntax, as a file would have it."""
    stored = np.rint(phantom(601, 401) * 4095)
    return reread(built(PLUGIN, film(stored, **changes), options=ResultOptions(compression=compression)))


@pytest.mark.parametrize("compression", SYNTAXES)
def test_every_compression_is_what_it_says(compression, tmp_path):
    native, ds = small("none"), small(compression)
    assert (ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation) == SYNTAXES[compression]
    assert (ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (3, 8, 8, 7)
    assert errors_of(ds, tmp_path) == []
    difference = np.abs(ds.pixel_array.astype(int) - native.pixel_array)
    assert (ds.SOPInstanceUID == native.SOPInstanceUID) == (compression == "none")
    if compression == "jpeg":
        assert 0 < difference.mean() < 1.5
        assert ds.LossyImageCompression == "01"
        assert ds.LossyImageCompressionMethod == "ISO_10918_1"
        (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
        sampling = [component[1:3] for component in Image.open(io.BytesIO(frame)).layer]
        assert sampling == [(2, 1), (1, 1), (1, 1)], "4:2:2"
        size = ds.Rows * ds.Columns * 3
        assert float(ds.LossyImageCompressionRatio) == pytest.approx(size / len(ds.PixelData), rel=0.01)
    else:
        assert difference.max() == 0
        assert "LossyImageCompression" not in ds
    if compression not in {"none", "rle"}:
        assert len(ds.PixelData) < len(native.PixelData) / 3
    assert encode(small(compression)) == encode(ds), "the same bytes again"


def test_losses_of_the_source_and_of_the_copy_are_both_told():
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12.5"}
    known = small("jpeg", **lossy, LossyImageCompressionMethod="ISO_14495_1")
    assert list(known.LossyImageCompressionMethod) == ["ISO_14495_1", "ISO_10918_1"]
    assert known.LossyImageCompressionRatio[0] == 12.5
    unknown = small("jpeg", **lossy)
    assert unknown.LossyImageCompressionMethod == "ISO_10918_1"
    assert unknown["LossyImageCompressionRatio"].VM == 1
    kept = small("rle", **lossy, LossyImageCompressionMethod="ISO_14495_1")
    assert (kept.LossyImageCompression, kept.LossyImageCompressionRatio) == ("01", 12.5)


@pytest.mark.external
@pytest.mark.parametrize(
    ("compression", "program"), [("rle", "dcmdrle"), ("jpeg-ls", "dcmdjpls"), ("jpeg", "dcmdjpeg")]
)
def test_dcmtk_decodes_the_same_pixels(compression, program, tmp_path):
    if shutil.which(program) is None:
        pytest.skip(f"needs dcmtk's {program}")
    ds = small(compression)
    source, target = tmp_path / "compressed.dcm", tmp_path / "native.dcm"
    source.write_bytes(encode(ds))
    subprocess.run([program, source, target], check=True, capture_output=True)
    decoded = dcmread(target)
    assert not decoded.file_meta.TransferSyntaxUID.is_compressed
    difference = np.abs(decoded.pixel_array.astype(int) - small("none").pixel_array)
    assert difference.max() == 0 if compression != "jpeg" else difference.mean() < 1.5


def test_the_object_says_what_it_is(tmp_path):
    source = film()
    ds = reread(built(PLUGIN, source))
    assert errors_of(ds, tmp_path) == []
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert (ds.BurnedInAnnotation, ds.ConversionType, ds.Modality) == ("YES", "WSD", "OT")
    assert list(ds.PatientOrientation) == ["L", "F"]
    assert DISCLAIMER in ds.DerivationDescription
    assert ds.DerivationCodeSequence[0].CodeValue == "130401"
    (item,) = ds.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert item.ReferencedSOPClassUID == source.SOPClassUID
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert item.SpatialLocationsPreserved == "NO"
    assert len(ds.PixelData) == ds.Rows * ds.Columns * 3 + ds.Rows * ds.Columns % 2
    assert encode(built(PLUGIN, source)) == encode(ds), "the same bytes again"


def test_a_real_radiograph_of_odd_shape_and_spacing(tmp_path):
    ds = reread(built(PLUGIN, dcmread(real("RG1_UNCR.dcm"))))
    assert errors_of(ds, tmp_path) == []
    assert "PixelSpacing" not in ds, "the source says 0 x 0 mm"
    assert (ds.Rows, ds.PhotometricInterpretation) == (1852, "RGB")


def test_other_fonts_give_another_object(monkeypatch):
    ds = film(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎")
    with_font = built(PLUGIN, ds)
    monkeypatch.setattr(fonts, "installed", lambda: (fonts.BUILT_IN,))
    without = built(PLUGIN, ds)
    assert with_font.PixelData != without.PixelData
    assert with_font.SOPInstanceUID != without.SOPInstanceUID, "never one UID for two pictures"
    latin = built(PLUGIN, film())
    monkeypatch.undo()
    assert built(PLUGIN, film()).SOPInstanceUID == latin.SOPInstanceUID


def test_no_heat_is_no_colour():
    """A smooth image has no heat: the picture is the image, scaled, to its last row and column."""
    smooth = np.linspace(0.1, 0.6, 600)[:, np.newaxis].repeat(500, axis=1)
    context = context_of(film(np.rint(smooth * 4095)), options=ResultOptions(long_edge=520))
    image, place = drawn(context, 520)
    shown = picture(image, place.picture).astype(int)
    assert np.ptp(shown, axis=2).max() == 0
    expected = display.resize(context.radiograph.pixels, shown.shape[:2]) * 255
    assert np.abs(shown[..., 0] - expected).max() <= 1


def test_what_is_too_long_for_a_line_is_wrapped_and_never_cut():
    said = Bands(above=(Sentence("word " * 60),), below=(Sentence("name " * 60),))
    place = layout((512, 512), said)
    assert sum(line.text.count("word") for line in place.above) == 60
    assert sum(line.text.count("name") for line in place.below) == 60
    assert place.picture.top > len(place.above) * line_height(place.text)
    assert place.scale.top + len(place.below) * line_height(place.text) < place.rows
