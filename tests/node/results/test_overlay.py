import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from contexts import built, context_of, errors_of, film
from PIL import Image
from pydicom import dcmread
from radiographs import ACCEPTED, encode, in_two_halves, phantom, real, reread, synthetic
from readers import region_of

from dicom_node.results.objects.overlay import PLUGIN

OUTLINE, REGION = 0x6000, 0x6002


def planes(ds):
    return tuple(ds.overlay_array(group) > 0 for group in (OUTLINE, REGION))


def marked(context, where):
    """`context` with a heatmap whose evidence is where `where` is true, and 0 elsewhere."""
    attribution = context.explanation.attribution
    values = where.astype(np.float32) * attribution.scale.full_scale
    return replace(context, explanation=replace(context.explanation, attribution=replace(attribution, values=values)))


def nothing(context):
    return marked(context, np.zeros(context.radiograph.pixels.shape, np.bool_))


def square(shape, top, left, side):
    where = np.zeros(shape, np.bool_)
    where[top : top + side, left : left + side] = True
    return where


# --- pixels ---


@pytest.mark.parametrize("bits", [6, 8, 10, 12, 14, 15, 16])
def test_pixels_have_the_depth_of_the_source(bits, tmp_path):
    context = context_of(film(np.rint(phantom() * ((1 << bits) - 1)), bits=bits))
    ds = reread(built(PLUGIN, context))
    stored = max(bits, 8)
    assert (ds.BitsStored, ds.HighBit, ds.BitsAllocated) == (stored, stored - 1, 8 if stored == 8 else 16)
    seen, full = context.radiograph.pixels, (1 << stored) - 1
    undisturbed = slice(0, 200)  # the disclaimer is below
    assert np.abs(ds.pixel_array[undisturbed] - seen[undisturbed].astype(float) * full).max() <= 0.51
    assert (ds.WindowCenter, ds.WindowWidth) == (full // 2 + 1, full + 1)
    assert errors_of(ds, tmp_path) == []


def test_disclaimer_is_burned_in():
    context = context_of(film())
    ds = built(PLUGIN, context)
    assert ds.BurnedInAnnotation == "YES"
    changed = np.abs(ds.pixel_array / 4095 - context.radiograph.pixels) > 0.01
    assert changed[-20:].any()
    assert not changed[:-40].any()


def test_which_image_it_is_is_burned_in_and_in_no_plane():
    context = context_of(film())
    numbered = replace(context, header=context_of(film(SeriesNumber="2", InstanceNumber="7")).header)
    bare = replace(context, header=context_of(film(SeriesNumber=None, InstanceNumber=None, ViewPosition=None)).header)
    one, other, none = (built(PLUGIN, each) for each in (context, numbered, bare))
    for first, second in ((one, other), (one, none)):
        assert (first.pixel_array != second.pixel_array)[-40:].any()
        assert np.array_equal(first.pixel_array[:-40], second.pixel_array[:-40])
        assert np.array_equal(planes(first), planes(second))


def test_source_is_shown_where_it_was():
    ds = built(PLUGIN, film(PixelSpacing=["0.2", "0.3"]))
    assert (ds.Rows, ds.Columns, list(ds.PixelSpacing)) == (240, 200, [0.2, 0.3])
    assert ds.SourceImageSequence[0].SpatialLocationsPreserved == "YES"


# --- planes ---


@pytest.mark.parametrize("shape", [(240, 200), (131, 201), (243, 203), (201, 135)])
def test_planes_of_any_row_length(shape, tmp_path):
    where = square(shape, 41, 63, 37) | square(shape, shape[0] - 30, shape[1] - 30, 30)
    ds = reread(built(PLUGIN, marked(context_of(film(np.rint(phantom(*shape) * 4095))), where)))
    assert np.array_equal(region_of(ds, shape), where)
    for group in (OUTLINE, REGION):
        data = ds[group, 0x3000].value
        assert len(data) == 2 * -(-shape[0] * shape[1] // 16)
        assert (ds[group, 0x0010].value, ds[group, 0x0011].value) == shape
        assert list(ds[group, 0x0050].value) == [1, 1]
        assert (ds[group, 0x0100].value, ds[group, 0x0102].value) == (1, 0)
        assert (group, 0x0015) not in ds  # number of frames: of a multi-frame overlay
        assert (group, 0x0051) not in ds
    assert errors_of(ds, tmp_path) == []


def test_first_plane_is_the_outline_and_second_the_region():
    context = context_of(film())
    ds = reread(built(PLUGIN, context))
    _, region = planes(ds)
    assert np.array_equal(region, context.explanation.attribution.half_of_evidence)
    assert [ds[group, 0x0040].value for group in (OUTLINE, REGION)] == ["G", "R"]
    assert [ds[group, 0x1500].value for group in (OUTLINE, REGION)] == [
        "Half of the evidence: outline",
        "Half of the evidence",
    ]
    assert ds[OUTLINE, 0x0022].value == "Half of the evidence", "the probability is of the image, not of the region"
    assert ds[REGION, 0x0022].value == "Half of the evidence: heatmap above 0.02"


def test_outline_follows_the_border():
    where = square((240, 200), 100, 60, 50)
    outline, _ = planes(reread(built(PLUGIN, marked(context_of(film()), where))))
    for across, edges in ((outline[105:145], (60, 110)), (outline[110:170, 65:105].T, (40,))):
        assert across.any(axis=1).all()
        centres = np.flatnonzero(across.any(axis=0)) + 0.5
        distances = np.abs(centres[:, np.newaxis] - edges)
        assert distances.min(axis=1).max() <= 1.5  # the line is 2 pixels wide
        assert distances.min(axis=0).max() <= 0.5
    assert outline[80:95, 60:150].any()  # the words, above


def test_statistics_are_those_of_the_pixels_in_the_region():
    ds = reread(built(PLUGIN, film()))
    _, region = planes(ds)
    values = ds.pixel_array[region]
    assert ds[REGION, 0x1301].value == region.sum() == values.size
    assert ds[REGION, 0x1302].value == pytest.approx(values.mean())
    assert ds[REGION, 0x1303].value == pytest.approx(values.std())
    assert (OUTLINE, 0x1301) not in ds


def test_without_a_region_there_is_no_plane_of_it_and_the_text_says_so(tmp_path):
    context = context_of(film())
    ds = reread(built(PLUGIN, nothing(context)))
    assert (REGION, 0x3000) not in ds
    assert not region_of(ds, (240, 200)).any()
    assert ds[OUTLINE, 0x0022].value == "No evidence above the scale's floor"
    text = ds.overlay_array(OUTLINE) > 0
    assert text.any()
    assert not text[80:].any()
    assert errors_of(ds, tmp_path) == []
    faint = replace(context.explanation.attribution, values=np.full((240, 200), 0.02, np.float32))
    shown = built(PLUGIN, replace(context, explanation=replace(context.explanation, attribution=faint)))
    assert (REGION, 0x3000) not in shown, "a value at the floor is none"


def test_text_in_the_plane_is_within_it():
    for shape in ((130, 390), (390, 130)):
        context = context_of(film(np.rint(phantom(*shape) * 4095)))
        for text in (nothing(context), marked(context, square(shape, 0, shape[1] - 40, 40))):
            ds = reread(built(PLUGIN, text))
            plane = ds.overlay_array(OUTLINE) > 0
            assert plane.any()
            assert not plane[:, -1].any() or plane[:, -1].sum() <= 42  # cut letters would stand on the last column


@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm"))
def test_real_files_give_valid_overlays(name, tmp_path):
    ds = built(PLUGIN, dcmread(real(name)))
    assert errors_of(ds, tmp_path) == []


# --- dcmtk ---


def drawn(path, folder, *options):
    """The image as dcm2pnm shows it, 8 bits."""
    program = shutil.which("dcm2pnm")
    assert program is not None, "dcm2pnm is missing: install dcmtk"
    out = folder / "drawn.pgm"
    subprocess.run([program, "+Wi", "1", *options, path, out], check=True, capture_output=True)
    return np.asarray(Image.open(out)).astype(int)


@pytest.mark.external
@pytest.mark.parametrize("shape", [(240, 200), (243, 201), (131, 203)])
def test_dcmtk_draws_both_planes(shape, tmp_path):
    ds = built(PLUGIN, film(np.rint(phantom(*shape) * 4095)))
    path = tmp_path / "overlay.dcm"
    path.write_bytes(encode(ds))
    outline, region = planes(reread(ds))
    bare = drawn(path, tmp_path, "-O")
    with_outline = drawn(path, tmp_path, "+O", "1")
    assert (with_outline[outline] == 255).all()
    assert np.array_equal(with_outline[~outline], bare[~outline])
    # A region of interest is left as it is, and all around it darkened.
    with_region = drawn(path, tmp_path, "+O", "2")
    assert np.array_equal(with_region[region], bare[region])
    around = ~region & (bare > 50)
    assert (with_region[around] < 0.2 * bare[around]).all()


@pytest.mark.external
def test_dcmtk_does_not_darken_an_image_without_a_region(tmp_path):
    ds = built(PLUGIN, nothing(context_of(film())))
    path = tmp_path / "overlay.dcm"
    path.write_bytes(encode(ds))
    text = reread(ds).overlay_array(OUTLINE) > 0
    assert np.array_equal(drawn(path, tmp_path)[~text], drawn(path, tmp_path, "-O")[~text])


@pytest.mark.external
@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "siim_one/siim_fake_mono1.dcm"])
def test_dcmtk_shows_real_files_as_the_model_saw_them(name, tmp_path):
    context = context_of(dcmread(real(name)))
    path = tmp_path / "overlay.dcm"
    path.write_bytes(encode(built(PLUGIN, context)))
    rows = context.radiograph.pixels.shape[0]
    kept = slice(0, rows - rows // 8)  # the disclaimer is below
    shown = drawn(path, tmp_path, "-O") / 255
    assert np.abs(shown[kept] - context.radiograph.pixels[kept]).max() < 0.01


def test_same_context_same_bytes():
    assert encode(built(PLUGIN, context_of(synthetic()))) == encode(built(PLUGIN, context_of(synthetic())))
