"""Which version runs: promotion and rollback.

A promotion brings the bundle into the store, verifies it, and is then one transaction of the ledger: killed at any
point, it leaves the version before or the new one, with its files. MLflow's aliases follow afterwards; what an MLflow
that was away has missed is made up for by the next command.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from dicom_node.errors import NodeError
from dicom_node.settings.sections import Settings
from dicom_node.storage.bundles import check
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.deployments import Deployment, NothingBefore, Overtaken, Role, before_last
from explain_core.bundles.files import SUMS, digest_of, need_scales, scaled_methods
from explain_core.bundles.registry import Registry, Version
from explain_core.errors import BundleError

ROLES: Final[tuple[Role, ...]] = ("champion", "challenger")
LET_THROUGH: Final = frozenset({"passed", "forced"})
"""Of `Version.gate`; a job's own --force has given its reason already."""
FORCED: Final = "forced_promotion"
"""Tag of a version that was promoted against its gate: when, who, why."""
_TURNED: Final = re.compile(r"\b[1-9]\d* labels turned")
"""In the tag `rehearsal` of a version: it learnt from labels that are wrong on purpose."""


class NotDeployed(NodeError):
    """A version may not be deployed, or there is none to go back to; nothing has changed."""


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
