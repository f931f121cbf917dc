"""The Parametric Map: the raw heatmap, where the source lies, with the standard's words for what it is."""

import dataclasses

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
from radiographs import ACCEPTED, in_two_halves, real, reread

from dicom_node.dicom import reading
from dicom_node.results import codes
from dicom_node.results.header import DISCLAIMER
from dicom_node.results.objects.parametric_map import PLUGIN

PLACED = {name: changes for name, changes in (ODD | PAIRED).items() if "spacing" not in name.lower()}


def stored(ds):
    return np.frombuffer(ds.FloatPixelData, "<f4").reshape(ds.Rows, ds.Columns)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACED)
def test_odd_sources(name, tmp_path):
    context = context_of(film(**PLACED[name] | PLANE))
    assert PLUGIN.refuses(context) is None
    ds = built(PLUGIN, context)
    assert errors_of(ds, tmp_path) == []
    assert np.array_equal(stored(reread(ds)), context.explanation.attribution.values)


@pytest.mark.parametrize("name", in_two_halves(*ACCEPTED, "RG1_UNCR.dcm"))
def test_real_radiographs_have_no_plane(name):
    assert PLUGIN.refuses(context_of(reading.read(real(name)))).startswith("the source has no plane geometry")


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, None),
        (
            dict.fromkeys((*PLANE, "PixelSpacing")),
            "Frame of Reference UID, Image Position (Patient), Image Orientation (Patient), Pixel Spacing",
        ),
        ({"FrameOfReferenceUID": None}, "Frame of Reference UID"),
        ({"FrameOfReferenceUID": ""}, "Frame of Reference UID"),
        ({"FrameOfReferenceUID": "1.2.x"}, "Frame of Reference UID"),
        ({"FrameOfReferenceUID": ["1.2.3", "1.2.4"]}, "Frame of Reference UID"),
        ({"ImagePositionPatient": ["1", "2"]}, "Image Position (Patient)"),
        ({"ImagePositionPatient": ["1", "2", "1e400"]}, "Image Position (Patient)"),
        ({"ImageOrientationPatient": ["0"] * 6}, "Image Orientation (Patient)"),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "Image Orientation (Patient)"),
        ({"ImageOrientationPatient": ["2", "0", "0", "0", "1", "0"]}, "Image Orientation (Patient)"),
        ({"ImageOrientationPatient": ["0.8", "0.6", "0", "-0.6", "0.8", "0"]}, None),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.1", "0.1"]}, "Pixel Spacing"),
    ],
)
def test_what_a_plane_takes(changes, lacking, tmp_path):
    context = context_of(film(**PLANE | changes))
    reason = PLUGIN.refuses(context)
    if lacking is None:
        assert reason is None
        assert errors_of(built(PLUGIN, context), tmp_path) == []
    else:
        assert reason == f"the source has no plane geometry: missing or not usable are {lacking}"
        with pytest.raises(ValueError, match="no plane geometry"):
            built(PLUGIN, context)


def test_values_are_raw_and_mean_themselves():
    context = context_of(film(**PLANE))
    values = np.linspace(0, 0.6, 240 * 200, dtype=np.float32).reshape(240, 200)  # below the floor, beyond full scale
    ds = built(PLUGIN, with_attribution(context, values=values))
    assert np.array_equal(stored(reread(ds)), values)
    assert np.array_equal(reread(ds).pixel_array, values)
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    first, last = mapping.DoubleFloatRealWorldValueFirstValueMapped, mapping.DoubleFloatRealWorldValueLastValueMapped
    assert first == 0
    assert last == values.max()
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning) == ("1", "UCUM", "no units")
    assert mapping.LUTExplanation == "|x_s - x_a|, fraction of full luminance"


def test_a_viewer_shows_it_on_the_declared_scale():
    (window,) = built(PLUGIN, film(**PLANE)).SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth, window.VOILUTFunction) == (0.135, 0.23, "LINEAR_EXACT")


@pytest.mark.parametrize(
    ("method", "quantity"),
    [
        ("similar_adversarial", codes.SALIENCY),
        ("integrated_gradients", codes.SALIENCY),
        ("grad_cam", codes.GRADIENT_WEIGHTED_CLASS_ACTIVATION),
    ],
)
def test_quantity_of_the_method(method, quantity, tmp_path):
    context = context_of(film(**PLANE))
    provenance = dataclasses.replace(context.explanation.provenance, method=method)
    explanation = dataclasses.replace(context.explanation, provenance=provenance)
    ds = built(PLUGIN, dataclasses.replace(context, explanation=explanation))
    assert errors_of(ds, tmp_path) == []
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    (definition,) = mapping.QuantityDefinitionSequence
    assert definition.ConceptCodeSequence[0].CodeValue == quantity.value
    assert quantity.value in {"130402", "130403", "130404"}, "PS3.16 CID 217"


def test_it_lies_where_the_source_lies():
    ds = reread(built(PLUGIN, film(**PLANE, PixelSpacing=["0.1", "0.3"])))
    shared, frame = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
    assert ds.FrameOfReferenceUID == PLANE["FrameOfReferenceUID"]
    assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == [-12.5, 3, 140.25]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 0, -1]
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [0.1, 0.3]
    assert "SpacingBetweenSlices" not in shared.PixelMeasuresSequence[0]


def test_it_says_what_it_is():
    ds = reread(built(PLUGIN, film(**PLANE)))
    assert list(ds.ImageType) == ["DERIVED", "PRIMARY", "STATIC", "QUANTITY"]
    assert (ds.ContentQualification, ds.SeriesNumber, ds.ContentLabel) == ("RESEARCH", 9906, "HEATMAP")
    assert DISCLAIMER in ds.ImageComments
    (derivation,) = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    assert derivation.DerivationCodeSequence[0].CodeValue == codes.VISUAL_EXPLANATION.value
    assert derivation.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.1"


def test_same_bytes_and_steady_uids():
    context = context_of(film(**PLANE))
    flipped = with_prediction(context, threshold=0.99)
    assert_repeatable(lambda one: PLUGIN.build(study_context(one)), context, flipped)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", NAMES)
def test_names_survive_byte_for_byte(kind, syntax):
    source, texts = named(kind, syntax, **PLANE)
    assert_names_kept(built(PLUGIN, source), source, texts)
