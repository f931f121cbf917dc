"""Where complete files lie: what the spool asks of a folder (`folder`) and of an object store (`objects`).

A path is what a row of the ledger names: absolute where files lie in a folder, relative where they are objects. Paths
are never made up from what a store lists: a listing serves to measure, and to find what no row names.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Fetch = Callable[[Path], Path]
"""`FileStore.fetch`. Where files lie in a folder, `Path` does the same."""


@dataclass(frozen=True, slots=True, order=True)
class Stored:
    """A file as a listing tells of it; `written` is a POSIX timestamp, `size` is in bytes."""

    written: float
    size: int
    path: Path


class FileStore(Protocol):
    """Keeps files that are written once and never changed.

    Attributes:
        root: what every path begins with.
        local: whether the files lie on the disk of the spool, so that removing them makes room there.
        look_every: minutes between two looks at every file.
    """

    root: Path
    local: bool
    look_every: int

    def put(self, part: Path, path: Path) -> Path:
        """Keep a file, durable on return; the part may be left behind.

        Returns:
            where it lies: an object's name tells its content, too.

        Raises:
            OutOfResources: there is no room, or the store does not answer; nothing is kept that anybody could find.
        """

    def put_all(self, parts: Iterable[tuple[Path, Path]]) -> list[Path]:
        """Keep several files, each part under its path; all are durable on return, in less time than one by one.

        Raises:
            OutOfResources: as of `put`; some may be kept then.
        """

    def take_back(self, path: Path, part: Path) -> None:
        """Undo a `put` of this very moment."""

    def move(self, path: Path, target: Path) -> Path:
        """Keep a file under another path; returns where."""

    def fetch(self, path: Path) -> Path:
        """A local file with that content, to be read within minutes; one that is not there where nothing is kept.

        Raises:
            Damaged: what is kept there is not what was put.
            OutOfResources: the store does not answer.
        """

    def exists(self, path: Path) -> bool:
        """Whether a file is kept there.

        Raises:
            OutOfResources: the store does not answer.
        """

    def remove(self, paths: Iterable[Path]) -> int:
        """Remove files, those that are gone already, too; returns the bytes of those that were there."""

    def drop(self, folder: Path) -> None:
        """Remove a folder that is empty."""

    def seen(self, folder: Path) -> Iterator[Stored]:
        """Every file below a folder; one that is being written or removed may be missing, or not."""

    def groups(self, folder: Path) -> Iterator[tuple[Path, list[Stored]]]:
        """The folders in a folder, and every file below each."""

    def check(self) -> str:
        """Find out whether files can be kept and read now, and say where they lie.

        Raises:
            OutOfResources: they cannot; the message says what to do.
        """
