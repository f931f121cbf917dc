"""The audit trail on disk: a chain of lines that several processes write and nobody can change without a trace.

    audit-2026-03-01.jsonl     a file per day (UTC) and, when one grows too long, more: audit-2026-03-01-2.jsonl
    head.json                  where the chain ends: file, length, number and digest of the last line; the writers' lock

A line is a JSON object: `number`, `previous` (the digest of the line before; zeros before the first), the message, and
last its own digest over all that stands before it: `sha256`, or `hmac-sha256` where a key is set. The chain goes on
from file to file. The head is sealed the same way, so that a trail whose end was cut is shorter than its head says.

A line is on the disk (fsync) before the head is, and the head before `append` returns. What a writer finds that was
killed in between: whole lines behind the head are taken into the chain; a torn one stays as it is and gets a line end,
and the next line has its digest in `remark`. What no killed writer leaves is kept and remarked likewise, as `added`.
"""

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dicom_node.watch.audit_message import Message
from explain_core.files import sync

NOTHING: Final = "0" * 64
"""The digest before the first line."""
HEAD: Final = "head.json"
LOCK_SECONDS: Final = 5.0
"""How long a writer waits for others: a process that is stopped must not hold up all."""
_NAME = re.compile(r"audit-(\d{4}-\d\d-\d\d)(?:-(\d+))?\.jsonl")
_SEAL = re.compile(rb',"(sha256|hmac-sha256)":"([0-9a-f]{64})"\}')
_SEAL_LENGTHS = (len(',"sha256":""}') + 64, len(',"hmac-sha256":""}') + 64)
_HEAD_BYTES = 512
"""The head is written in place in one sector, and never replaced: it is the lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A line or a head whose digest fits.

    Attributes:
        content: what it says, without the digest.
        digest: of it, hexadecimal.
        keyed: whether the digest was made with the key.
    """

    content: dict[str, Any]
    digest: str
    keyed: bool

    def follows(self, number: int, digest: str) -> bool:
        """Whether it is the line after that one."""
        return self.content.get("number") == number + 1 and self.content.get("previous") == digest


def seal(content: Message, key: bytes | None) -> tuple[bytes, str]:
    """A line without its end, and its digest."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()[:-1]
    digest, name = _digest(body, key), "sha256" if key is None else "hmac-sha256"
    return body + f',"{name}":"{digest}"}}'.encode(), digest


def unseal(line: bytes, key: bytes | None) -> Sealed | None:
    """A line or head as it was sealed; None where it was changed, or where another key or none is at hand for it."""
    for length in _SEAL_LENGTHS:
        found = _SEAL.fullmatch(line[-length:])
        if found is None:
            continue
        body, keyed = line[:-length], found[1] == b"hmac-sha256"
        if keyed and key is None:
            return None
        if not hmac.compare_digest(_digest(body, key if keyed else None), found[2].decode()):
            return None
        try:
            content = json.loads(body + b"}")
        except ValueError:
            return None
        return Sealed(content=content, digest=found[2].decode(), keyed=keyed) if isinstance(content, dict) else None
    return None


def _digest(body: bytes, key: bytes | None) -> str:
    return hashlib.sha256(body).hexdigest() if key is None else hmac.new(key, body, hashlib.sha256).hexdigest()


def files(folder: Path) -> list[Path]:
    """The files of a trail in the order of the chain."""
    return sorted((path for path in folder.glob("audit-*.jsonl") if _NAME.fullmatch(path.name)), key=order)


def order(path: Path) -> tuple[str, int]:
    """Day and number of a file of the trail; files in this order are the chain."""
    found = _NAME.fullmatch(path.name)
    return ("", 0) if found is None else (found[1], int(found[2] or 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where the chain ends.

    Attributes:
        file: name of the last file; "" before the first line.
        length: of it, in bytes.
        number: of the last line.
        digest: of the last line.
    """

    file: str = ""
    length: int = 0
    number: int = 0
    digest: str = NOTHING


def read_head(folder: Path, key: bytes | None) -> tuple[Head, bool] | None:
    """The head and whether it is sealed with the key; None where there is none that can be believed."""
    try:
        found = unseal((folder / HEAD).read_bytes().strip(b" \n"), key)
    except FileNotFoundError:
        return None
    if found is None or set(found.content) != {"file", "length", "number", "digest"}:
        return None
    return Head(**found.content), found.keyed


