import shutil
import subprocess
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from contexts import built, context_of, errors_of, film, study_context
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage
from radiographs import ACCEPTED, encode, in_two_halves, phantom, real, reread, synthetic
from readers import polygon, polylines, region_of
from toy_explainer import ToyExplainer

from dicom_node.dicom import pixels
from dicom_node.results import SourceReference
from dicom_node.results.bands import LEAST_SHARE
from dicom_node.results.legend import RESEARCH_USE
from dicom_node.results.notes import limits_of
from dicom_node.results.objects.presentation_state import PLUGIN, SOURCE_LAYER
from dicom_node.results.regions import MOST_POINTS, contours
from dicom_node.results.text import READABLE, font, line_height
from explain_core import display

GREY = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence")
RESCALE = ("RescaleSlope", "RescaleIntercept", "RescaleType", "PresentationLUTShape")


def marked(context, where):
    """`context` with a heatmap whose evidence is where `where` is true, and 0 elsewhere."""
    attribution = context.explanation.attribution
    values = where.astype(np.float32) * attribution.scale.full_scale
    return replace(context, explanation=replace(context.explanation, attribution=replace(attribution, values=values)))


def box(shape, rows, columns):
    where = np.zeros(shape, np.bool_)
    where[slice(*rows), slice(*columns)] = True
    return where


def texts(ds):
    return [item for layer in ds.GraphicAnnotationSequence for item in layer.get("TextObjectSequence", ())]


def said_in(ds):
    return " ".join(" ".join(item.UnformattedTextValue.split()) for item in texts(ds))


# --- lines ---


def test_polylines_count_from_the_corner_of_the_first_pixel():
    context = context_of(film())
    ds = reread(built(PLUGIN, marked(context, box((240, 200), (40, 80), (60, 110)))))
    (line,) = polylines(ds)
    assert line.min(axis=0).tolist() == [60, 40]  # column, row: the left edge of pixel 60, the upper of pixel 40
    assert line.max(axis=0).tolist() == [110, 80]
    assert np.array_equal(line[0], line[-1])


def test_a_region_that_fills_the_image_is_outlined_at_its_border():
    ds = reread(built(PLUGIN, marked(context_of(film()), np.ones((240, 200), np.bool_))))
    (line,) = polylines(ds)
    assert (*line.min(axis=0), *line.max(axis=0)) == (0, 0, 200, 240)


def test_region_with_a_hole_is_read_back_as_it_was():
    where = box((243, 201), (30, 130), (20, 150)) & ~box((243, 201), (60, 90), (50, 100))
    where |= box((243, 201), (200, 230), (170, 195))
    ds = reread(built(PLUGIN, marked(context_of(film(np.rint(phantom(243, 201) * 4095))), where)))
    assert len(polylines(ds)) == 3
    assert np.array_equal(region_of(ds, where.shape), where)


def test_the_second_reader_knows_the_convention():
    assert np.argwhere(polygon([(2, 1), (4, 1), (4, 2), (2, 2), (2, 1)], (3, 6))).tolist() == [[1, 2], [1, 3]]
    assert not polygon([(2.6, 1), (3.4, 1), (3.4, 2), (2.6, 2), (2.6, 1)], (3, 6)).any()


def test_region_of_the_toy_model_is_read_back():
    context = context_of(film())
    where = context.explanation.attribution.half_of_evidence
    assert where.any()
    assert np.mean(region_of(reread(built(PLUGIN, context)), where.shape) != where) < 0.002


@pytest.mark.slow
def test_no_line_is_longer_than_its_element_holds(tmp_path):
    comb = np.zeros((240, 200), np.bool_)
    comb[:, 0] = comb[2::6] = True
    comb[1::6, ::2] = comb[3::6, ::2] = True  # bars with teeth above and below
    context = marked(context_of(film()), comb)
    (whole,) = display.outlines(comb, holes=True)
    (line,) = contours(context.explanation)
    assert len(line) <= MOST_POINTS < len(whole)
    assert np.array_equal(line[0], line[-1])
    ds = reread(built(PLUGIN, context))
    assert np.array_equal(polylines(ds), [line])
    assert errors_of(ds, tmp_path) == []


