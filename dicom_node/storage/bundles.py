"""The store of promoted bundles, a folder per digest; bundles in tar files, which come from elsewhere or go there.

Every copy is written aside, verified and renamed: a folder under its final name is complete.
"""

import re
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger.deployments import Deployment
from explain_core.bundles.files import SUMS, listed, verify
from explain_core.errors import BundleError
from explain_core.files import fresh

MOST_FILES: Final = 64
MOST_BYTES: Final = 4 << 30
"""Of a bundle in a tar file."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def bundle_path(settings: Settings, deployment: Deployment | None) -> Path:
    """Where the bundle of a deployment lies; without one, the configured bundle."""
    if deployment is None or not deployment.digest:
        return settings.model.bundle
    return settings.model.store / deployment.digest


def check(settings: Settings, deployment: Deployment | None) -> str:
    """Verify every file of a deployment's bundle and return its digest.

    Raises:
        BundleError: it is missing or damaged, or another bundle lies in its place.
    """
    folder = bundle_path(settings, deployment)
    digest = verify(folder)
    if deployment is not None and digest != deployment.digest:
        raise BundleError(f"{folder} holds another bundle, with the digest {digest}")
    return digest


def digests(settings: Settings) -> list[str]:
    """Names of the bundles in the store, damaged ones too, in order."""
    if not settings.model.store.is_dir():
        return []
    names = (path.name for path in settings.model.store.iterdir() if path.is_dir())
    return sorted(name for name in names if _DIGEST.fullmatch(name))


def described(folder: Path) -> tuple[str, str]:
    """Name and version that a bundle gives itself; empty where it cannot be read."""
    try:
        description = tomllib.loads((folder / "bundle.toml").read_text())
        return str(description["name"]), str(description["version"])
    except (OSError, ValueError, KeyError):
        return "", ""


def pack(bundle: Path, file: Path) -> None:
    """Write a verified bundle as a tar file: the listed files and SHA256SUMS, the same bytes each time.

    Raises:
        BundleError: the bundle is not sound.
    """
    digest = verify(bundle)
    file.parent.mkdir(parents=True, exist_ok=True)
    with fresh(file) as whole, tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted((*listed(bundle / SUMS), SUMS)):
            member = tarfile.TarInfo(f"{digest}/{name}")
            member.size, member.mode = (bundle / name).stat().st_size, 0o644
            with (bundle / name).open("rb") as content:
                tar.addfile(member, content)


@contextmanager
def unpacked(source: Path, scratch: Path) -> Iterator[Path]:
    """A verified bundle from a folder, or from a tar file that is unpacked below `scratch` for the time being.

    Raises:
        BundleError: what is there is not a bundle and nothing but a bundle: plain files, all of them listed.
    """
    if source.is_dir():
        for path in source.iterdir():
            if path.is_symlink():
                raise BundleError(f"{path} is a link; a bundle has plain files only")
        _verified(source, source)
        yield source
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=scratch) as name:
        folder = Path(name) / "bundle"
        folder.mkdir()
        try:
            with tarfile.open(source, "r:") as tar:
                _extract(tar, folder)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise BundleError(f"{source} is no tar file that can be read: {error}") from error
        _verified(folder, source)
        yield folder


def _verified(folder: Path, source: Path) -> None:
    """Verify; what is wrong is said of `source`, which people know."""
    try:
        verify(folder)
    except BundleError as error:
        raise BundleError(str(error).replace(str(folder), str(source))) from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{source / SUMS} is no text") from error


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Plain files of one folder, and only those that SHA256SUMS lists; nothing is written anywhere else."""
    total, tops = 0, set()
    for member in tar:
        if member.isdir():
            continue
        path = PurePosixPath(member.name)
        parts = [part for part in path.parts if part != "."]
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise BundleError(f"{member.name!r} in the tar file is a link or no plain file")
        if path.is_absolute() or ".." in parts or "\\" in member.name or not 1 <= len(parts) <= 2:  # noqa: PLR2004
            raise BundleError(f"{member.name!r} in the tar file leaves the bundle's folder")
        tops.add(tuple(parts[:-1]))
        total += member.size
        if len(tops) > 1 or (folder / parts[-1]).exists():
            raise BundleError(f"{member.name!r} in the tar file: more than one bundle, or one file twice")
        if total > MOST_BYTES or len(list(folder.iterdir())) >= MOST_FILES:
            raise BundleError(f"the tar file has more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
        content = tar.extractfile(member)
        if content is not None:
            with (folder / parts[-1]).open("xb") as file:
                shutil.copyfileobj(content, file)
    known = {*listed(folder / SUMS), SUMS} if (folder / SUMS).is_file() else set()
    if extra := sorted({path.name for path in folder.iterdir()} - known) if known else []:
        raise BundleError(f"{extra[0]!r} in the tar file is not listed in {SUMS}")
