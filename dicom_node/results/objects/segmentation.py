"""The region that carries half of the evidence as a binary Segmentation: one segment on the source's own pixel grid.

The mask is what the other objects outline, pixel by pixel. A viewer (OHIF 3.13) draws it on a
plain radiograph only if it states pixel measures and a plane orientation, so a source without a plane gets the
identity orientation, without Frame of Reference or position: that says nothing about the patient.
"""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from dicom_node.dicom.elements import code
from dicom_node.results import codes
from dicom_node.results.context import ResultContext, StudyContext, uid
from dicom_node.results.functional_groups import (
    ASSUMED_ORIENTATION,
    Plane,
    algorithm,
    begin,
    finish,
    measures,
    plane_of,
    source_of,
    spacing_of,
)
from dicom_node.results.header import DISCLAIMER, plain
from dicom_node.results.regions import MARKED, places_of
from explain_core import zones

_LARGEST_TEXT = 1024


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Builds the binary Segmentation."""

    name: str = "segmentation"
    sop_class_uids: tuple[str, ...] = (SegmentationStorage,)
    series: int = 5
    fallback: str | None = "overlay"

    def refuses(self, image: ResultContext) -> str | None:
        """An image without evidence: an empty segment says less than the report does."""
        return None if _mask(image).any() else "there is no evidence above the scale's floor"

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, image: ResultContext) -> Dataset:
        """The region of one image (PS3.3 A.51)."""
        ds = begin(image, self.name, self.series, SegmentationStorage)
        if (side := code(ds, "Laterality")) in {"L", "R"}:
            ds.ImageLaterality = side
        ds.pop("Laterality", None)  # of a series of images that were taken, which this is not
        found = plane_of(image.header)
        plane = found if isinstance(found, Plane) else None
        spacing, origin = spacing_of(image.header)
        segment = self._segment(image, ds.SOPInstanceUID)
        made = hd.seg.Segmentation(
            source_images=[source_of(image, plane)],
            pixel_array=_mask(image).astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            series_instance_uid=ds.SeriesInstanceUID,
            series_number=ds.SeriesNumber,
            sop_instance_uid=ds.SOPInstanceUID,
            instance_number=ds.InstanceNumber,
            manufacturer=ds.Manufacturer,
            manufacturer_model_name=ds.ManufacturerModelName,
            software_versions=image.options.software_version,
            device_serial_number=ds.DeviceSerialNumber,
            pixel_measures=measures(spacing),
            content_label="EVIDENCE",
        )
        segment.SegmentDescription = _described(image, origin, plane)
        ds.ContentDescription = f"{MARKED}; pixel spacing: see Segment Description"
        if plane is None:
            orientation = hd.PlaneOrientationSequence("PATIENT", ASSUMED_ORIENTATION)
            made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = orientation
        return finish(ds, made)

    def _segment(self, image: ResultContext, sop_instance_uid: str) -> hd.seg.SegmentDescription:
        provenance = image.explanation.provenance
        return hd.seg.SegmentDescription(
            segment_number=1,
            segment_label=MARKED,
            segmented_property_category=codes.SPATIAL_CONCEPT,
            segmented_property_type=codes.VISUAL_EXPLANATION,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm(provenance, image.options.manufacturer),
            tracking_uid=uid("segment", sop_instance_uid),
            tracking_id=MARKED,
        )


def _mask(image: ResultContext) -> NDArray[np.bool_]:
    return image.explanation.attribution.half_of_evidence


def _described(image: ResultContext, origin: str, plane: Plane | None) -> str:
    """What the segment is, and what of its geometry is assumed."""
    prediction, scale = image.explanation.prediction, image.explanation.attribution.scale
    said = [
        f"Half of what the heatmap of the decision on {plain(prediction.label, 64)} has above {scale.floor:.6g}",
        f"It lies in: {zones.in_words(places_of(image))}",
        plain(scale.unit, 128),
        "Not the outline of a lesion",
        DISCLAIMER,
        origin,
        "Slice thickness is nominal",
    ]
    if plane is None:
        said.append("The source states no plane: the orientation is that of the picture, not of the patient")
    return ". ".join(said)[: _LARGEST_TEXT - 1] + "."


PLUGIN = Segmentation()