def test_without_evidence_there_is_text_alone(tmp_path):
    context = marked(context_of(film()), np.zeros((240, 200), np.bool_))
    ds = built(PLUGIN, context)
    assert polylines(ds) == []
    assert [layer.GraphicLayer for layer in ds.GraphicLayerSequence] == ["TEXT"]
    assert said_in(ds).startswith("Lung opacity: likely 73 % (threshold 50 %), no evidence above the scale's floor")
    assert ds.ContentDescription == "No evidence above the scale's floor"
    speck = marked(context_of(film(np.rint(phantom(1200, 1000) * 4095))), box((1200, 1000), (50, 60), (50, 60)))
    assert built(PLUGIN, speck).ContentDescription == "Half of the evidence: only specks, not outlined"
    assert errors_of(ds, tmp_path) == []


# --- text ---


def test_text_says_what_is_to_be_known():
    ds = built(PLUGIN, film(), explainer=ToyExplainer(roughness_limit=0.0001, margin=0.9))
    (legend,) = [item for item in texts(ds) if "AnchorPoint" not in item]
    assert legend.UnformattedTextValue.split("\r\n") == [
        "Lung opacity: uncertain 73 % (threshold 50 %), left middle zone",
        "Unlike the training images",
        "toy 0.0.1. Research use only. Not for diagnosis.",
    ]
    calm = said_in(built(PLUGIN, film(), explainer=ToyExplainer(roughness_limit=1.0, margin=0.0)))
    assert "likely 73 %" in calm
    assert "Unlike" not in calm


def test_the_probability_is_not_pinned_to_a_region():
    ds = built(PLUGIN, film())
    (pinned,) = [item.UnformattedTextValue for item in texts(ds) if "AnchorPoint" in item]
    assert pinned == ds.ContentDescription == "Half of the evidence"
    assert said_in(ds).count("73 %") == 1


@pytest.mark.parametrize(
    ("explainer", "lines"),
    [
        (ToyExplainer(), 2),
        (ToyExplainer(margin=0.9), 2),
        (ToyExplainer(margin=0.9, roughness_limit=0.0001), 3),
    ],
)
def test_text_covers_little_of_a_radiograph(explainer, lines):
    context = context_of(dcmread(real("RG1_UNCR.dcm")), explainer=explainer)
    rows = context.radiograph.pixels.shape[0]
    (legend,) = [item for item in texts(built(PLUGIN, context)) if RESEARCH_USE in item.UnformattedTextValue]
    written = legend.UnformattedTextValue.split("\r\n")
    box = (*legend.BoundingBoxTopLeftHandCorner, *legend.BoundingBoxBottomRightHandCorner)
    assert len(written) <= lines
    assert box[3] - box[1] <= rows * lines / 24
    height = next(size for size in range(8, rows) if line_height(size) * len(written) >= box[3] - box[1])
    assert rows / LEAST_SHARE <= height <= rows / READABLE + 1
    assert max(font(height).getlength(line) for line in written) <= box[2] - box[0]


def test_text_is_ascii():
    context = context_of(film())
    prediction = replace(context.explanation.prediction, label="Verschattung der Lünge\\x")
    ds = built(PLUGIN, replace(context, explanation=replace(context.explanation, prediction=prediction)))
    assert all(item.UnformattedTextValue.isascii() and "\\" not in item.UnformattedTextValue for item in texts(ds))
    assert "Verschattung der Lunge" in said_in(ds)


