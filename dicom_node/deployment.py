"""Which version runs: promotion, rollback, and how the model of a running worker follows.

A promotion brings the bundle into the store, verifies it, and is then one transaction of the ledger: killed at any
point, it leaves the version before or the new one, with its files. MLflow's aliases follow afterwards; what an MLflow
that was away has missed is made up for by the next command.

Between two studies a worker reads one row. Only when another version is deployed does it look at files: every checksum
is verified, the new model is loaded, and then the old one is let go. When that fails, the old model stays, which is
said once in the log and in the ledger, and tried again when the row or the files have changed.
"""

import gc
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from dicom_node.broker import utc_now
from dicom_node.errors import ConfigError, NodeError, OutOfResources
from dicom_node.ledger import Ledger
from dicom_node.ledger.deployments import Deployment, NothingBefore, Overtaken, Role, Swap, before_last
from dicom_node.limits import SoftLimitExceeded
from dicom_node.model_store import bundle_path, check
from dicom_node.settings import Settings
from explain_core import plugins
from explain_core.bundle_files import SUMS, digest_of, need_scales, scaled_methods
from explain_core.errors import BundleError
from explain_core.explanation import Explainer
from explain_core.memory import keep_memory
from explain_core.registry import Registry, Version

ROLES: Final[tuple[Role, ...]] = ("champion", "challenger")
LET_THROUGH: Final = frozenset({"passed", "forced"})
"""Of `Version.gate`; a job's own --force has given its reason already."""
FORCED: Final = "forced_promotion"
"""Tag of a version that was promoted against its gate: when, who, why."""
_TURNED: Final = re.compile(r"\b[1-9]\d* labels turned")
"""In the tag `rehearsal` of a version: it learnt from labels that are wrong on purpose."""

log = structlog.get_logger(__name__)


class NotDeployed(NodeError):
    """A version may not be deployed, or there is none to go back to; nothing has changed."""


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


def open_registry(settings: Settings) -> Registry:
    """The registry of the settings; it is not asked anything yet."""
    return Registry(settings.registry.uri, settings.registry.name, settings.registry.artifacts)


def promote(
    settings: Settings,
    ledger: Ledger,
    registry: Registry,
    number: int,
    *,
    by: str,
    reason: str = "",
    force: bool = False,
    now: datetime,
) -> Deployment:
    """Make a version the champion.

    Args:
        settings: where the store is.
        ledger: where the promotion is recorded.
        registry: has the version.
        number: of the version.
        by: who promotes.
        reason: why; needed with `force`.
        force: promote a version that its gate refused, or that none has judged, or that was compared with another
            champion than the one that runs, or that learnt from labels turned on purpose.
        now: the time.

    Raises:
        NotDeployed: there is such an objection, and `force` or `reason` is missing; or somebody else changed the
            champion at the same moment.
        BundleError: the registry's files are damaged, or the version does not serve a method that the node needs.
        RegistryError: there is no such version, or the registry does not answer.
    """
    version, runs = registry.version(number), ledger.deployed("champion")
    objection = _objection(settings, runs, registry, version)
    if objection and not force:
        raise NotDeployed(f"version {number} {objection}; --force with --reason TEXT promotes it all the same")
    if objection and not reason.strip():
        raise NotDeployed(f"version {number} {objection}; --force needs a reason: --reason TEXT")
    folder = registry.fetch(version.number, settings.model.store)
    need_scales(settings.methods_for(), scaled_methods(folder))
    expected = "" if runs is None else runs.digest
    try:
        return _deploy(
            "champion", ledger, version, by=by, reason=reason, forced=bool(objection), expected=expected, now=now
        )
    except Overtaken as error:
        raise NotDeployed(str(error)) from error


def _objection(settings: Settings, deployed: Deployment | None, registry: Registry, version: Version) -> str:
    """Why a version is promoted by force only; "" where its gate let it through against what runs now."""
    if version.gate not in LET_THROUGH:
        why = version.tags.get("reason", "no reason is kept").rstrip(".")
        return f"was refused by its gate ({why})" if version.gate == "refused" else "was judged by no gate"
    runs = _digest(settings, deployed, "champion")
    if version.digest == runs:  # only its files are brought again
        return ""
    if _TURNED.search(rehearsed := version.tags.get("rehearsal", "")):
        return f"is a rehearsal: {rehearsed}"
    parent = version.tags.get("parent_digest", "")
    if not parent:
        return "does not say which champion it was compared with: retrain"
    if parent != runs:
        known = registry.by_digest(parent)
        named = parent[:12] if known is None else _named(known.number)
        return f"was compared with {named}, which does not run any more: retrain"
    return ""


