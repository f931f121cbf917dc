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

from dicom_node.results import ResultOptions
from dicom_node.results import _fonts as fonts
from dicom_node.results._header import DISCLAIMER
from dicom_node.results._legend import Sentence
from dicom_node.results._notes import NOT_AN_OUTLINE, warnings_of
from dicom_node.results._sides import Sides, sides
from dicom_node.results._text import BACKGROUND, READABLE, TEXT, WARNING, font, line_height
from dicom_node.results.secondary_capture import OUTLINE, PLUGIN, labels, layout, legend, picture_shape, render
from explain_core import display
from explain_core.explanation import HeatmapScale
from explain_core.testing import ToyExplainer

CAUTIOUS = ToyExplainer(margin=0.9, roughness_limit=0.001)
"""Near the threshold and far from the training data, whatever the image."""
UPRIGHT = Sides(upright=False, first="R", last="L")
SHAPES = [(1800, 600), (3464, 1155), (2022, 2022), (4000, 3000), (1000, 1000), (800, 1600), (600, 1800), (512, 200)]


def said_by(context):
    return " / ".join(sentence.text for sentence in legend(context, UPRIGHT))


def placed(context, long_edge=1600, marked=UPRIGHT):
    shape = picture_shape(context.radiograph.pixels.shape, long_edge)
    return layout(shape, legend(context, marked), context.explanation.attribution.scale, marked)


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
def test_everything_is_readable_and_inside(shape):
    context = context_of(film(), explainer=CAUTIOUS)
    said = legend(context, None)
    scale = context.explanation.attribution.scale
    place = layout(picture_shape(shape, 1600), said, scale, None)
    height = place.text
    assert height * READABLE >= place.rows
    assert " ".join(line.text for line in place.lines).split() == " ".join(one.text for one in said).split()
    box, shown = place.legend, place.picture
    assert box.left >= shown.left + shown.columns, "nothing covers the picture"
    widest = max(font(height, line.text).getlength(line.text) for line in place.lines)
    assert widest <= box.columns
    assert box.left + box.columns < place.columns
    assert box.top + len(place.lines) * line_height(height) <= place.bar.top - line_height(height)
    assert place.bar.top + place.bar.rows + line_height(height) < place.rows
    assert sum(font(height).getlength(label) for label in (labels(scale)[0], labels(scale)[2])) < place.bar.columns
    assert place.longest / height <= 70, "a viewer that shows the whole leaves it readable"


@pytest.mark.parametrize("shape", [(1200, 400), (700, 650), (400, 1200)])
@pytest.mark.parametrize("orientation", [["L", "F"], ["F", "L"], None])
def test_nothing_is_clipped_at_the_edges(shape, orientation):
    context = context_of(film(np.rint(phantom(*shape) * 4095), PatientOrientation=orientation), explainer=CAUTIOUS)
    image = built(PLUGIN, context).pixel_array
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == BACKGROUND).all()


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
    place = placed(context, long_edge)
    image = picture(render(context.radiograph, context.explanation, place), place.picture).astype(int)
    zoom = place.picture.rows / 1400
    for shown in (np.ptp(image, axis=2) > 60, (image == OUTLINE).all(axis=2)):
        rows, columns = np.nonzero(shown)
        for found, edge in ((rows.min(), 300), (rows.max() + 1, 340), (columns.min(), 800), (columns.max() + 1, 860)):
            assert found == pytest.approx(edge * zoom, abs=2)


def test_disclaimer_and_warnings_are_really_drawn():
    context = context_of(film(np.rint(phantom(1000, 900) * 4095)), explainer=CAUTIOUS)
    place = placed(context)
    image = render(context.radiograph, context.explanation, place)
    for number, line in enumerate(place.lines):
        top = place.legend.top + number * line_height(place.text)
        band = image[top : top + line_height(place.text), place.legend.left :]
        amber = (band == WARNING).all(axis=2).sum()
        white = (band == TEXT).all(axis=2).sum()
        assert (amber > 200, white > 200) == (line.warning, not line.warning), line.text


# --- what it says ---


def test_legend_says_what_it_must():
    text = said_by(context_of(film()))
    for part in (
        DISCLAIMER,
        "Patient: Canary Bird, ID CANARY7, study of 2024-05-06",
        "Lung opacity: 72.7%, called present (threshold 50.0%)",
        "|x_s - x_a|, fraction of full luminance; none below 0.02, outlined from 0.08, full scale 0.25",
        "Deletion score 0.",
        NOT_AN_OUTLINE,
        "Model toy 0.0.1 (70f00000), method similar_adversarial",
        "Made on 2024-05-06 at 07:08",
    ):
        assert part in text
    for absent in ("Near the threshold", "training data", "not examined", "Sides", "empty"):
        assert absent not in text
    assert "not called (threshold 90.0%)" in said_by(context_of(film(), explainer=ToyExplainer(threshold=0.9)))


