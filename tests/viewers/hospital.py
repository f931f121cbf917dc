"""The hospital of these tests: which radiographs, which result objects, and where the node wrote them."""

import importlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import whole_node
from contexts import built, context_of, with_morphs
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from viewer_pacs import DicomWebOrthanc

from dicom_node.demo.run import sample
from dicom_node.dicom import reading
from dicom_node.results.objects.morphs import PLUGIN as MORPHS

OBJECTS = (
    "secondary_capture",
    "overlay",
    "structured_report",
    "presentation_state",
    "segmentation",
    "parametric_map",
    "synthetic_images",
    "key_object",
)
"""The result objects that the tests here look at; the destination asks for exactly these."""

PICTURES = frozenset({"secondary_capture", "overlay", "synthetic_images"})
"""Those that any viewer shows as an image."""

SOURCES = ("monochrome1", "jpeg", "in_a_plane")
"""A CR in MONOCHROME1, one in JPEG in which nothing is salient, and the first again with its plane in the patient."""

SERIES_NUMBER_BASE = 9900


@dataclass(frozen=True)
class Explained:
    """One radiograph and what the node made of it.

    Attributes:
        name: one of SOURCES.
        path: the radiograph's file.
        files: by name of the builder, what lies in the node's outbox, in the order of Instance Number.
    """

    name: str
    path: Path
    files: dict[str, list[Path]] = field(default_factory=dict)

    @cached_property
    def source(self) -> Dataset:
        return dcmread(self.path)

    @property
    def study(self) -> str:
        return self.source.StudyInstanceUID

    def objects(self, name: str) -> list[Dataset]:
        return [dcmread(path) for path in self.files.get(name, ())]

    def number(self, name: str) -> int:
        """The Series Number of an object."""
        return SERIES_NUMBER_BASE + _series(name)


def _series(name: str) -> int:
    return importlib.import_module(f"dicom_node.results.objects.{name}").PLUGIN.series


@dataclass(frozen=True)
class Hospital:
    """The PACS, its viewer's port and the radiographs by name."""

    pacs: DicomWebOrthanc
    port: int
    radiographs: dict[str, Explained]


def sources(root: Path, folder: Path) -> dict[str, Path]:
    """Files of SOURCES; the one in JPEG only where the real data are beside the repository.

    OHIF shows nothing of an image whose Pixel Spacing is 0\\0, as that of the sample is.
    """
    spacing = {"PixelSpacing": [0.143, 0.143]}
    new = {name: generate_uid() for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    found = {
        "monochrome1": whole_node.changed(sample(), folder / "monochrome1.dcm", spacing),
        "in_a_plane": whole_node.changed(
            sample(), folder / "in_a_plane.dcm", spacing | new | place | {"FrameOfReferenceUID": generate_uid()}
        ),
    }
    beside = root.parent / "shared" / "data" / "dicom" / "siim_one" / "siim_cr_jpegbaseline.dcm"
    if beside.is_file():
        found["jpeg"] = beside
    return found


def sort(radiographs: dict[str, Explained], written: list[Path]) -> None:
    """Sort the outbox by radiograph and object; stand-ins that no destination asked for lie there, too."""
    names = {SERIES_NUMBER_BASE + _series(name): name for name in OBJECTS}
    studies = {one.study: one for one in radiographs.values()}
    headers = {path: dcmread(path, stop_before_pixels=True) for path in written}
    for path, header in sorted(headers.items(), key=lambda item: int(item[1].InstanceNumber)):
        if header.SeriesNumber in names:
            studies[header.StudyInstanceUID].files.setdefault(names[header.SeriesNumber], []).append(path)


def add_morphs(radiograph: Explained, path: Path) -> None:
    """Frames along attributes, which the toy model has none of: made of made-up ones by their builder."""
    ds = built(MORPHS, with_morphs(context_of(reading.read(radiograph.path))))
    ds.save_as(path, enforce_file_format=True)
    radiograph.files["morphs"] = [path]
