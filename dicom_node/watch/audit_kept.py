"""How long the audit trail is kept: whole files, the oldest first, never the newest.

Nor does one go before the audit repository, where there is one, has taken it.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_node.watch.audit_syslog import POSITION
from dicom_node.watch.audit_trail import files, order


class OldTrail:
    """The files of a trail as a store of which retention removes the oldest; `audit verify` then begins after them.

    Args:
        folder: `[audit] folder`.
        sent: whether the trail is sent to an audit repository: what it has not taken yet stays.
    """

    name = "audit"

    def __init__(self, folder: Path, *, sent: bool) -> None:
        self._folder = folder
        self._sent = sent

    def expire(self, before: datetime | None, *, dry_run: bool) -> tuple[int, int]:
        """Remove the files of days that ended before a time (None: none); returns how many and their bytes."""
        old = [] if before is None else [path for path in files(self._folder)[:-1] if _end(path) <= before]
        gone = old if not self._sent else [path for path in old if order(path) < self._taken()]
        size = sum(path.stat().st_size for path in gone)
        for path in () if dry_run else gone:
            path.unlink()
        return len(gone), size

    def files(self) -> Iterator[Path]:
        """Every file."""
        return iter(files(self._folder))

    def _taken(self) -> tuple[str, int]:
        """The file that the repository is at; before the first message before all."""
        try:
            return order(Path(str(json.loads((self._folder / POSITION).read_text())["file"])))
        except (OSError, ValueError, KeyError, TypeError):
            return ("", 0)


def _end(path: Path) -> datetime:
    return datetime.fromisoformat(order(path)[0]).replace(tzinfo=UTC) + timedelta(days=1)