def test_a_site_may_keep_the_patient_out_of_the_picture():
    ds = film()
    hidden = context_of(ds, options=ResultOptions(patient_in_image=False))
    assert "Canary" not in said_by(hidden)
    assert "CANARY7" not in said_by(hidden)
    shown, unnamed = built(PLUGIN, context_of(ds)), built(PLUGIN, hidden)
    assert shown.SOPInstanceUID != unnamed.SOPInstanceUID
    assert unnamed.PatientID == "CANARY7", "the header has it"


def test_legend_warns_near_the_threshold_and_far_from_the_training_data():
    sentences = legend(context_of(film(), explainer=CAUTIOUS), UPRIGHT)
    warnings = [one.text for one in sentences if one.warning]
    assert warnings[0] == DISCLAIMER
    assert warnings[1] == (
        "Near the threshold (within 90.0 points): a small shift or turn of the image may change the decision"
    )
    explanation = context_of(film(), explainer=CAUTIOUS).explanation
    assert warnings[1:] == list(warnings_of(explanation.prediction, explanation.out_of_distribution, measure=False))
    assert warnings[2].startswith("Far from the training data: score 0.0")
    assert warnings[2].endswith("limit 0.001")
    near = legend(context_of(film(), explainer=ToyExplainer(roughness_limit=0.5)), UPRIGHT)
    (distance,) = [one for one in near if "training data" in one.text]
    assert distance.text.startswith("Distance from the training data 0.0")
    assert distance.text.endswith(" (limit 0.5)")
    assert not distance.warning


@pytest.mark.parametrize(
    ("threshold", "words"), [(0.5, "crosses the threshold"), (0.2, "does NOT cross the threshold")]
)
def test_legend_says_whether_the_generated_images_did_their_work(threshold, words):
    context = context_of(film(), explainer=ToyExplainer(threshold=threshold))
    explanation = context.explanation
    assert explanation.decision_changed == (threshold == 0.5)
    (adversarial,) = [one for one in legend(context, UPRIGHT) if one.text.startswith("Adversarial")]
    assert words in adversarial.text
    assert adversarial.warning == (threshold == 0.2)
    assert "Similar image: 72.7%, keeps the decision" in said_by(context)
    similar = replace(explanation.similar, probability=0.01)
    failed = replace(context, explanation=replace(explanation, similar=similar))
    assert "Similar image: 1.0%, does NOT keep the decision" in said_by(failed)
    without = replace(context, explanation=replace(explanation, similar=None, adversarial=None, deletion=None))
    assert not any(word in said_by(without) for word in ("Similar", "Adversarial", "Deletion"))


@pytest.mark.parametrize(
    ("value", "spot", "words"),
    [
        (0.0, 240, "Heatmap empty: nothing reaches its floor; the method does not show what this decision rests on"),
        (0.019, 240, "Heatmap empty: nothing reaches its floor; "),
        (0.079, 240, "Heatmap empty: nothing reaches its salient value; the method does not show what"),
        (0.25, 2, "No outline: only specks"),
        (0.25, 50, None),
    ],
)
def test_legend_says_when_nothing_is_shown(value, spot, words):
    context = context_of(film())
    values = np.zeros((240, 200))
    values[:spot, :spot] = value
    told = [one.text for one in legend(with_values(context, values), UPRIGHT)]
    told = [text for text in told if text.startswith(("Heatmap empty", "No outline"))]
    assert len(told) == (words is not None)
    assert all(text.startswith(words) for text in told)


@pytest.mark.parametrize(("threshold", "warning"), [(0.5, True), (0.95, False)])
def test_a_positive_decision_without_a_reason_is_a_warning(threshold, warning):
    context = context_of(film(), explainer=ToyExplainer(threshold=threshold))
    (told,) = [
        one for one in legend(with_values(context, np.zeros((240, 200))), UPRIGHT) if one.text.startswith("Heatmap")
    ]
    assert told.warning == warning


def test_legend_says_which_image_it_is():
    named = context_of(film(ViewPosition="AP", SeriesNumber="2", InstanceNumber="1"))
    assert " / Image: AP, series 2, number 1 / " in said_by(named)
    assert "Image:" not in said_by(context_of(film(ViewPosition=None, SeriesNumber=None, InstanceNumber=None)))


def test_legend_says_what_was_not_examined():
    context = context_of(film())
    covered = np.ones((240, 200), np.bool_)
    covered[:60] = False
    partly = with_values(context, context.explanation.attribution.values, covered)
    assert "25% of the image was not examined" in said_by(partly)


# --- colours ---


