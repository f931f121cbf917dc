"""Who says so in a document: this software with its model, not a person."""

import highdicom.sr as hd

from dicom_node.results import codes
from dicom_node.results.context import Context, device_uid, uid
from dicom_node.results.header import plain


def device_observer(about: Context) -> hd.ObserverContext:
    """The node and its model as device observer (PS3.16 TID 1002, 1004)."""
    options, model = about.options, about.model
    device = hd.DeviceObserverIdentifyingAttributes(
        uid=device_uid(model) if model is not None else uid("device", options.station_ae_title),
        name=plain(options.station_ae_title),
        manufacturer_name=plain(options.manufacturer),
        model_name=plain(f"{model.name} {model.version}") if model is not None else "no model",
    )
    return hd.ObserverContext(
        observer_type=hd.CodedConcept.from_code(codes.DEVICE), observer_identifying_attributes=device
    )