@pytest.mark.parametrize("shape", [(240, 200), (130, 390), (390, 130), (1200, 1000)])
@pytest.mark.parametrize("where", ["top left", "bottom right", "everywhere"])
def test_text_stays_within_the_image(shape, where):
    rows, columns = shape
    places = {"top left": ((0, 20), (0, 20)), "bottom right": ((rows - 20, rows), (columns - 20, columns))}
    region = box(shape, *places.get(where, ((0, rows), (0, columns))))
    explainer = ToyExplainer(roughness_limit=0.0001, margin=0.9)
    context = context_of(film(np.rint(phantom(*shape) * 4095)), explainer=explainer)
    found = texts(built(PLUGIN, marked(context, region)))
    assert len(found) == 1 + (where == "everywhere" or rows < 1000), "a speck is not outlined"
    for item in found:
        left, top, right, bottom = (*item.BoundingBoxTopLeftHandCorner, *item.BoundingBoxBottomRightHandCorner)
        assert 0 <= left < right <= columns
        assert 0 <= top < bottom <= rows
        assert item.BoundingBoxAnnotationUnits == "PIXEL"
        if "AnchorPoint" in item:
            assert region[min(int(item.AnchorPoint[1]), rows - 1), min(int(item.AnchorPoint[0]), columns - 1)]


def test_legend_is_where_less_evidence_is():
    context = context_of(film())
    for rows, expected in (((0, 60), "below"), ((180, 240), "above")):
        ds = built(PLUGIN, marked(context, box((240, 200), rows, (0, 200))))
        disclaimer = next(item for item in texts(ds) if "Research use" in item.UnformattedTextValue)
        assert (disclaimer.BoundingBoxTopLeftHandCorner[1] > 120) == (expected == "below")


def test_layers_have_colours_that_can_be_told_apart():
    ds = built(PLUGIN, film())
    colours = {
        layer.GraphicLayer: hd.color.CIELabColor.from_dicom_value(
            layer.GraphicLayerRecommendedDisplayCIELabValue
        ).to_rgb(clip=True)
        for layer in ds.GraphicLayerSequence
    }
    assert np.allclose(colours["EXPLANATION"], (110, 220, 255), atol=20)
    assert np.allclose(colours["TEXT"], (255, 190, 60), atol=20)
    assert [layer.GraphicLayerOrder for layer in ds.GraphicLayerSequence] == [1, 2]
    assert [item.GraphicLayer for item in ds.GraphicAnnotationSequence] == list(colours)


# --- what it refers to, and how that is shown ---


def test_it_refers_to_the_source():
    source = film()
    ds = built(PLUGIN, source)
    assert ds.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage
    assert (ds.Modality, ds.SeriesNumber, ds.PatientID) == ("PR", 9904, "CANARY7")
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    layers = (*ds.DisplayedAreaSelectionSequence, *ds.GraphicAnnotationSequence)
    for item in (series, *layers):
        (image,) = item.ReferencedImageSequence
        assert image.ReferencedSOPClassUID == source.SOPClassUID
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_same_context_same_bytes():
    assert encode(built(PLUGIN, context_of(film()))) == encode(built(PLUGIN, context_of(film())))


def test_two_images_have_one_each():
    first = context_of(film())
    other = film(SOPInstanceUID="1.2.3.4.9")
    made = PLUGIN.build(study_context(first, context_of(other)))
    assert [one.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID for one in made] == [
        "1.2.3.4.1",
        "1.2.3.4.9",
    ]
    assert made[0].SOPInstanceUID != made[1].SOPInstanceUID


def test_refuses_only_what_cannot_be_referred_to():
    context = context_of(film())
    assert PLUGIN.refuses(context) is None
    for sop_class in ("1.2.3.4", "", "1.2.840.10008.1.2.1"):
        source = SourceReference(
            study_instance_uid="1", series_instance_uid="2", sop_class_uid=sop_class, sop_instance_uid="3"
        )
        assert "SOP Class" in PLUGIN.refuses(replace(context, image=replace(context.image, source=source)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PixelSpacing": ["0.2", "0.2"]}, ("PresentationPixelSpacing", [0.2, 0.2])),
        ({"PixelSpacing": ["0.2", "0.1"]}, ("PresentationPixelSpacing", [0.2, 0.1])),
        (
            {"PixelSpacing": None, "ImagerPixelSpacing": ["0.143", "0.1"]},
            ("PresentationPixelAspectRatio", [143, 100]),
        ),
        ({"PixelSpacing": ["0", "0"]}, ("PresentationPixelAspectRatio", [1, 1])),
        ({"PixelSpacing": None, "PixelAspectRatio": ["3", "2"]}, ("PresentationPixelAspectRatio", [3, 2])),
        ({"PixelSpacing": None}, ("PresentationPixelAspectRatio", [1, 1])),
    ],
)
def test_displayed_area_is_the_whole_image_in_its_proportions(changes, expected, tmp_path):
    ds = built(PLUGIN, film(**changes))
    (area,) = ds.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [200, 240]
    assert area.PresentationSizeMode == "SCALE TO FIT"
    keyword, value = expected
    assert list(area[keyword].value) == value
    assert ("PresentationPixelSpacing" in area) != ("PresentationPixelAspectRatio" in area)
    assert errors_of(ds, tmp_path) == []


