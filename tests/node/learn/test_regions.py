"""Regions that others send back: as highdicom writes them, as other vendors do, and damaged ones."""

import numpy as np
import pytest
from exporting import ROOT, Node, film
from highdicom import sr
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    generate_uid,
)
from radiographs import reread

from dicom_node.learn import regions

STUDY = f"{ROOT}.1"
IMAGE, OTHER = f"{STUDY}.1.1", f"{STUDY}.1.2"
SHAPES = {IMAGE: (240, 200), OTHER: (240, 200)}
SQUARE = np.array([[20, 30], [60, 30], [60, 80], [20, 80], [20, 30]], np.float64)


def reference(uid=IMAGE):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", uid
    return item


def item(kind, *children, relationship="CONTAINS", **elements):
    """A content item of a report."""
    made = Dataset()
    made.ValueType, made.RelationshipType = kind, relationship
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    if children:
        made.ContentSequence = list(children)
    return made


def image(uid=IMAGE, relationship="SELECTED FROM"):
    return item("IMAGE", relationship=relationship, ReferencedSOPSequence=[reference(uid)])


def scoord(kind, points, *children):
    data = [float(one) for one in np.asarray(points).ravel()]
    return item("SCOORD", *(children or (image(),)), GraphicType=kind, GraphicData=data)


def document(sop_class, **elements):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = sop_class, generate_uid(), STUDY
    ds.SeriesInstanceUID = f"{STUDY}.8"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def report(*items, **elements):
    return document(ComprehensiveSRStorage, Modality="SR", ContentSequence=list(items), **elements)


def graphic(kind, points, units="PIXEL"):
    made = Dataset()
    made.GraphicAnnotationUnits, made.GraphicType, made.GraphicDimensions = units, kind, 2
    made.GraphicData = [float(one) for one in np.asarray(points).ravel()]
    made.NumberOfGraphicPoints = len(made.GraphicData) // 2
    return made


def compound(kind, points, units="PIXEL", **elements):
    made = Dataset()
    made.CompoundGraphicUnits, made.CompoundGraphicType, made.GraphicDimensions = units, kind, 2
    made.GraphicData = [float(one) for one in np.asarray(points).ravel()]
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def state(graphics=(), compounds=(), named=(IMAGE,), **elements):
    annotation, series = Dataset(), Dataset()
    annotation.GraphicLayer = "LAYER"
    if named:
        annotation.ReferencedImageSequence = [reference(uid) for uid in named]
    if graphics:
        annotation.GraphicObjectSequence = list(graphics)
    if compounds:
        annotation.CompoundGraphicSequence = list(compounds)
    series.ReferencedImageSequence = [reference()]
    return document(
        GrayscaleSoftcopyPresentationStateStorage,
        ReferencedSeriesSequence=[series],
        GraphicAnnotationSequence=[annotation],
        **elements,
    )


def boxes(*objects, shapes=SHAPES):
    found = regions.regions(objects, shapes)
    assert not found.problems
    return [(region.sop_instance_uid, *np.round(region.box, 3)) for region in found.regions]


def problems(*objects):
    found = regions.regions(objects, SHAPES)
    assert found.regions == ()
    return dict(found.problems)


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("POLYLINE", SQUARE, (20, 30, 40, 50)),
        ("CIRCLE", [[50, 60], [50, 70]], (40, 50, 20, 20)),
        ("ELLIPSE", [[30, 60], [70, 60], [50, 50], [50, 70]], (30, 50, 40, 20)),
        (
            "ELLIPSE",
            [[40, 40], [60, 60], [55, 45], [45, 55]],
            (50 - 125**0.5, 50 - 125**0.5, 2 * 125**0.5, 2 * 125**0.5),
        ),
    ],
)
def test_figures_of_a_report(kind, points, box):
    assert boxes(report(scoord(kind, points))) == [(IMAGE, *np.round(box, 3))]


def test_a_report_of_highdicom():
    source = film(1)
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=SQUARE,
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=source.SOPClassUID, referenced_sop_instance_uid=source.SOPInstanceUID
        ),
    )
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="1"),
        referenced_region=region,
        finding_type=codes.SCT.Lesion,
    )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Person, observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes("A^B")
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=sr.CodedConcept("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=[group],
    )
    made = sr.ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Others",
    )
    assert boxes(reread(made)) == [(IMAGE, 20, 30, 40, 50)]