class Trail:
    """Writes the trail; safe to use from many threads and processes.

    Args:
        folder: where it lies; made when missing.
        key: for the digests, or None.
        longest: bytes after which a day goes on in another file.
        clock: the time, aware.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes | None = None,
        longest: int = 64 << 20,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.folder = folder.absolute()
        self.key = key
        self._longest = longest
        self._clock = clock
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, messages: Sequence[Message]) -> None:
        """Add messages, in this order and in one file; when this returns, they are on the disk.

        Raises:
            OSError: they could not be written; nothing of them is there then.
        """
        with self._locked() as lock:
            end, remark, open_file = self._end(lock)
            number, digest, lines = end.number, end.digest, b"" if open_file is None else b"\n"
            for one in messages:
                number += 1
                linked = {"number": number, "previous": digest} | ({"remark": remark} if remark else {}) | one
                line, digest = seal(linked, self.key)
                lines += line + b"\n"
                remark = {}
            path = open_file or self._file_after(end)
            length = self._write(path, lines)
            self._write_head(lock, Head(file=path.name, length=length, number=number, digest=digest))

    def _end(self, lock: int) -> tuple[Head, dict[str, str], Path | None]:
        """Where the chain ends, by the head and by what was left behind it.

        Returns:
            the end; what the next line must say of what was found; a file that lacks its last line end, or None.
        """
        known, remark = read_head(self.folder, self.key), dict[str, str]()
        if known is None:
            end, keyed = self._last_of_files(), True
            if end.file:
                remark["head"] = "missing"
            else:
                self._write_head(lock, end)  # before the first line, so that a kill right after it is no missing head
        else:
            end, keyed = known
        if self.key is not None and not keyed and end.number:
            remark["head"] = "without the key"
        if end.file and _size(self.folder / end.file) < end.length:
            remark["head"] = "its file was cut"
        end, rest, open_file = self._behind(end)
        if rest:
            # A line is written by one call, its end last: what has a line end was not left by a killed writer.
            kind = "added" if b"\n" in rest else "torn"
            remark[kind] = hashlib.sha256(rest.removesuffix(b"\n")).hexdigest()
        return end, remark, open_file

    def _behind(self, end: Head) -> tuple[Head, bytes, Path | None]:
        """Takes whole lines behind the head into the chain; the new end, the rest, and which file has no line end."""
        rest, open_file = b"", None
        for path in files(self.folder):
            if order(path) < order(Path(end.file)):
                continue
            start = end.length if path.name == end.file else 0
            with path.open("rb") as file:
                file.seek(start)
                found = file.read()
            for line in found.splitlines(keepends=True):
                start += len(line)
                sealed = unseal(line.removesuffix(b"\n"), self.key)
                if not rest and sealed is not None and sealed.follows(end.number, end.digest):
                    end = Head(file=path.name, length=start, number=end.number + 1, digest=sealed.digest)
                else:
                    rest += line
            open_file = path if found and not found.endswith(b"\n") else None
        return end, rest, open_file

    def _last_of_files(self) -> Head:
        """The last whole line of all files; a head that is gone is made anew from it."""
        for path in reversed(files(self.folder)):
            content, length = path.read_bytes(), 0
            last: Head | None = None
            for line in content.splitlines(keepends=True):
                length += len(line)
                found = unseal(line.removesuffix(b"\n"), self.key)
                if found is not None and line.endswith(b"\n") and isinstance(found.content.get("number"), int):
                    last = Head(file=path.name, length=length, number=found.content["number"], digest=found.digest)
            if last is not None:
                return last
        return Head()

    def _file_after(self, end: Head) -> Path:
        """Where the next line goes: today's file, or the last one where the clock has gone back; a long one ends."""
        last = max([self.folder / end.file, *files(self.folder)], key=order)
        day, part = order(last)
        today = self._clock().astimezone(UTC).date().isoformat()
        if day < today:
            return self.folder / f"audit-{today}.jsonl"
        if not last.exists() or last.stat().st_size < self._longest:
            return last
        return self.folder / f"audit-{day}-{part + 1}.jsonl"

    def _write(self, path: Path, data: bytes) -> int:
        """Append to a file, durably, or leave it as it was; how long it is then."""
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            length = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
        if new:
            sync(self.folder)
        return length + len(data)

    def _write_head(self, lock: int, head: Head) -> None:
        content = {"file": head.file, "length": head.length, "number": head.number, "digest": head.digest}
        line, _ = seal(content, self.key)
        os.pwrite(lock, line.ljust(_HEAD_BYTES - 1) + b"\n", 0)
        os.fsync(lock)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The head, open and locked against every other thread and process.

        Raises:
            OSError: others hold it too long, or it cannot be opened.
        """
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            descriptor = os.open(self.folder / HEAD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if taken(descriptor) and _is(descriptor, self.folder / HEAD):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, "another process holds the audit's lock")
            time.sleep(0.005)


def taken(descriptor: int) -> bool:
    """Whether the lock of an open file is ours now, until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
