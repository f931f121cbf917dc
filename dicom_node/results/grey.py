"""What an image was shown by, as elements of a presentation state (PS3.3 C.11.1, C.11.6, C.11.8).

A viewer that applies a presentation state applies nothing of the image's own. Tables are written with 16 bits and at
full scale, because the number of bits that files state is often wrong and validators take no other tables than those
which use all their bits. For the same reason a Modality LUT and what follows it become one VOI LUT.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from dicom_node.dicom.greys import Greys, Table, Window

_BITS = 16
_WORD = 1 << _BITS


def transformations(greys: Greys) -> Dataset:
    """The elements of the Modality LUT, Softcopy VOI LUT and Softcopy Presentation LUT modules that show `greys`."""
    ds = Dataset()
    modality, voi = greys.modality, greys.voi
    if isinstance(modality, Table):
        item = _table(modality.first, voi.grey(modality.entries))
    elif isinstance(voi, Table):
        item = _table(voi.first, voi.grey(np.arange(voi.first, voi.first + len(voi.entries))))
    else:
        item = _window(voi)
    ds.SoftcopyVOILUTSequence = [item]
    if not isinstance(modality, Table) and not modality.identity:
        ds.RescaleSlope = format_number_as_ds(modality.slope)
        ds.RescaleIntercept = format_number_as_ds(modality.intercept)
        ds.RescaleType = modality.type
    ds.PresentationLUTShape = "INVERSE" if greys.inverse else "IDENTITY"
    return ds


def _table(first: int, shown: NDArray[np.float32]) -> Dataset:
    """An item of Softcopy VOI LUT Sequence with a table: `shown`, 0 to 1, for the inputs from `first` on."""
    table, count = Dataset(), len(shown) % _WORD
    if first < 0:
        signed = count - _WORD if count >= _WORD // 2 else count
        table.add_new("LUTDescriptor", "SS", [signed, first, _BITS])
    else:
        table.add_new("LUTDescriptor", "US", [count, first, _BITS])
    table.add_new("LUTData", "OW", np.rint(shown * (_WORD - 1)).astype("<u2").tobytes())
    item = Dataset()
    item.VOILUTSequence = [table]
    return item


def _window(window: Window) -> Dataset:
    """An item of Softcopy VOI LUT Sequence with a window."""
    item = Dataset()
    item.WindowCenter, item.WindowWidth = format_number_as_ds(window.center), format_number_as_ds(window.width)
    if window.function != "LINEAR":
        item.VOILUTFunction = window.function
    return item
