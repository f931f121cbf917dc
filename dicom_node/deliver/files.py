"""DICOM files as people have them, to be sent as they are: `dicom-node send`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import MediaStorageDirectoryStorage

from dicom_node.deliver.scu import StoreRequest
from dicom_node.dicom.reading import find, read_header
from dicom_node.errors import DatasetUnreadable, OutOfResources
from dicom_node.nouns import SOPInstanceUID
from dicom_node.watch.logs import without_warnings

_UIDS = ("SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What can be sent of some files and folders.

    Attributes:
        requests: the objects; the key is the path.
        unreadable: files that were named and are no DICOM object.
        left_out: the same that lay in a folder, such as a DICOMDIR or a text.
    """

    requests: tuple[StoreRequest, ...]
    unreadable: tuple[Path, ...]
    left_out: tuple[Path, ...]


def objects_in(paths: Sequence[Path]) -> Found:
    """The DICOM objects among files and in folders, in the order of their names."""
    requests, unreadable, left_out = list[StoreRequest](), list[Path](), list[Path]()
    named = set(paths)
    for path in find(paths):
        if (request := _request(path)) is not None:
            requests.append(request)
        else:
            (unreadable if path in named else left_out).append(path)
    return Found(requests=tuple(requests), unreadable=tuple(unreadable), left_out=tuple(left_out))


def _request(path: Path) -> StoreRequest | None:
    try:
        with without_warnings():
            header = read_header(path, _UIDS)
            sop_class, uid = (str(header.get(keyword) or "") for keyword in _UIDS)
    except (DatasetUnreadable, OutOfResources):
        return None
    if not uid or not sop_class or sop_class == MediaStorageDirectoryStorage:
        return None
    return StoreRequest(key=str(path), sop_instance_uid=SOPInstanceUID(uid), sop_class_uid=sop_class, path=path)