def test_reports_as_other_vendors_nest_them():
    region = scoord("POLYLINE", SQUARE, image(relationship="INFERRED FROM"))
    region.RelationshipType = "INFERRED FROM"
    nested = report(item("CONTAINER", item("CONTAINER", item("NUM", region))))
    assert boxes(nested) == [(IMAGE, 20, 30, 40, 50)]
    library = item("CONTAINER", item("IMAGE", ReferencedSOPSequence=[reference(OTHER)]))
    link = Dataset()
    link.RelationshipType, link.ReferencedContentItemIdentifier = "SELECTED FROM", [1, 1, 1]
    by_path = scoord("CIRCLE", [[50, 60], [50, 70]], link)
    assert boxes(report(library, item("CONTAINER", by_path))) == [(OTHER, 40, 50, 20, 20)]


@pytest.mark.parametrize(
    ("graphics", "compounds", "box"),
    [
        ([graphic("POLYLINE", SQUARE)], [], (20, 30, 40, 50)),
        ([graphic("INTERPOLATED", SQUARE)], [], (20, 30, 40, 50)),
        ([graphic("CIRCLE", [[50, 60], [60, 60]])], [], (40, 50, 20, 20)),
        ([graphic("ELLIPSE", [[30, 60], [70, 60], [50, 50], [50, 70]])], [], (30, 50, 40, 20)),
        ([graphic("CIRCLE", [[0.5, 0.5], [0.6, 0.5]], "DISPLAY")], [], (80, 100, 40, 40)),
        ([], [compound("RECTANGLE", [[20, 30], [60, 80]])], (20, 30, 40, 50)),
        ([], [compound("RECTANGLE", [[20, 30], [60, 80]], RotationAngle=90.0)], (15, 35, 50, 40)),
        ([], [compound("ELLIPSE", [[20, 30], [60, 80]])], (20, 30, 40, 50)),
        ([], [compound("ELLIPSE", [[20, 30], [60, 80]], RotationAngle=90.0)], (15, 35, 50, 40)),
        ([], [compound("RECTANGLE", [[0.25, 0.25], [0.75, 0.5]], "DISPLAY")], (50, 60, 100, 60)),
    ],
)
def test_figures_of_a_presentation_state(graphics, compounds, box):
    assert boxes(state(graphics, compounds)) == [(IMAGE, *box)]


def test_fractions_are_of_the_displayed_area_that_counts_pixels_from_one():
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [101, 41], [200, 240]
    rectangle = compound("RECTANGLE", [[0.1, 0.1], [0.5, 0.5]], "DISPLAY")
    elsewhere = Dataset()
    elsewhere.ReferencedImageSequence = [reference(OTHER)]
    elsewhere.DisplayedAreaTopLeftHandCorner, elsewhere.DisplayedAreaBottomRightHandCorner = [1, 1], [200, 240]
    made = state([], [rectangle], DisplayedAreaSelectionSequence=[elsewhere, area])
    assert boxes(made) == [(IMAGE, 110, 60, 40, 80)]
    made.ImageHorizontalFlip = "Y"
    assert problems(made) == {"coordinates of a displayed area that is turned or mirrored": 1}


def test_without_a_reference_of_its_own_an_annotation_is_on_every_image_of_the_state():
    assert boxes(state([graphic("POLYLINE", SQUARE)], named=())) == [(IMAGE, 20, 30, 40, 50)]
    assert len(boxes(state([graphic("POLYLINE", SQUARE)], named=(IMAGE, OTHER)))) == 2


def test_boxes_are_cut_to_the_image():
    assert boxes(report(scoord("CIRCLE", [[10, 10], [10, 30]]))) == [(IMAGE, 0, 0, 30, 30)]


def test_points_lines_arrows_and_the_whole_image_are_no_regions():
    border = [[0, 0], [200, 0], [200, 240], [0, 240], [0, 0]]
    assert (
        boxes(
            report(
                scoord("POINT", [[5, 5]]),
                scoord("MULTIPOINT", SQUARE),
                scoord("POLYLINE", [[5, 5], [50, 50]]),
                scoord("POLYLINE", SQUARE[:3]),
                scoord("POLYLINE", border),
            ),
            state([graphic("POINT", [[5, 5]]), graphic("POLYLINE", SQUARE[:4])], [compound("ARROW", [[1, 1], [9, 9]])]),
        )
        == []
    )


def test_one_region_in_two_objects_is_one_and_a_replaced_report_does_not_count():
    assert len(boxes(report(scoord("POLYLINE", SQUARE)), state([graphic("POLYLINE", SQUARE)]))) == 1
    first, study, series = report(scoord("POLYLINE", SQUARE)), Dataset(), Dataset()
    series.ReferencedSOPSequence = [reference(first.SOPInstanceUID)]
    study.ReferencedSeriesSequence = [series]
    second = report(scoord("CIRCLE", [[50, 60], [50, 70]]), PredecessorDocumentsSequence=[study])
    assert boxes(first, second) == boxes(second, first) == [(IMAGE, 40, 50, 20, 20)]


