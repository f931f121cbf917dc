"""What a PACS gives back over DICOMweb is what the node wrote, and Orthanc makes pictures of the pictures."""

import io
import json
import urllib.error

import numpy as np
import pytest
from hospital import OBJECTS, PICTURES, SOURCES
from PIL import Image
from reports import frames_and_contours, numbers
from screen import agreement, blocks_of
from viewer_pacs import data_set

pytestmark = [pytest.mark.external, pytest.mark.slow]


def test_every_object_was_made_where_it_can_be(radiograph):
    absent = set() if "ImageOrientationPatient" in radiograph.source else {"parametric_map"}
    (sr,) = radiograph.objects("structured_report")
    if numbers(sr, "Probability")[0] < numbers(sr, "Decision threshold")[0]:
        absent.add("key_object")
    _, salient = frames_and_contours(sr, (radiograph.source.Rows, radiograph.source.Columns))
    if not salient:
        absent.add("segmentation")
    added = {"morphs"} if radiograph.name == SOURCES[0] else set()
    assert set(radiograph.files) == set(OBJECTS) - absent | added
    assert {name: len(files) for name, files in radiograph.files.items()} == {
        name: 4 if name == "synthetic_images" else 1 for name in radiograph.files
    }


def test_every_object_comes_back_byte_for_byte(hospital, radiograph):
    for name, paths in radiograph.files.items():
        for path, ds in zip(paths, radiograph.objects(name), strict=True):
            where = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
            (retrieved,) = hospital.pacs.wado(where)
            assert data_set(retrieved) == data_set(path.read_bytes()), name


def test_every_series_is_found(hospital, radiograph):
    for name in radiograph.files:
        first, *_ = radiograph.objects(name)
        where = f"/studies/{radiograph.study}/series"
        (series,) = hospital.pacs.qido(where, SeriesInstanceUID=first.SeriesInstanceUID)
        assert series["00080060"]["Value"] == [first.Modality]
        assert series["00201209"]["Value"] == [len(radiograph.files[name])]


def test_the_study_holds_the_radiograph_and_the_results_and_nothing_else(hospital, radiograph):
    stored = hospital.pacs.qido(f"/studies/{radiograph.study}/instances")
    written = {ds.SOPInstanceUID for name in radiograph.files for ds in radiograph.objects(name)}
    assert {one["00080018"]["Value"][0] for one in stored} == written | {radiograph.source.SOPInstanceUID}


@pytest.mark.parametrize("name", [name for name in OBJECTS if name in PICTURES])
def test_orthanc_shows_a_picture(hospital, radiograph, name):
    for ds in radiograph.objects(name):
        picture = Image.open(io.BytesIO(preview(hospital.pacs, ds)))
        stored = ds.pixel_array
        if ds.SamplesPerPixel == 1:
            low = float(ds.WindowCenter) - 0.5 - (float(ds.WindowWidth) - 1) / 2  # PS3.3 C.11.2.1.2.1
            stored = np.uint8(np.clip((stored - low) / (float(ds.WindowWidth) - 1), 0, 1) * 255)
        expected = blocks_of(Image.fromarray(stored))
        assert agreement(blocks_of(picture), expected) > 0.99
        with pytest.raises(AssertionError):
            assert agreement(blocks_of(picture), np.roll(expected, 2, axis=1)) > 0.99


def test_orthanc_shows_a_segmentation_only_where_its_rows_fill_bytes(hospital, radiograph):
    """Orthanc 1.10 shows one bit a pixel only if Rows x Columns is a multiple of 8; later ones may show more."""
    for seg in radiograph.objects("segmentation"):
        if seg.Rows * seg.Columns % 8:
            shows_nothing(hospital.pacs, seg)
        else:
            shown = np.asarray(Image.open(io.BytesIO(preview(hospital.pacs, seg)))) > 0
            assert np.array_equal(shown, seg.pixel_array > 0)


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in PICTURES | {"segmentation"}])
def test_orthanc_shows_none_of_what_is_no_picture(hospital, radiograph, name):
    for ds in radiograph.objects(name):
        shows_nothing(hospital.pacs, ds)


def shows_nothing(pacs, ds) -> None:
    with pytest.raises(urllib.error.HTTPError, match="415"):
        preview(pacs, ds)


def preview(pacs, ds) -> bytes:
    """Orthanc's own picture of an instance, PNG."""
    query = json.dumps({"Level": "Instance", "Query": {"SOPInstanceUID": ds.SOPInstanceUID}}).encode()
    (identifier,) = json.loads(pacs.post("/tools/find", query))
    return pacs.get(f"/instances/{identifier}/preview")