def table(first, entries, bits, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    item.LUTExplanation = "Größe"
    return item


def curve(count, top):
    return np.rint(top * np.linspace(0, 1, count) ** 0.7).astype(int)


SIGNED = np.rint(phantom() * 3000).astype(int) - 1000
SOURCES = {
    "window": film,
    "inverse": lambda: film(PhotometricInterpretation="MONOCHROME1"),
    "inverse shape": lambda: film(PresentationLUTShape="INVERSE"),
    "said twice": lambda: film(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
    "several windows": lambda: film(WindowCenter=["500", "2048"], WindowWidth=["0", "1000"]),
    "exact": lambda: film(VOILUTFunction="LINEAR_EXACT", WindowCenter="2500", WindowWidth="1500"),
    "exact and narrow": lambda: film(
        VOILUTFunction="LINEAR_EXACT",
        WindowCenter="0.25",
        WindowWidth="0.15",
        RescaleSlope="0.0001",
        RescaleIntercept="0",
    ),
    "sigmoid": lambda: film(VOILUTFunction="SIGMOID", WindowCenter="2500", WindowWidth="1500"),
    "8 bits": lambda: synthetic(bits=8),
    "no window": synthetic,
    "rescaled without window": lambda: synthetic(RescaleSlope="0.5", RescaleIntercept="-10"),
    "no window that shows anything": lambda: synthetic(WindowCenter="-9000", WindowWidth="10"),
    "first window shows nothing": lambda: film(WindowCenter=["-9000", "2048"], WindowWidth=["10", "4096"]),
    "first window shows all white": lambda: film(WindowCenter=["90000", "2048"], WindowWidth=["10", "4096"]),
    "VOI LUT shows nothing": lambda: film(VOILUTSequence=Sequence([table(9000, curve(100, 1023), 10)])),
    "first VOI LUT shows nothing": lambda: film(
        VOILUTSequence=Sequence([table(9000, curve(100, 1023), 10), table(0, curve(4096, 1023), 10)])
    ),
    "empty LUT items": lambda: film(ModalityLUTSequence=Sequence([Dataset()]), VOILUTSequence=Sequence([Dataset()])),
    "signed": lambda: synthetic(SIGNED, bits=14, signed=True, WindowCenter="500", WindowWidth="2000"),
    "rescaled": lambda: film(RescaleSlope="2", RescaleIntercept="-1024", WindowCenter="3000", WindowWidth="6000"),
    "negative slope": lambda: film(RescaleSlope="-1", RescaleIntercept="4095"),
    "VOI LUT": lambda: film(VOILUTSequence=Sequence([table(0, curve(4096, 1023), 10)])),
    "VOI LUT of wrong depth": lambda: film(VOILUTSequence=Sequence([table(100, curve(3000, 1023), 16)])),
    "VOI LUT of 4 bits": lambda: film(VOILUTSequence=Sequence([table(0, curve(4096, 15), 8)])),
    "signed VOI LUT": lambda: synthetic(
        SIGNED, bits=14, signed=True, VOILUTSequence=Sequence([table(-1000, curve(3000, 4095), 12, "SS")])
    ),
    "signed VOI LUT that says it is not": lambda: synthetic(
        SIGNED, bits=14, signed=True, VOILUTSequence=Sequence([table(65536 - 1000, curve(3000, 4095), 12)])
    ),
    "long VOI LUT": lambda: synthetic(
        np.rint(phantom() * 65535), bits=16, VOILUTSequence=Sequence([table(0, curve(65535, 65535), 16)])
    ),
    "modality LUT": lambda: film(ModalityLUTSequence=Sequence([table(0, curve(4096, 4095), 12)])),
    "modality LUT, exact": lambda: film(
        ModalityLUTSequence=Sequence([table(0, curve(4096, 4095), 12)]),
        VOILUTFunction="LINEAR_EXACT",
        WindowCenter="2000",
        WindowWidth="1500",
    ),
    "modality LUT, sigmoid": lambda: film(
        ModalityLUTSequence=Sequence([table(0, curve(4096, 4095), 12)]), VOILUTFunction="SIGMOID"
    ),
    "both LUTs": lambda: film(
        ModalityLUTSequence=Sequence([table(10, curve(4000, 4095), 12)]),
        VOILUTSequence=Sequence([table(500, curve(3000, 255), 8)]),
    ),
}


def shown_by(ds, source):
    """The source as a viewer shows it that takes every transformation from the presentation state."""
    bare = reread(source)
    for keyword in (*GREY, *RESCALE):
        bare.pop(keyword, None)
    bare.PhotometricInterpretation = "MONOCHROME2"
    for keyword in (*RESCALE, "ModalityLUTSequence"):
        if keyword in ds:
            bare[keyword] = ds[keyword]
    for element in ds.SoftcopyVOILUTSequence[0]:
        bare[element.tag] = element
    return pixels.radiograph(reread(bare)).pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_the_image_is_shown_as_the_model_saw_it(name, tmp_path):
    source = SOURCES[name]()
    context = context_of(source)
    ds = reread(built(PLUGIN, context))
    assert np.abs(shown_by(ds, source) - context.radiograph.pixels).max() < 2e-5
    assert errors_of(ds, tmp_path) == []
    assert "Größe" not in str(ds)


@pytest.mark.parametrize("name", ["signed VOI LUT", "signed VOI LUT that says it is not"])
def test_tables_of_signed_values_begin_below_zero(name):
    (voi,) = reread(built(PLUGIN, SOURCES[name]())).SoftcopyVOILUTSequence
    descriptor = voi.VOILUTSequence[0]["LUTDescriptor"]
    assert (descriptor.VR, list(descriptor.value)) == ("SS", [3000, -1000, 16])


def test_a_modality_lut_stands_for_the_rescale_values_beside_it():
    lut = Sequence([table(0, curve(4096, 4095), 12)])
    ds = built(PLUGIN, film(ModalityLUTSequence=lut, RescaleSlope="2", RescaleIntercept="0"))
    assert "RescaleSlope" not in ds
    assert "ModalityLUTSequence" not in ds  # it is in the VOI LUT


@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm"))
def test_real_files_give_valid_states(name, tmp_path):
    assert errors_of(built(PLUGIN, dcmread(real(name))), tmp_path) == []


# --- dcmtk ---


def dcmtk(program, *arguments):
    path = shutil.which(program)
    assert path is not None, f"{program} is missing: install dcmtk"
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=False, errors="replace")


def native(source, folder):
    """A file that dcmp2pgm can read: uncompressed, with a patient's name, without which it opens no state."""
    if source.file_meta.TransferSyntaxUID.is_compressed:
        source.decompress()
    source.PatientName = source.get("PatientName") or "Nobody"
    path = folder / "source.dcm"
    source.save_as(path, enforce_file_format=True)
    return path


def applied(source, folder):
    """What dcmp2pgm shows of `source` with our state, 0..1, and what the model saw."""
    path = native(source, folder)
    context = context_of(dcmread(path))
    state = folder / "state.dcm"
    state.write_bytes(encode(built(PLUGIN, context)))
    ran = dcmtk("dcmp2pgm", "-p", state, path, folder / "shown.pgm")
    assert ran.returncode == 0, ran.stderr
    return np.asarray(Image.open(folder / "shown.pgm")) / 255, context.radiograph.pixels


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "siim_one/siim_fake_mono1.dcm", "nih_google_udacity/test1.dcm"])
def test_dcmtk_shows_real_files_as_the_model_saw_them(name, tmp_path):
    shown, seen = applied(dcmread(real(name)), tmp_path)
    assert np.abs(shown - seen).max() < 0.01


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.parametrize(
    "name", sorted(set(SOURCES) - {"exact", "exact and narrow", "sigmoid"})
)  # dcmtk 3.6.7 knows linear windows only
def test_dcmtk_applies_every_transformation(name, tmp_path):
    shown, seen = applied(SOURCES[name](), tmp_path)
    assert np.abs(shown - seen).max() < 0.01