def shadow(
    settings: Settings, ledger: Ledger, registry: Registry, number: int, *, by: str, reason: str = "", now: datetime
) -> Deployment:
    """Make a version the challenger, whatever its gate says: its results are not sent.

    Raises:
        BundleError, RegistryError: as of `promote`.
    """
    version = registry.version(number)
    registry.fetch(number, settings.model.store)
    return _deploy("challenger", ledger, version, by=by, reason=reason, now=now)


def _deploy(role: Role, ledger: Ledger, version: Version, **how: Any) -> Deployment:
    return ledger.deploy(
        role,
        digest=version.digest,
        number=version.number,
        name=version.bundle_name,
        version=version.bundle_version,
        **how,
    )


def rollback(
    settings: Settings, ledger: Ledger, registry: Registry, *, by: str, reason: str = "", now: datetime
) -> Deployment:
    """Go back to the champion before the last promotion that was not taken back; needs no MLflow.

    The registry is asked only when the store's copy is damaged.

    Raises:
        NotDeployed: no promotion is left to take back, or somebody else changed the champion at the same moment.
        BundleError, RegistryError: the bundle to go back to cannot be used, and the registry cannot help.
    """
    try:
        before = before_last(ledger.history("champion"))
        try:
            check(settings, before)
        except BundleError:
            if before is None or before.number is None:
                raise
            registry.fetch(before.number, settings.model.store)
            check(settings, before)
        expected = "" if before is None else before.digest
        return ledger.rollback("champion", by=by, reason=reason, now=now, expected=expected)
    except (NothingBefore, Overtaken) as error:
        raise NotDeployed(str(error)) from error


def follow(settings: Settings, ledger: Ledger, registry: Registry, versions: Sequence[Version]) -> list[str]:
    """Set MLflow's aliases and the notes of forced promotions right by the ledger; say what differed.

    Args:
        settings: name the configured bundle.
        ledger: the truth.
        registry: what follows.
        versions: of the registry, as just read.

    Raises:
        RegistryError: the registry does not answer.
    """
    numbers = {version.digest: version.number for version in versions}
    said = []
    for role in ROLES:
        wanted = numbers.get(_digest(settings, ledger.deployed(role), role))
        found = next((version.number for version in versions if role in version.aliases), None)
        if wanted == found:
            continue
        if wanted is None:
            registry.remove_alias(role)
        else:
            registry.set_alias(role, wanted)
        pointed, points = _named(found), _named(wanted)
        said.append(f"the registry's alias {role} pointed to {pointed}; by the ledger it now points to {points}")
    tags = {version.digest: version for version in versions}
    for digest, row in {row.digest: row for row in ledger.history("champion") if row.forced}.items():
        text = f"{row.deployed_at:%Y-%m-%dT%H:%M:%SZ} {row.by}: {row.reason}"
        if digest in tags and tags[digest].tags.get(FORCED) != text:
            registry.note(tags[digest].number, {FORCED: text})
            said.append(f"version {tags[digest].number} carries the reason of its forced promotion")
    return said


def _named(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"


def _digest(settings: Settings, deployment: Deployment | None, role: Role) -> str:
    """Of what a role has; of the configured bundle where no champion is deployed."""
    if deployment is not None:
        return deployment.digest
    sums = settings.model.bundle / SUMS
    return digest_of(sums) if role == "champion" and sums.is_file() else ""


class RunningModel:
    """The champion in one worker process.

    Args:
        settings: where bundles lie.
        ledger: says which version is deployed.
        load: reads a bundle, whose every checksum it verifies; None is the configured one.
        clock: the time.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        load: Callable[[Path | None], Explainer],
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._load = load
        self._clock = clock
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
                    at=self._clock(),
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
    """Give the memory of a model that nothing refers to back to the device."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