def test_our_own_results_and_images_are_passed_over():
    own = report(scoord("POLYLINE", SQUARE))
    equipment = Dataset()
    equipment.ContributionDescription = "Explanation of a classifier's decision by a test"
    own.ContributingEquipmentSequence = [equipment]
    assert boxes(own, film(1)) == []


def abyss():
    """A tree deeper than any report's."""
    container = inner = item("CONTAINER")
    for _ in range(80):
        inner.ContentSequence = [item("CONTAINER")]
        inner = inner.ContentSequence[0]
    return container


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (report(scoord("CIRCLE", [[1, 2], [3, 4], [5, 6]])), "CIRCLE with another number of points than it needs"),
        (report(scoord("ELLIPSE", [[1, 2]])), "ELLIPSE with another number of points than it needs"),
        (report(scoord("BLOB", SQUARE)), "a graphic of an unknown type"),
        (report(scoord("POLYLINE", [])), "graphic data that are no pairs of numbers"),
        (report(scoord("POLYLINE", [1, 2, 3])), "graphic data that are no pairs of numbers"),
        (report(scoord("CIRCLE", [[1, 2], [np.nan, 4]])), "graphic data that are not finite"),
        (report(scoord("CIRCLE", [[1, 2], [np.inf, 4]])), "graphic data that are not finite"),
        (report(scoord("CIRCLE", [[-90, -90], [-80, -80]])), "a region without area, or outside its image"),
        (report(scoord("CIRCLE", [[9, 9], [9, 9]])), "a region without area, or outside its image"),
        (report(scoord("POLYLINE", SQUARE, image("9.9"))), "a region on an image that is not of this study"),
        (report(scoord("POLYLINE", SQUARE, item("TEXT"))), "a region that names no image"),
        (report(abyss()), "a content tree larger than any report's"),
        (report(scoord("POLYLINE", SQUARE, item("IMAGE", ReferencedSOPSequence=[Dataset()]))),
         "a damaged object or item (AttributeError)"),
        (state([graphic("POLYLINE", SQUARE, "MATRIX")]), "units that are neither PIXEL nor DISPLAY"),
        (state([], [compound("RECTANGLE", SQUARE)]), "RECTANGLE with another number of points than 2"),
        (state([], [compound("RECTANGLE", [[1, 2], [9, 9]], RotationAngle=45.0, RotationPoint=[0.0, 0.0])]),
         "a graphic that is turned about another point than its middle"),
        (state([graphic("POLYLINE", SQUARE)], named=("9.9",)), "a region on an image that is not of this study"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_and_does_no_harm_to_others(made, why):
    assert problems(made) == {why: 1}
    good = report(scoord("POLYLINE", SQUARE))
    found = regions.regions([made, good], SHAPES)
    assert len(found.regions) == 1
    assert dict(found.problems) == {why: 1}


def test_what_a_pacs_returns_is_in_the_export(tmp_path):
    import csv

    films = [film(1), film(2, study=STUDY), film(3)]
    films[1].SOPInstanceUID = films[1].file_meta.MediaStorageSOPInstanceUID = OTHER
    answers = [
        report(scoord("POLYLINE", SQUARE), scoord("POLYLINE", SQUARE, image("9.9")), PatientName="Canary^Bird"),
        state([graphic("CIRCLE", [[50, 60], [50, 70]])], named=(OTHER,)),
    ]
    on_normal = report(scoord("CIRCLE", [[50, 60], [50, 70]], image(f"{ROOT}.3.1.3")), StudyInstanceUID=f"{ROOT}.3")
    for ds in (*answers, on_normal):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    node = Node(tmp_path).receive(*films, *answers, on_normal)
    labels = f"study_instance_uid,target\n{STUDY},1\n{ROOT}.3,0\n"
    exported = node.export(labels=labels)
    assert dict(exported.regions) == {
        "a region on an image that is not of this study": 1,
        "a region on an image whose target is 0": 1,
    }
    assert (exported.images, exported.boxes, exported.left_out) == (3, 2, [])
    with (tmp_path / "out" / "boxes.csv").open() as file:
        rows = [tuple(float(row[column]) for column in ("x", "y", "width", "height")) for row in csv.DictReader(file)]
    assert sorted(rows) == [(20, 30, 40, 50), (40, 50, 20, 20)]
