"""The model of a worker process, and how it follows what is deployed.

Between two studies a worker reads one row. Only when another version is deployed does it look at files: every checksum
is verified, the new model is loaded, and then the old one is let go. When that fails, the old model stays, which is
said once in the log and in the ledger, and tried again when the row or the files have changed.
"""

import atexit
import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from dicom_node.clock import utc_now
from dicom_node.errors import ConfigError, OutOfResources
from dicom_node.explain.leases import SoftLimitExceeded
from dicom_node.settings.sections import Settings
from dicom_node.storage.bundles import bundle_path
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.deployments import Deployment, Swap
from explain_core import plugins
from explain_core.errors import BundleError
from explain_core.explanation import Explainer
from explain_core.processor import keep_memory

log = structlog.get_logger(__name__)

atexit.register(gc.unfreeze)  # libraries count at the end what is left, and complain


def open_explainer(settings: Settings, folder: Path, methods: Sequence[str]) -> Explainer:
    """The bundle in `folder` on the node's device, once it is known to serve `methods`; loads torch.

    Raises:
        BundleError: the bundle cannot be used, or does not serve one of them, which the message names.
        ConfigError: a folder of methods cannot be searched.
        ValueError: there is no such device.
    """
    from explain_core.explainer import open_bundle  # noqa: PLC0415 - the other roles must never load torch

    keep_memory()
    model = settings.model
    for index, own in enumerate(model.method_folders):
        try:
            plugins.add_folder(plugins.METHODS, own)
        except (NotADirectoryError, ValueError) as error:
            raise ConfigError(f"model.method_folders.{index}: {error}") from error
    explainer = open_bundle(folder, device=model.device, augmentations=model.augmentations, seed=model.seed)
    explainer.require(methods)
    return explainer


class RunningModel:
    """The champion in one worker process.

    Args:
        settings: where bundles lie.
        ledger: says which version is deployed.
        load: reads a bundle, whose every checksum it verifies; None is the configured one.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        load: Callable[[Path | None], Explainer],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._load = load
        self._explainer: Explainer | None = None
        self._running = ""
        self._refused: object = None

    def current(self) -> Explainer:
        """The deployed model, or, while that cannot be used, the one that ran before; called before each study.

        After a swap there is one model in memory: the old one is let go as soon as the new one is ready.

        Raises:
            ConfigError: the deployed bundle cannot be used and no other model was loaded before.
            OutOfResources: the ledger does not answer.
        """
        deployment = self._ledger.deployed("champion")
        wanted = "" if deployment is None else deployment.digest
        if self._explainer is not None and (wanted == self._running or self._state(deployment) == self._refused):
            return self._explainer
        try:
            made = self._load(None if deployment is None else bundle_path(self._settings, deployment))
            if deployment is not None and made.identity.digest != wanted:
                raise ConfigError(f"{bundle_path(self._settings, deployment)} holds another bundle")  # noqa: TRY301
        except (OutOfResources, SoftLimitExceeded):
            raise
        except Exception as error:
            self._keep(deployment, error)
            if self._explainer is None:
                raise
            return self._explainer
        old, self._explainer, self._running, self._refused = self._explainer, made, wanted, None
        log.info(
            "model loaded",
            name=made.identity.name,
            version=made.identity.version,
            digest=made.identity.digest,
            instead_of=None if old is None else old.identity.digest,
        )
        del old
        _release()
        self._record(wanted, None)
        return made

    def _keep(self, deployment: Deployment | None, error: Exception) -> None:
        """Say once that the deployed bundle cannot be used."""
        wanted = "" if deployment is None else deployment.digest
        self._refused = self._state(deployment)
        old = None if self._explainer is None else self._explainer.identity
        trouble = str(error) if isinstance(error, ConfigError | BundleError) else type(error).__name__
        log.error(
            "deployed model cannot be used",
            wanted=wanted,
            reason=trouble,
            runs=None if old is None else f"{old.name} {old.version}",
        )
        if old is not None:
            self._record(wanted, trouble)

    def _record(self, wanted: str, trouble: str | None) -> None:
        """For `dicom-node model list`."""
        identity = None if self._explainer is None else self._explainer.identity
        with suppress(OutOfResources):  # a note for people; the model is what matters
            self._ledger.swapped(
                Swap(
                    at=utc_now(),
                    process=f"{socket.gethostname()[:40]} {os.getpid()}",
                    wanted=wanted,
                    digest="" if identity is None else identity.digest,
                    version="" if identity is None else f"{identity.name} {identity.version}",
                    trouble=trouble,
                )
            )

    def _state(self, deployment: Deployment | None) -> object:
        """What must change before a refused bundle is looked at again: the row, or any file's size or time."""
        folder = bundle_path(self._settings, deployment)
        files: list[tuple[str, int, int, int]] = []
        with suppress(OSError):
            for entry in os.scandir(folder):
                seen = entry.stat()
                files.append((entry.name, seen.st_ino, seen.st_size, seen.st_mtime_ns))
        return (0 if deployment is None else deployment.sequence, tuple(sorted(files)))


def _release() -> None:
    """Give back the memory of a model that nothing refers to, and keep later collections out of what is left.

    torch alone makes some 400,000 objects that stay: to look through them took 0.3 s, in the midst of a study.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
