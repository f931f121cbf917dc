"""Files as objects of an S3-compatible store, which several hosts share (ADR 20).

The name of an object ends in the SHA-256 of its bytes, and the ledger names it: whoever reads it, wherever, knows
whether it is what was written. It is there whole or not at all: one PUT, which the store checks by the SHA-256, and a
HEAD that says the same, before the ledger hears of it. Nothing is renamed, and no listing is trusted. Readers get
a file of this host's cache, whose content is verified each time.
"""

import contextlib
import hashlib
import os
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from dicom_node.errors import ConfigError, DatasetUnreadable, OutOfResources
from dicom_node.settings.sections import StoreSettings
from dicom_node.storage.file_store import Stored
from dicom_node.storage.folder import looked_at
from dicom_node.storage.spool import no_room
from explain_core.errors import install

KEPT_SECONDS: Final = 900.0
"""How long a file stays in the cache after its last use, however full that is: somebody is about to open it."""
ABANDONED_SECONDS: Final = 86_400.0
"""Age of a download that nobody will end."""
CONNECT_SECONDS: Final = 5
ATTEMPTS: Final = 2
_BLOCK: Final = 1 << 20
_LOOK_AFTER: Final = 16
"""The cache is looked at after each sixteenth of what it may hold."""
_MD5_TOLD: Final = frozenset({None, "AES256"})
"""Kinds of encryption at rest with which the ETag of an object is the MD5 of its bytes."""

log = structlog.get_logger(__name__)


class Damaged(DatasetUnreadable):
    """What the store gives is not what was written."""


class _Digests(NamedTuple):
    sha256: str
    md5: str


