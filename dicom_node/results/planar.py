"""Objects that highdicom builds on a planar source: what it is given, and what is taken from it.

highdicom reads attributes of type 2 that a source may lack, and writes Patient, Study, Series and Equipment its own
way. So it is given a stand-in that names the source and describes its pixels, and of what it makes only the
elements are taken that `_header.start` has not set.
"""

from pydicom import Dataset

from dicom_node.dicom.elements import code, integer
from dicom_node.results.context import ResultContext
from dicom_node.results.header import TYPE_2


def stand_in(image: ResultContext) -> Dataset:
    """A data set that names the source and describes its pixels, without anything of the patient."""
    ds = Dataset()
    for keyword in TYPE_2:
        setattr(ds, keyword, None)
    source = image.source
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.study_instance_uid, source.series_instance_uid
    ds.SOPClassUID, ds.SOPInstanceUID = source.sop_class_uid, source.sop_instance_uid
    ds.Modality = code(image.header, "Modality")
    ds.Rows, ds.Columns = image.radiograph.pixels.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = code(image.header, "PhotometricInterpretation") or "MONOCHROME2"
    ds.BitsAllocated = integer(image.header, "BitsAllocated", 16)
    ds.BitsStored = integer(image.header, "BitsStored", 16)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = integer(image.header, "PixelRepresentation", 0)
    return ds


def adopt(ds: Dataset, made: Dataset) -> None:
    """Add to `ds` every element of `made` that it has not got."""
    for element in made:
        if element.tag not in ds:
            ds.add(element)
