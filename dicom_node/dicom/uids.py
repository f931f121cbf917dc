"""What is a UID (PS3.5 9.1)."""

import re

from dicom_node.errors import DatasetUnreadable

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_UID_LENGTH = 64  # PS3.5, 9.1


def checked_uid(uid: str) -> str:
    """Return `uid` if it is a valid UID (PS3.5, 9.1): safe as a file name.

    Raises:
        DatasetUnreadable: it is not; the message does not repeat it.
    """
    if len(uid) > _UID_LENGTH or not _UID.fullmatch(uid):
        raise DatasetUnreadable("not a valid UID")
    return uid