class ObjectStore:
    """A `FileStore` in a bucket.

    Args:
        settings: where it is.
        cache: folder for what was read, on this host; made when missing.

    Raises:
        ConfigError: the library is missing.
    """

    root = Path()
    local = False
    look_every = 24 * 60

    def __init__(self, settings: StoreSettings, cache: Path) -> None:
        try:
            import s3fs  # noqa: PLC0415 - only where there is an object store
        except ImportError:
            raise ConfigError(f"store.url: s3fs is missing: {install('s3')}") from None
        self._url = str(settings.url)
        self._bucket, _, prefix = self._url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._cache, self._cache_bytes = cache, settings.cache_mb << 20
        self._cache.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._brought = self._cache_bytes  # what others left is looked at first
        self._files = s3fs.S3FileSystem(
            endpoint_url=settings.endpoint,
            client_kwargs={
                "region_name": settings.region,
                "verify": None if settings.authorities is None else str(settings.authorities),
            },
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": settings.timeout,
                "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
                "max_pool_connections": 50,
                "request_checksum_calculation": "when_required",
                "s3": {"addressing_style": "auto" if settings.endpoint is None else "path"},
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self._files.retries = 1  # what is sent again is sent from its beginning, which only botocore sees to

    def put(self, part: Path, path: Path) -> Path:
        """Write an object, and have the store say that it has it; the part stays."""
        found = _digests(part)
        name = path.stem.removesuffix(f"-{found.sha256}")  # made of an object's own
        kept = path.with_name(f"{name}-{found.sha256}{path.suffix}")
        checksum = b64encode(bytes.fromhex(found.sha256)).decode()
        with self._answering(), part.open("rb") as content:
            self._call("put_object", kept, Body=content, ChecksumSHA256=checksum, ContentType="application/dicom")
            told = self._call("head_object", kept, ChecksumMode="ENABLED")
        same = told["ContentLength"] == part.stat().st_size and told.get("ChecksumSHA256") in {None, checksum}
        if told.get("ServerSideEncryption") in _MD5_TOLD and "SSECustomerAlgorithm" not in told:
            same &= told["ETag"].strip('"') == found.md5
        else:
            same &= "ChecksumSHA256" in told
        if not same:
            log.error("the object store has not kept what was written", object=str(kept))
            raise OutOfResources("the object store has not kept what was written: see its log, and the network's")
        return kept

    def put_all(self, parts: Iterable[tuple[Path, Path]]) -> list[Path]:
        """One after the other."""
        return [self.put(part, path) for part, path in parts]

    def take_back(self, path: Path, part: Path) -> None:
        """Remove the object; its part is still there."""
        if not part.exists():
            raise FileNotFoundError(part)
        self.remove([path])

    def move(self, path: Path, target: Path) -> Path:
        """Write it again, then remove it."""
        kept = self.put(self.fetch(path), target)
        self.remove([path])
        return kept

    def fetch(self, path: Path) -> Path:
        """A file of the cache with the object's bytes; one that is not there where there is no such object."""
        local, wanted = self._cache / path, path.stem[-64:]
        with contextlib.suppress(FileNotFoundError):
            if _digests(local).sha256 == wanted:  # a power cut may have left something else
                os.utime(local)
                return local
        part = self._cache / f"{uuid.uuid4().hex}.part"
        try:
            with self._answering():
                self._files.get_file(f"{self._bucket}/{self._key(path)}", str(part), max_concurrency=1)
            if _digests(part).sha256 != wanted:
                log.error("an object is damaged: its SHA-256 is not the one in its name", object=str(path))
                raise Damaged("the stored object is damaged")
            local.parent.mkdir(parents=True, exist_ok=True)
            size = part.stat().st_size
            part.replace(local)
        except FileNotFoundError:
            return local
        finally:
            part.unlink(missing_ok=True)
        self._bound(size)
        return local

    def exists(self, path: Path) -> bool:
        """Whether there is such an object."""
        return self._size(path) is not None

    def remove(self, paths: Iterable[Path]) -> int:
        """Remove objects; returns the bytes of those that were there."""
        freed = 0
        for path in paths:
            size = self._size(path)
            if size is not None:
                with self._answering():
                    self._call("delete_object", path)
                freed += size
            (self._cache / path).unlink(missing_ok=True)
        return freed

    def drop(self, folder: Path) -> None:
        """There are no folders but in the cache."""
        with contextlib.suppress(OSError):
            (self._cache / folder).rmdir()

    def seen(self, folder: Path) -> Iterator[Stored]:
        """Every object below a folder, in order of its name."""
        begin, more = f"{self._prefix}{folder}/", dict[str, str]()
        while True:
            with self._answering():
                page = self._files.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=begin, **more)
            for one in page.get("Contents", ()):
                path = Path(one["Key"].removeprefix(self._prefix))
                yield Stored(one["LastModified"].timestamp(), one["Size"], path)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def groups(self, folder: Path) -> Iterator[tuple[Path, list[Stored]]]:
        """What lies below each folder in a folder, from one listing of all."""
        for name, found in groupby(self.seen(folder), lambda one: one.path.relative_to(folder).parts[0]):
            yield folder / name, [*found]

    def check(self) -> str:
        """Write, read and remove a small object."""
        began, part = time.monotonic(), self._cache / f"{uuid.uuid4().hex}.part"
        try:
            part.write_bytes(uuid.uuid4().bytes)
            kept = self.put(part, Path("probe") / "doctor.dcm")
            there = self.fetch(kept).exists()
            self.remove([kept])
        finally:
            part.unlink(missing_ok=True)
        if not there:
            raise OutOfResources(f"{self._url} gives nothing back of what it was given")
        took = 1000 * (time.monotonic() - began)
        return f"{self._url}: an object was written, confirmed, read and removed in {took:.0f} ms"

    def _key(self, path: Path) -> str:
        return f"{self._prefix}{path}"

    def _call(self, method: str, path: Path, **more: Any) -> Any:
        return self._files.call_s3(method, Bucket=self._bucket, Key=self._key(path), **more)

    def _size(self, path: Path) -> int | None:
        """Bytes of an object; None where there is none."""
        try:
            with self._answering():
                return int(self._call("head_object", path)["ContentLength"])
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Of what the store does not do, say that it is out of resources; but for an object that is not there."""
        try:
            yield
        except OutOfResources:
            raise
        except PermissionError as error:
            advice = "the object store refuses this node: check credentials and policy of the bucket"
            raise OutOfResources(advice) from error
        except Exception as error:  # botocore, aiobotocore, aiohttp and s3fs raise many kinds
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error.__cause__):
                raise
            if isinstance(error, OSError) and no_room(error):
                raise OutOfResources("Disk full") from error
            said = f"the object store does not answer ({type(error).__name__})"
            raise OutOfResources(f"{said}: see store.url, store.endpoint and the store's own log") from error

    def _bound(self, size: int) -> None:
        """Count what was brought; now and then remove what was not used for longest, until the rest may stay."""
        with self._lock:
            self._brought += size
            if self._brought < self._cache_bytes / _LOOK_AFTER:
                return
            self._brought = 0
        now = time.time()
        files = sorted(looked_at(path for path in self._cache.rglob("*") if path.is_file()))
        excess = sum(one.size for one in files) - self._cache_bytes
        for one in files:
            age = now - one.written
            if (excess > 0 and age > KEPT_SECONDS and one.path.suffix != ".part") or age > ABANDONED_SECONDS:
                one.path.unlink(missing_ok=True)
                excess -= one.size
                with contextlib.suppress(OSError):  # not empty
                    one.path.parent.rmdir()


def _digests(path: Path) -> _Digests:
    """Of a file's bytes, hexadecimal.

    Raises:
        FileNotFoundError: there is none.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            md5.update(block)
    return _Digests(sha256.hexdigest(), md5.hexdigest())