@pytest.mark.external
def test_overlays_of_the_source_stay_switched_on(tmp_path):
    """A marker of the side may lie there; without an activation layer viewers may hide it."""
    source = synthetic(WindowCenter="2048", WindowWidth="4096", TimezoneOffsetFromUTC="-0500")
    for keyword, vr, value in (
        (0x0010, "US", source.Rows), (0x0011, "US", source.Columns), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1), (0x0102, "US", 0), (0x3000, "OW", bytes(source.Rows * source.Columns // 8)),
    ):  # fmt: skip
        source.add_new((0x6002, keyword), vr, value)
    context = context_of(reread(source))
    state = built(PLUGIN, context)
    assert state[0x6002, 0x1001].value == SOURCE_LAYER
    assert (0x6000, 0x1001) not in state
    layers = {one.GraphicLayer: one.GraphicLayerOrder for one in state.GraphicLayerSequence}
    assert layers[SOURCE_LAYER] == 1
    assert len(set(layers.values())) == len(layers)
    assert_passes(state, tmp_path)
    (said,) = [one for one in limits_of(context.header) if "overlays of its own" in one]
    assert "side" in said
    assert not any("overlays" in one for one in limits_of(context_of(synthetic()).header))
    assert (0x6002, 0x3000) not in context.header


@pytest.mark.external
@pytest.mark.parametrize("shape", ["RECTANGULAR", "CIRCULAR", "POLYGONAL"])
def test_the_sources_shutter_is_the_states(shape, tmp_path):
    rows, columns = 240, 200
    numbers = {
        "RECTANGULAR": {"ShutterLeftVerticalEdge": 11, "ShutterRightVerticalEdge": 190,
                        "ShutterUpperHorizontalEdge": 21, "ShutterLowerHorizontalEdge": 220},
        "CIRCULAR": {"CenterOfCircularShutter": [120, 100], "RadiusOfCircularShutter": 80},
        "POLYGONAL": {"VerticesOfThePolygonalShutter": [20, 20, 20, 180, 220, 180, 220, 20]},
    }[shape]  # fmt: skip
    bright = np.full((rows, columns), 3000)
    bright[::2] = 2000
    source = synthetic(bright, WindowCenter="2048", WindowWidth="4096", ShutterShape=shape, **numbers)
    state = built(PLUGIN, context_of(source))
    assert (state.ShutterShape, state.ShutterPresentationValue) == (shape, 0)
    assert "ShutterShape" not in built(PLUGIN, context_of(synthetic(bright)))
    source.TimezoneOffsetFromUTC = "-0500"
    assert_passes(built(PLUGIN, reread(source)), tmp_path)


@pytest.mark.external
@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG1_J2KR.dcm", "siim_one/siim_cr_jpegbaseline.dcm"])
def test_dcmpschk_passes_real_files(name, tmp_path):
    source = dcmread(real(name))
    source.TimezoneOffsetFromUTC = "-0500"  # dcmpschk 3.6.7 takes no date and time with a + (PS3.5 6.2 does)
    assert_passes(built(PLUGIN, reread(source)), tmp_path)


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.parametrize("name", SOURCES)
def test_dcmpschk_passes(name, tmp_path):
    source = SOURCES[name]()
    source.TimezoneOffsetFromUTC = "-0500"
    assert_passes(built(PLUGIN, reread(source)), tmp_path)


def assert_passes(ds, folder):
    path = folder / "state.dcm"
    path.write_bytes(encode(ds))
    ran = dcmtk("dcmpschk", path)
    assert "Test passed" in ran.stderr, ran.stderr
