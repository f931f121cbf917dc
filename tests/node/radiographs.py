"""Radiographs to test with: small synthetic ones written and read back, and the real ones where they are."""

import io
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.nouns import (
    AETitle,
    Instance,
    SeriesInstanceUID,
    SOPInstanceUID,
    Study,
    StudyInstanceUID,
    Task,
    TaskState,
)

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data" / "dicom"
CREATED = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)

ACCEPTED = (
    "nema_wg04/RG1_J2KI.dcm",
    "nema_wg04/RG1_JLSN.dcm",
    "nih_google_udacity/test1.dcm",
    "nih_google_udacity/test2.dcm",
    "nih_google_udacity/test3.dcm",
    "siim_one/siim_cr_jpegbaseline.dcm",
    "siim_one/siim_fake_mono1.dcm",
)
FEW = {"RG1_UNCR.dcm", "nema_wg04/RG1_JLSN.dcm", "siim_one/siim_fake_mono1.dcm"}
"""Two senders, both photometric interpretations, one compressed; the first is there without the shared folder too."""
PYDICOM_DATA = ("RG1_J2KI.dcm", "RG1_J2KR.dcm", "RG1_UNCI.dcm", "RG1_UNCR.dcm")


def in_two_halves(*names):
    """Parameters of a test that every object of every image shall pass: the few now, the others in the slow half."""
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in names]


def shared(name):
    """The path of a shared real file; skips the test where the folder is absent."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs the real DICOM files in {SHARED}")
    return path


def shared_case(name):
    """A folder of what public bug reports describe; skips the test where it is absent."""
    folder = REPOSITORY.parent / "shared" / "cases" / name
    if not folder.is_dir():
        pytest.skip(f"needs the recipes in {folder.parent}")
    return folder


def real(name):
    """The path of an acceptable real file, of the shared folder or of the package pydicom-data."""
    if name in PYDICOM_DATA:
        path = get_testdata_file(name)
        assert path is not None, "pydicom-data is not installed: pip install '.[dev]'"
        return Path(path)
    return shared(name)


def phantom(rows=240, columns=200):
    """Luminance 0..1: two dark lungs on a smooth body, and one bright spot, which ToyExplainer calls."""
    y, x = np.mgrid[0:rows, 0:columns] / np.array([[[rows]], [[columns]]])
    body = 0.55 + 0.2 * y
    for centre in (0.3, 0.7):
        body -= 0.15 * (((x - centre) / 0.16) ** 2 + ((y - 0.5) / 0.32) ** 2 < 1)
    body += 0.4 * ((x - 0.7) ** 2 + (y - 0.4) ** 2 < 0.1**2)
    return np.clip(body, 0, 1)


def header(**changes):
    """A CR chest header without pixels; `changes` replace elements, None removes them."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240506", "0650", "S1", "A1"
    ds.Modality, ds.Manufacturer, ds.InstitutionName = "CR", "Maker", "Test Hospital"
    ds.ReferringPhysicianName, ds.PatientName = "Doe^Jane", "Canary^Bird"
    ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "CANARY7", "19500102", "F"
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", "PA", ["L", "F"]
    ds.PixelSpacing = ["0.2", "0.2"]
    change(ds, changes)
    return ds


def change(ds, changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values are wrong on purpose
        for keyword, value in changes.items():
            if value is None:
                ds.pop(keyword, None)
            else:
                setattr(ds, keyword, value)


def synthetic(stored=None, *, bits=12, signed=False, high_bit=None, garbage=0, **changes):
    """A radiograph read back from bytes; `stored` are its stored values, by default the phantom."""
    if stored is None:
        stored = np.rint(phantom() * ((1 << bits) - 1)).astype(np.int64)
    allocated = 8 if bits <= 8 and (high_bit is None or high_bit < 8) else 16
    high_bit = bits - 1 if high_bit is None else high_bit
    mask = ((1 << bits) - 1) << (high_bit + 1 - bits)
    words = ((np.asarray(stored, np.int64) << (high_bit + 1 - bits)) & mask) | (garbage & ~mask)
    data = (words & ((1 << allocated) - 1)).astype(f"<u{allocated // 8}").tobytes()
    ds = header()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = np.shape(stored)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = (
        allocated,
        bits,
        high_bit,
        int(signed),
    )
    ds.add_new("PixelData", "OB" if allocated == 8 else "OW", data + b"\0" * (len(data) % 2))
    change(ds, changes)
    return reread(ds)


def encode(ds):
    """The bytes of `ds` as a file."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(ds):
    """`ds` written and read, its elements undecoded."""
    return dcmread(io.BytesIO(encode(ds)))


def instance_of(ds, path=Path("unused")):
    return Instance(
        sop_instance_uid=SOPInstanceUID(str(ds.SOPInstanceUID)),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=SeriesInstanceUID(str(ds.SeriesInstanceUID)),
        study_instance_uid=StudyInstanceUID(str(ds.StudyInstanceUID)),
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        association_id="a",
        calling_ae_title=AETitle("MODALITY"),
        path=path,
        sha256="0" * 64,
        size=1,
        received_at=CREATED,
    )


def study_of(*datasets, revision=1):
    """The study that `datasets` make up, and a function that reads its instances."""
    by_uid = {str(ds.SOPInstanceUID): ds for ds in datasets}
    instances = tuple(instance_of(ds) for ds in datasets)
    uid = instances[0].study_instance_uid
    study = Study(study_instance_uid=uid, revision=revision, instances=instances)
    return study, lambda instance: by_uid[instance.sop_instance_uid]


def task_for(study, *, selected=None, reason=None, passed_by=()):
    chosen = [one.sop_instance_uid for one in study.instances] if selected is None else selected
    return Task(
        task_id="task",
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        route="chest",
        destinations=(),
        results=(),
        selected=tuple(chosen),
        passed_by=passed_by,
        reason=reason,
        state=TaskState.LEASED,
        attempts=1,
        created_at=CREATED,
    )
