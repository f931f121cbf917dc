"""The raw heatmap as a Parametric Map: float values on the source's grid, for software that computes with them.

Values are as the method gave them: not cut at the floor below which pictures show nothing, not stretched. Where no
augmented copy saw a pixel the value is 0. The IOD wants every frame placed in the patient, so only a source with a
Frame of Reference and a plane can have one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ParametricMapStorage

from dicom_node.results import codes
from dicom_node.results.context import ResultContext, StudyContext
from dicom_node.results.functional_groups import Plane, begin, finish, measures, plane_of, source_of
from dicom_node.results.header import DISCLAIMER, plain
from explain_core.explanation import Attribution

_NARROWEST = 1000
"""The window is at least this part of full scale wide, for a floor that is full scale."""
QUANTITIES: Mapping[str, Code] = MappingProxyType({"grad_cam": codes.GRADIENT_WEIGHTED_CLASS_ACTIVATION})
"""What the values of a method are (PS3.16 CID 217); of every other method they are Saliency."""


@dataclass(frozen=True, slots=True)
class ParametricMap:
    """Builds the Parametric Map."""

    name: str = "parametric_map"
    sop_class_uids: tuple[str, ...] = (ParametricMapStorage,)
    series: int = 6
    fallback: str | None = "overlay"

    def refuses(self, image: ResultContext) -> str | None:
        """A source without a plane in the patient."""
        plane = plane_of(image.header)
        if isinstance(plane, Plane):
            return None
        return f"the source has no plane geometry: missing or not usable are {plane}"

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for each image."""
        return tuple(self.of(image) for image in study.images)

    def of(self, image: ResultContext) -> Dataset:
        """The heatmap of one image (PS3.3 A.75).

        Raises:
            ValueError: the source has no plane: see `refuses`.
        """
        plane = plane_of(image.header)
        if not isinstance(plane, Plane):
            raise ValueError(self.refuses(image))  # noqa: TRY004 - a value of the source is at fault
        attribution, method = image.explanation.attribution, image.explanation.provenance.method
        ds = begin(image, self.name, self.series, ParametricMapStorage)
        made = hd.pm.ParametricMap(
            source_images=[source_of(image, plane)],
            pixel_array=attribution.values,
            series_instance_uid=ds.SeriesInstanceUID,
            series_number=ds.SeriesNumber,
            sop_instance_uid=ds.SOPInstanceUID,
            instance_number=ds.InstanceNumber,
            manufacturer=ds.Manufacturer,
            manufacturer_model_name=ds.ManufacturerModelName,
            software_versions=image.options.software_version,
            device_serial_number=ds.DeviceSerialNumber,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_mapping(attribution, method)],
            voi_lut_transformations=[_window(attribution)],
            image_flavor=hd.pm.ImageFlavorValues.STATIC,
            derived_pixel_contrast=hd.pm.DerivedPixelContrastValues.QUANTITY,
            content_qualification=ds.ContentQualification,
            content_label="HEATMAP",
            derivation=codes.VISUAL_EXPLANATION,
            pixel_measures=measures(plane.spacing),
        )
        ds.ContentDescription = "Raw heatmap; 0 where the image was not examined"
        made.ImageComments = f"{DISCLAIMER}. Heatmap: {plain(attribution.scale.unit, 256)}."
        return finish(ds, made)


def _mapping(attribution: Attribution, method: str) -> hd.pm.RealWorldValueMapping:
    """Stored values are the values: slope 1, intercept 0, no unit."""
    scale = attribution.scale
    last = max(scale.full_scale, float(attribution.values.max()))
    return hd.pm.RealWorldValueMapping(
        lut_label="HEATMAP",
        lut_explanation=plain(scale.unit),
        unit=codes.UNITY,
        value_range=(0.0, last),
        intercept=0.0,
        slope=1.0,
        quantity_definition=QUANTITIES.get(method, codes.SALIENCY),
    )


def _window(attribution: Attribution) -> hd.VOILUTTransformation:
    """From the declared floor to full scale; a linear function cannot be narrower than 1 (PS3.3 C.11.2.1.2.1)."""
    floor, full = attribution.scale.floor, attribution.scale.full_scale
    return hd.VOILUTTransformation(
        window_center=float(f"{(floor + full) / 2:.8g}"),
        window_width=float(f"{max(full - floor, full / _NARROWEST):.8g}"),
        voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT,
    )


PLUGIN = ParametricMap()
