"""What a destination gets, from the settings."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

from dicom_node.results.context import ResultOptions
from dicom_node.settings.answers import MORPHS, SYNTHETIC
from dicom_node.settings.sections import Settings


def result_options(settings: Settings, destination: str | None = None, only: Sequence[str] = ()) -> ResultOptions:
    """What a destination gets, without one what [results] says; `only` may restrict the objects."""
    chosen = settings.results
    profile = next((one for one in settings.destinations if one.name == destination), None)
    objects, asked = chosen.objects, dict[str, Any]()
    fields = ("methods", "long_edge", "compression", "explain")
    usual: dict[str, Any] = {name: getattr(chosen, name) for name in fields}
    if profile is not None:
        objects = profile.objects if profile.objects is not None else objects
        objects += (SYNTHETIC, MORPHS) if profile.synthetic_images else ()
        asked = {name: value for name in fields if (value := getattr(profile, name)) is not None}
    if only:
        objects = tuple(name for name in objects if name in only)
    return ResultOptions(
        objects=objects,
        method_order=settings.methods(),
        **usual | asked,
        patient_in_image=chosen.patient_in_image,
        content_qualification=chosen.content_qualification,
        series_number_base=chosen.series_number_base,
        manufacturer=chosen.manufacturer,
        institution=chosen.institution,
        timezone=ZoneInfo(chosen.timezone) if chosen.timezone else UTC,
        station_ae_title=settings.node.ae_title,
    )
