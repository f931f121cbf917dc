"""Whether the node can write where its settings say; asked before it starts, and by `dicom-node check-config`."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.errors import ConfigError
from explain_core.errors import install

if TYPE_CHECKING:
    from dicom_node.settings.sections import Settings

_SQLITE = "sqlite:///"


def sqlite_file(settings: "Settings") -> Path | None:
    """The file of the ledger; None of one that is in PostgreSQL."""
    url = settings.node.database
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None


def check_folders(settings: "Settings") -> None:
    """Refuse a spool, a ledger or an audit trail that this user cannot make or write; nothing is left behind.

    Raises:
        ConfigError: the message names the key, says why and what to do.
    """
    ledger = sqlite_file(settings)
    folders = {
        "node.spool": settings.node.spool,
        "node.database": ledger and ledger.parent,
        "audit.folder": settings.audit.folder,
    }
    for key, folder in folders.items():
        if folder is not None and (why := _unusable(folder)):
            raise ConfigError(
                f"{key}: {folder} cannot be {why}: make the folder and give it to the user of the node (mkdir -p, "
                f"chown), or name another one in {key}"
            )


def check_runtime(bundle: Path) -> None:
    """Refuse a model that this machine, if it explains, cannot run; silently where it does not.

    Raises:
        ConfigError: ONNX Runtime is missing; the message says how it is installed.
    """
    explains = find_spec("torch") is not None
    if explains and (bundle / "classifier.onnx").is_file() and find_spec("onnxruntime") is None:
        raise ConfigError(
            f"model.bundle: the classifier of {bundle} is an ONNX file, and ONNX Runtime is not installed: run "
            f"{install('onnx')}, or deploy/install.sh again"
        )


def _unusable(folder: Path) -> str:
    """Why nothing can be written in a folder, or it cannot be made; empty where it can."""
    whole = folder.absolute()
    there = next(one for one in (whole, *whole.parents) if os.access(one, os.F_OK))
    what = "written" if there == whole else "made"
    if not there.is_dir():
        return f"{what}: {there} is a file"
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".dicom-node-"):
            return ""
    except OSError as error:
        return f"{what}: {there}: {error.strerror}"
