"""A de-identified training set of what the node has received, and what radiologists said of its results."""

from dicom_node.learn.export.folder import ExportRefused
from dicom_node.learn.export.judged import NotJudged, judge
from dicom_node.learn.export.recheck import IdentifierFound
from dicom_node.learn.export.run import LeftOut, NothingExported, Report, Wishes, export

__all__ = [
    "ExportRefused",
    "IdentifierFound",
    "LeftOut",
    "NotJudged",
    "NothingExported",
    "Report",
    "Wishes",
    "export",
    "judge",
]
