"""Files in a folder, of this machine or of a file system that several share.

Order of every write: bytes, fsync of the file, rename, fsync of the folder (and of the parents of a new folder).
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dicom_node.storage.file_store import Stored
from explain_core.files import sync

_MOST_REMEMBERED: Final = 10_000  # folders
_ATTEMPTS: Final = 3
_SYNCED_AT_ONCE: Final = 8


class Folder:
    """A `FileStore` in the file system.

    Args:
        root: the folder, absolute; made when missing.
    """

    local = True
    look_every = 15

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()

    def put(self, part: Path, path: Path) -> Path:
        """Make a file durable under its final name, in place of one that is there; the part is gone."""
        sync(part)
        self._rename(part, path)
        sync(path.parent)
        return path

    def put_all(self, parts: Iterable[tuple[Path, Path]]) -> list[Path]:
        """The same of several, each synced while the next one is made: the disk writes its journal once for many."""
        with ThreadPoolExecutor(_SYNCED_AT_ONCE, "sync") as pool:
            begun = [(pool.submit(sync, part), part, path) for part, path in parts]
        for synced, _, _ in begun:
            synced.result()
        for _, part, path in begun:
            self._rename(part, path)
        for folder in {path.parent for _, _, path in begun}:
            sync(folder)
        return [path for _, _, path in begun]

    def _rename(self, part: Path, path: Path) -> None:
        for attempt in range(_ATTEMPTS):
            self.make(path.parent)
            try:
                part.replace(path)
                break
            except FileNotFoundError:  # retention removes folders that are empty
                self._durable.discard(path.parent)
                if attempt + 1 == _ATTEMPTS or not part.exists():
                    raise

    def take_back(self, path: Path, part: Path) -> None:
        """Make it a part again."""
        path.replace(part)

    def move(self, path: Path, target: Path) -> Path:
        """Rename it."""
        return self.put(path, target)

    def fetch(self, path: Path) -> Path:
        """The file itself."""
        return path

    def exists(self, path: Path) -> bool:
        """Whether it is there."""
        return path.exists()

    def remove(self, paths: Iterable[Path]) -> int:
        """Remove files; returns their bytes."""
        freed = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
                path.unlink()
        return freed

    def drop(self, folder: Path) -> None:
        """Remove a folder that is empty."""
        with contextlib.suppress(OSError):
            folder.rmdir()

    def seen(self, folder: Path) -> Iterator[Stored]:
        """Every file below a folder; those that vanish meanwhile are left out."""
        return looked_at(Path(where) / name for where, _, names in os.walk(folder) for name in names)

    def groups(self, folder: Path) -> Iterator[tuple[Path, list[Stored]]]:
        """The folders in a folder, and every file below each."""
        for one in folder.iterdir():
            if one.is_dir():
                yield one, [*self.seen(one)]

    def check(self) -> str:
        """The spool's own disk, which is looked at for itself."""
        return f"in the spool, {self.root}"

    def make(self, folder: Path) -> None:
        """Make `folder`; return only when its name is durable, also if another thread or process made it."""
        if folder in self._durable:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for new in (folder, *folder.parents):
            sync(new.parent)
            if new == self.root:
                break
        if len(self._durable) >= _MOST_REMEMBERED:
            self._durable.clear()
        self._durable.add(folder)


def looked_at(paths: Iterable[Path]) -> Iterator[Stored]:
    """What the file system tells of files; those that vanish meanwhile are left out."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            told = path.stat()
            yield Stored(told.st_mtime, told.st_size, path)