def test_colour_bar_marks_where_paint_and_outline_begin():
    context = context_of(film(np.rint(phantom(800, 800) * 4095)))
    place, scale = placed(context), context.explanation.attribution.scale
    image = render(context.radiograph, context.explanation, place).astype(int)
    bar = picture(image, place.bar)[place.bar.rows // 2]
    floor, salient = (
        round((place.bar.columns - 1) * value / scale.full_scale) for value in (scale.floor, scale.salient)
    )
    unpainted = bar[3 : floor - 5]
    assert np.ptp(unpainted, axis=1).max() <= 1, "grey below the floor"
    assert np.ptp(bar[salient + 10]) > 20
    assert np.ptp(bar[-10]) > 120
    assert (bar[salient] == OUTLINE).all()
    assert (bar[floor] == TEXT).all()


@pytest.mark.parametrize("scale", [(0.0, 0.0, 1.0), (0.0, 0.5, 0.5), (0.9, 0.95, 1.0), (1e-7, 1e-6, 12345.0)])
def test_labels_of_any_scale_stay_apart_and_inside(scale):
    floor, salient, full = scale
    declared = HeatmapScale(floor=floor, salient=salient, full_scale=full, unit="units")
    context = context_of(film())
    attribution = replace(context.explanation.attribution, scale=declared)
    context = replace(context, explanation=replace(context.explanation, attribution=attribution))
    image, place = built(PLUGIN, context).pixel_array, placed(context)
    top = place.bar.top + place.bar.rows + place.text // 4
    band = (image[top : top + line_height(place.text)] != BACKGROUND).any(axis=(0, 2))
    drawn = np.nonzero(band[place.bar.left :])[0]
    parted = int(np.argmax(np.diff(drawn)))
    lengths = [font(place.text).getlength(label) for label in (labels(declared)[0], labels(declared)[2])]
    extents = [np.ptp(part) + 1 for part in (drawn[: parted + 1], drawn[parted + 1 :])]
    assert extents == pytest.approx(lengths, abs=0.3 * place.text), "two labels side by side"
    assert drawn.max() < place.bar.columns


@pytest.mark.parametrize("heat", [0.0, 0.25])
def test_a_burned_in_marker_stays_visible(heat):
    stored = np.zeros((600, 500), np.int64) + 300 + np.arange(500) % 2
    stored[50:150, 50:70] = stored[130:150, 50:110] = 4095  # an L
    context = with_values(context_of(film(stored), options=ResultOptions(long_edge=600)), np.full((600, 500), heat))
    place = placed(context, 600)
    image = picture(render(context.radiograph, context.explanation, place), place.picture).astype(int)
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
    ImageDraw.Draw(image).text((2 * height, 2 * height), letter, fill=TEXT, font=font(height), anchor="mm")
    return cut(np.asarray(image))


def cut(image):
    """What differs from the background, cut out."""
    drawn = image.max(axis=2) > 128
    rows, columns = np.nonzero(drawn)
    return drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize(
    ("orientation", "edges"),
    [
        (["L", "F"], {"left": "R", "right": "L"}),
        (["R", "F"], {"left": "L", "right": "R"}),
        (["F", "L"], {"top": "R", "bottom": "L"}),
        (["F", "R"], {"top": "L", "bottom": "R"}),
        (None, {}),
        (["A", "F"], {}),
    ],
)
def test_letters_of_the_sides_stand_in_the_margins(orientation, edges):
    context = context_of(film(np.rint(phantom(700, 600) * 4095), PatientOrientation=orientation))
    marked = sides(context.radiograph.orientation)
    place = placed(context, marked=marked)
    image = built(PLUGIN, context).pixel_array
    box = place.picture
    margins = {
        "left": image[:, : box.left],
        "right": image[:, box.left + box.columns : place.legend.left],
        "top": image[: box.top, : place.legend.left],
        "bottom": image[box.top + box.rows :, : place.legend.left],
    }
    for name, margin in margins.items():
        if name in edges:
            found, expected = cut(margin), glyph(edges[name], place.text)
            assert found.shape == expected.shape, name
            assert (found == expected).mean() > 0.97, name
        else:
            assert (margin == BACKGROUND).all(), name
    assert ("Sides not stated by the source" in " ".join(line.text for line in place.lines)) == (not edges)


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
    box = layout(
        picture_shape((600, 400), long_edge, (1, 2)),
        legend(with_values(context, np.zeros((600, 400))), UPRIGHT),
        context.explanation.attribution.scale,
        UPRIGHT,
    ).picture
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
    assert (ds.Rows, ds.PhotometricInterpretation) == (1658, "RGB")


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
    place = placed(context, 520)
    shown = picture(render(context.radiograph, context.explanation, place), place.picture).astype(int)
    assert np.ptp(shown, axis=2).max() == 0
    expected = display.resize(context.radiograph.pixels, shown.shape[:2]) * 255
    assert np.abs(shown[..., 0] - expected).max() <= 1


def test_layout_grows_for_whatever_must_be_said():
    context = context_of(film())
    long = (*legend(context, None), Sentence("word " * 100))
    place = layout((512, 512), long, context.explanation.attribution.scale, None)
    assert sum(line.text.count("word") for line in place.lines) == 100
    assert place.legend.top + len(place.lines) * line_height(place.text) < place.bar.top
    assert place.bar.top + 2 * place.bar.rows < place.rows
