"""The binary Segmentation: half of the evidence exactly, on the source's grid, with honest geometry."""

import io

import highdicom as hd
import numpy as np
import pytest
from contexts import built, context_of, errors_of, film, study_context
from oddities import (
    NAMES,
    ODD,
    PAIRED,
    PLANE,
    SYNTAXES,
    assert_names_kept,
    assert_repeatable,
    named,
    with_attribution,
    with_prediction,
)
from radiographs import ACCEPTED, encode, in_two_halves, phantom, real, reread
from toy_explainer import TOY_MODEL

from dicom_node.dicom import reading
from dicom_node.results import codes
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.objects.segmentation import PLUGIN


def region(context):
    return context.explanation.attribution.half_of_evidence


def spotted(context, *pixels):
    """The context with a heatmap that has evidence in these pixels alone."""
    values = np.zeros_like(context.explanation.attribution.values)
    for row, column in pixels:
        values[row, column] = 1
    return with_attribution(context, values=values)


@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm", "RG1_J2KR.dcm"))
def test_real_images(name, tmp_path):
    context = context_of(reading.read(real(name)))
    if PLUGIN.refuses(context) is not None:
        assert not region(context).any()
        context = spotted(context, (0, 0), (5, 7))
    ds = built(PLUGIN, context)
    assert errors_of(ds, tmp_path) == []
    assert np.array_equal(reread(ds).pixel_array, region(context))


@pytest.mark.slow
@pytest.mark.parametrize("plane", [{}, PLANE], ids=["flat", "plane"])
@pytest.mark.parametrize("name", ODD | PAIRED)
def test_odd_sources(name, plane, tmp_path):
    context = context_of(film(**(ODD | PAIRED)[name], **plane))
    assert PLUGIN.refuses(context) is None
    ds = built(PLUGIN, context)
    assert errors_of(ds, tmp_path) == []
    assert np.array_equal(reread(ds).pixel_array, region(context))


