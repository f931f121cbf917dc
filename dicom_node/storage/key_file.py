"""Secret keys of the node, each in a file of its own that nobody but its owner may read."""

import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from dicom_node.errors import NodeError, OutOfResources
from dicom_node.storage.spool import no_room
from explain_core.files import sync, write

_KEY = re.compile(r"[0-9a-f]{64}\n?")


class KeyUnusable(NodeError):
    """The file of a secret key cannot be used; the message says what to do."""


def secret_key(path: Path) -> bytes:
    """The key in a file: 32 bytes, in the file as 64 hexadecimal digits; made at the first call.

    A new file is durable and complete before it has its name, and only its owner may read it (mode 0600). Of two
    processes that make it at once, one wins and both use its key.

    Raises:
        KeyUnusable: others may read or write the file, or it holds no key.
        OutOfResources: the disk is full.
    """
    try:
        if not path.exists():
            _make_key(path)
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyUnusable(f"{path}: others than its owner may read or write it; make it private: chmod 600 {path}")
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and no_room(error):
            raise OutOfResources("Disk full") from error
        why = error.strerror if isinstance(error, OSError) else "it holds no key"
        raise KeyUnusable(f"{path}: the key cannot be used: {why}") from error
    if not _KEY.fullmatch(text):
        raise KeyUnusable(f"{path}: it holds no key of 64 hexadecimal digits; restore it from a copy")
    return bytes.fromhex(text.strip())


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        write(part, secrets.token_hex(32) + "\n", mode=0o600)
        with suppress(FileExistsError):
            path.hardlink_to(part)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)
