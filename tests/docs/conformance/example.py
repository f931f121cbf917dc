"""What the statement on created objects is read from: every object really built, of one image and of variants of it.

The explainer is the toy of the tests, for an attribute is there or not whatever the model says. Of each object there is
the one of a source that states all it can, and others in which one thing differs: what changes, or is missing, shows
where an attribute comes from.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from toy_explainer import TOY_MODEL, ToyExplainer

from dicom_node.dicom import pixels
from dicom_node.errors import Reason
from dicom_node.nouns import StudyInstanceUID, Task, TaskState
from dicom_node.results import ExplainedImage, Refusal, ResultContext, ResultOptions, SourceReference, StudyContext
from dicom_node.results.header import INHERITED, header_of
from explain_core import plugins
from explain_core.explanation import ModelIdentity, Morph

RESULTS = "dicom_node.results.objects"
_TEXTS = {"AS": "050Y", "CS": "NO", "DA": "20240506", "DS": "1", "TM": "070809", "UI": "1.2.3.9", "US": 4}
_OTHER_TEXTS = {"AS": "060Y", "CS": "YES", "DA": "20250607", "DS": "2", "TM": "080910", "UI": "1.2.3.10", "US": 3}
_WITHOUT = frozenset({"SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_ELSEWHERE = ResultOptions(
    manufacturer="Other maker",
    institution="Other institution",
    content_qualification="SERVICE",
    series_number_base=8000,
    station_ae_title="OTHER",
)
_RETRAINED = ModelIdentity(name="other", version="2", digest="e" * 64)


class Variants(NamedTuple):
    """One kind of object, as it is built.

    Attributes:
        whole: of a source that states everything.
        poor: of one that states what nothing can be built without.
        other: of one with other values.
        elsewhere: of the first, with other settings.
        retrained: of the first, with another model.
        source, other_source: what the first and the one with other values are made of.
    """

    whole: Dataset
    poor: Dataset
    other: Dataset
    elsewhere: Dataset
    retrained: Dataset
    source: Dataset
    other_source: Dataset

    @property
    def made(self) -> tuple[Dataset, ...]:
        """The objects."""
        return self[:5]


@cache
def built() -> dict[str, Variants]:
    """Every object that there is a builder for, by its name."""
    whole, other = source(_TEXTS), source(_OTHER_TEXTS, rows=160)
    variants = (
        objects(whole),
        objects(_in_a_plane(poor()), only="parametric_map") | objects(poor()),
        objects(other),
        objects(whole, _ELSEWHERE),
        objects(whole, model=_RETRAINED),
    )
    made = {name: [one.get(name, first) for one in variants] for name, first in variants[0].items()}
    return {name: Variants._make([*each, whole, other]) for name, each in made.items()}


def refused() -> Dataset:
    """The report on an image that was not analysed."""
    ds = poor()
    why = Refusal(sources=(SourceReference.of(ds),), reason="it is a lateral view", code=Reason.VIEW)
    study = StudyContext(**_about(ds, ResultOptions(), TOY_MODEL), refused=(why,))
    (report,) = plugins.load(RESULTS, "structured_report").build(study)
    return _reread(report)


def objects(
    ds: Dataset, options: ResultOptions | None = None, *, model: ModelIdentity = TOY_MODEL, only: str | None = None
) -> dict[str, Dataset]:
    """Every object about an image that it can have, or one, by the name of its builder, as it is read back."""
    rendering = pixels.render(ds)
    explained = ToyExplainer(identity=model).explain(rendering.radiograph, ["similar_adversarial"])[0]
    seen = np.asarray(explained.seen, np.float32)
    frames = np.stack([seen, seen / np.float32(2)])
    morph = Morph(name="opacity", parts=(0.0, 1.0), images=frames, probabilities=(0.9, 0.2))
    explanation = replace(explained, morphs=(morph,))
    about = _about(ds, options or ResultOptions(), model)
    image = ExplainedImage(
        source=about["sources"][0],
        header=about["header"],
        assessment=explanation.assessment,
        radiograph=rendering.radiograph,
        greys=rendering.greys,
        explanations=(explanation,),
    )
    context = ResultContext(**about, image=image, explanation=explanation)
    builders = [plugins.load(RESULTS, name) for name in plugins.available(RESULTS)]
    made: dict[str, Dataset] = {}
    for one in sorted(builders, key=lambda builder: builder.series):
        if one.refuses(context) or only not in {None, one.name}:
            continue
        study = StudyContext(**about, images=(context,), made=tuple(made.values()))
        made[one.name] = one.build(study)[-1]
    return {name: _reread(one) for name, one in made.items()}


def source(texts: Mapping[str, Any], rows: int = 128) -> Dataset:
    """A radiograph that states everything that a result may take over, in values of `texts` by VR."""
    ds = poor(rows)
    for keyword in INHERITED:
        if keyword not in ds and keyword not in _WITHOUT and dictionary_VR(keyword) != "SQ":
            setattr(ds, keyword, texts.get(dictionary_VR(keyword), f"x{texts['US']}"))
    ds.SpecificCharacterSet = "ISO_IR 100" if texts is _TEXTS else "ISO_IR 192"
    ds.TimezoneOffsetFromUTC = "+0100" if texts is _TEXTS else "+0200"
    step = 0.1 * float(texts["DS"])
    ds.PixelSpacing, ds.PixelSpacingCalibrationType = [step, step], "GEOMETRY"
    ds.PixelSpacingCalibrationDescription = f"x{texts['US']}"
    ds.PatientOrientation, ds.BodyPartExamined = ["L", "F"], "CHEST" if texts is _TEXTS else "LUNG"
    ds.Laterality = "" if texts is _TEXTS else "R"
    ds.Manufacturer = ds.ManufacturerModelName = ds.DeviceSerialNumber = f"x{texts['US']}"
    ds.SoftwareVersions = ds.StationName = ds.InstitutionName = f"x{texts['US']}"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = texts["UI"], f"x{texts['US']}"
    ds = _in_a_plane(ds)
    ds.StudyInstanceUID = UID(f"{texts['UI']}.1")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{texts['UI']}.2")
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.LossyImageCompressionRatio = str(4 * step)
    return _reread(ds)


def poor(rows: int = 128) -> Dataset:
    """A radiograph whose header states nothing but what it is and how its pixels are read."""
    y, x = np.mgrid[0:rows, 0:rows] / rows
    spot = (x - 0.7) ** 2 + (y - 0.4) ** 2 < 0.01
    stored = np.rint((0.3 + 0.2 * y + 0.4 * spot) * 4095).astype("<u2")
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.1")
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.3", "1.2.3.2", "CR"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, rows, 16, 12, 11
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.add_new("PixelData", "OW", stored.tobytes())
    return _reread(ds)


def _in_a_plane(ds: Dataset) -> Dataset:
    """The same with its place in the patient, without which there is no parametric map."""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 0, -1]
    ds.PixelSpacing = ds.get("PixelSpacing", [1, 1])
    ds.FrameOfReferenceUID = ds.get("FrameOfReferenceUID", "1.2.3.11")
    return ds


def _about(ds: Dataset, options: ResultOptions, model: ModelIdentity) -> dict[str, Any]:
    """What every context has."""
    study = StudyInstanceUID(str(ds.StudyInstanceUID))
    task = Task(
        task_id="1",
        study_instance_uid=study,
        revision=1,
        route="chest",
        destinations=("pacs",),
        results=(),
        passed_by=(),
        selected=(),
        reason=None,
        state=TaskState.PENDING,
        attempts=0,
        created_at=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
    )
    return {
        "task": task,
        "header": header_of(ds),
        "sources": (SourceReference.of(ds),),
        "model": model,
        "options": options,
        "number": 1,
    }


def _reread(ds: Dataset) -> Dataset:
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return dcmread(BytesIO(file.getvalue()))