@pytest.mark.parametrize("shape", [(241, 203), (240, 200), (131, 257), (203, 241)])
def test_every_pixel_is_where_it_was(shape):
    """Rows of an odd length share bytes: corners and neighbours of byte borders are the ones to go wrong."""
    context = context_of(film(np.rint(phantom(*shape) * 4095)))
    rows, columns = shape
    pixels = [(0, 0), (0, columns - 1), (1, 0), (rows - 1, 0), (rows - 1, columns - 1), (7, 8), (100, 99)]
    context = spotted(context, *pixels)
    ds = built(PLUGIN, context)
    (frame,) = hd.seg.segread(io.BytesIO(encode(ds))).get_pixels_by_source_instance(["1.2.3.4.1"], segment_numbers=[1])
    assert sorted(zip(*np.nonzero(frame[..., 0]), strict=True)) == sorted(pixels)
    assert len(ds.PixelData) == -(-rows * columns // 16) * 2


def test_what_no_copy_saw_is_no_evidence():
    context = context_of(film())
    covered = np.ones_like(region(context))
    covered[: covered.shape[0] // 2] = False
    ds = built(PLUGIN, with_attribution(context, covered=covered))
    mask = reread(ds).pixel_array.astype(bool)
    assert not mask[~covered].any()
    assert mask.sum() < region(context).sum()


def test_no_region_no_segmentation():
    context = spotted(context_of(film()))
    assert "no evidence above" in PLUGIN.refuses(context)
    assert PLUGIN.refuses(spotted(context, (3, 3))) is None
    assert PLUGIN.build(study_context(context, images=())) == ()


@pytest.mark.parametrize(
    ("changes", "spacing", "sentence"),
    [
        ({}, [0.2, 0.2], "is the source's Pixel Spacing."),
        ({"PixelSpacing": ["0.1", "0.3"]}, [0.1, 0.3], "is the source's Pixel Spacing."),
        ({"ImagerPixelSpacing": ["0.5", "0.5"]}, [0.2, 0.2], "is the source's Pixel Spacing."),
        ({"PixelSpacing": None, "ImagerPixelSpacing": ["0.14", "0.15"]}, [0.14, 0.15], "Imager Pixel Spacing, at"),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.14", "0.14"]}, [0.14, 0.14], "Imager Pixel Spacing"),
        ({"PixelSpacing": None}, [1, 1], "1 mm is ASSUMED"),
        ({"PixelSpacing": ["0", "0"]}, [1, 1], "1 mm is ASSUMED"),
        ({"PixelSpacing": ["-0.2", "0.2"]}, [1, 1], "1 mm is ASSUMED"),
        ({"PixelSpacing": ["0.2"]}, [1, 1], "1 mm is ASSUMED"),
        ({"PixelSpacing": ["1e400", "1"]}, [1, 1], "1 mm is ASSUMED"),
    ],
)
def test_spacing_and_where_it_comes_from(changes, spacing, sentence):
    ds = reread(built(PLUGIN, film(**changes)))
    (measures,) = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert [float(value) for value in measures.PixelSpacing] == spacing
    assert "SpacingBetweenSlices" not in measures
    described = ds.SegmentSequence[0].SegmentDescription
    assert sentence in described
    assert ("ASSUMED" in described) == (spacing == [1, 1])


def test_a_source_without_a_plane_gets_the_orientation_of_the_picture_and_no_place():
    ds = reread(built(PLUGIN, film()))
    shared, frame = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert "FrameOfReferenceUID" not in ds
    assert "PlanePositionSequence" not in shared
    assert "PlanePositionSequence" not in frame
    assert "not of the patient" in ds.SegmentSequence[0].SegmentDescription
    assert list(ds.PatientOrientation) == ["L", "F"]
    assert ds.BodyPartExamined == "CHEST"


def test_a_source_with_a_plane_keeps_it():
    ds = reread(built(PLUGIN, film(**PLANE)))
    shared, frame = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
    assert ds.FrameOfReferenceUID == PLANE["FrameOfReferenceUID"]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 0, -1]
    positions = [group.PlanePositionSequence[0] for group in (shared, frame) if "PlanePositionSequence" in group]
    assert [list(one.ImagePositionPatient) for one in positions] == [[-12.5, 3, 140.25]]
    assert "not of the patient" not in ds.SegmentSequence[0].SegmentDescription


def test_it_says_what_it_is_and_who_made_it():
    ds = reread(built(PLUGIN, film()))
    (segment,) = ds.SegmentSequence
    assert (ds.SegmentationType, segment.SegmentLabel, segment.SegmentAlgorithmType) == (
        "BINARY",
        "Half of the evidence",
        "AUTOMATIC",
    )
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.VISUAL_EXPLANATION.value
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (TOY_MODEL.name, TOY_MODEL.version)
    assert f"bundle SHA-256={TOY_MODEL.digest}" in algorithm.AlgorithmParameters
    assert "method=similar_adversarial" in algorithm.AlgorithmParameters
    said = ("Lung opacity", "has above 0.02", "left middle zone", "fraction of full luminance", "Not the outline")
    for part in (*said, DISCLAIMER):
        assert part in segment.SegmentDescription
    (source,) = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    assert (source.ReferencedSOPInstanceUID, source.SpatialLocationsPreserved) == ("1.2.3.4.1", "YES")
    assert ds.SeriesNumber == 9905


def test_a_long_label_is_cut_and_not_the_rest(tmp_path):
    ds = built(PLUGIN, with_prediction(context_of(film(PixelSpacing=None)), label="Erguß \\ " * 200))
    assert errors_of(ds, tmp_path) == []
    assert "ASSUMED" in ds.SegmentSequence[0].SegmentDescription


def test_once_lossy_always_lossy():
    assert built(PLUGIN, film()).LossyImageCompression == "00"
    assert built(PLUGIN, film(LossyImageCompression="01")).LossyImageCompression == "01"
    jpeg = reading.read(real("siim_one/siim_cr_jpegbaseline.dcm"))
    jpeg.pop("LossyImageCompression", None)
    assert built(PLUGIN, spotted(context_of(jpeg), (1, 1))).LossyImageCompression == "01"


def test_same_bytes_and_steady_uids():
    context = context_of(film())
    smaller = with_attribution(context, values=context.explanation.attribution.values * np.float32(0.4))
    assert_repeatable(lambda one: PLUGIN.build(study_context(one)), context, smaller)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", NAMES)
def test_names_survive_byte_for_byte(kind, syntax):
    source, texts = named(kind, syntax)
    assert_names_kept(built(PLUGIN, source), source, texts)


def test_several_images():
    contexts = (context_of(film(), number=1), context_of(film(SOPInstanceUID="1.2.3.4.9"), number=2))
    made = PLUGIN.build(study_context(*contexts))
    assert [one.InstanceNumber for one in made] == [1, 2]
    assert len({one.SOPInstanceUID for one in made}) == 2
    assert len({one.SeriesInstanceUID for one in made}) == 1
    references = [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in made]
    assert references == ["1.2.3.4.1", "1.2.3.4.9"]
