"""A look for drift and at the challenger, as the command and the daily look of the node have it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from dicom_node.errors import ConfigError
from dicom_node.models import agreement
from dicom_node.models import drift as drifts
from dicom_node.models.agreement import Agreement
from dicom_node.models.drift import Challenged, Finding, ModelFacts, Reference, Sample
from dicom_node.settings.sections import Settings
from dicom_node.storage import bundles
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.observations import Observation

DRIFT: Final = "drift"
"""Under which the ledger keeps the daily look."""
USUAL_DAYS: Final = 30.0
MOST_EARLIER: Final = 2000
"""Images of the model's own earlier window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look for drift: what was compared with what."""

    facts: ModelFacts
    reference: Reference | None
    seen: Sequence[Observation]
    findings: Sequence[Finding]
    note: str


def look(
    settings: Settings,
    ledger: Ledger,
    *,
    began: datetime | None,
    last: int | None = None,
    by_caller: bool = False,
    against: str | None = None,
) -> Look:
    """Compare what arrived, and what the champion said of it, with what it was made for.

    Args:
        settings: where bundles lie.
        ledger: what was observed.
        began: only what was answered since; None: from the beginning.
        last: only the newest of these.
        by_caller: also each sender by itself.
        against: "training", the validation images of the bundle, or "live", what the model saw here before; None:
            what there is.

    Raises:
        ConfigError: the bundle cannot be used, or SciPy is missing.
        OutOfResources: the ledger does not answer.
    """
    facts = drifts.model_facts(bundles.bundle_path(settings, ledger.deployed("champion")))
    seen = ledger.observed(facts.digest, since=began, last=last)
    reference = None if against == "live" else drifts.training_reference(facts)
    note = "reference: the validation images of the bundle"
    if reference is None and against == "training":
        note = "the bundle has no reference.json"
    elif reference is None:
        note = "" if against == "live" else "the bundle has no reference.json; "
        note += "reference: what the same model saw here before this window"
        earlier = ledger.observed(facts.digest, before=seen[0].observed_at, last=MOST_EARLIER) if seen else []
        reference = drifts.live_reference(earlier)
    groups: dict[str, list[Observation]] = defaultdict(list, {"all": list(seen)})
    for one in seen if by_caller else ():
        groups[one.calling_ae_title or "unknown"].append(one)
    findings = drifts.judge(groups, reference) if reference is not None else []
    return Look(facts=facts, reference=reference, seen=seen, findings=findings, note=note)


def compared(settings: Settings, ledger: Ledger, began: datetime | None) -> tuple[str, str, Agreement] | None:
    """Labels of champion and challenger and how they compare; None without a challenger.

    Raises:
        ConfigError: the challenger is the champion, or the champion's bundle cannot be used.
    """
    deployment = ledger.deployed("challenger")
    if deployment is None:
        return None
    champion = drifts.model_facts(bundles.bundle_path(settings, ledger.deployed("champion")))
    if champion.digest == deployment.digest:
        raise ConfigError("the challenger is the champion itself: there is nothing to compare")
    start = max(deployment.deployed_at, began) if began is not None else deployment.deployed_at
    agreed = agreement.agreement(
        ledger.observed(champion.digest, since=start),
        ledger.observed(deployment.digest, since=start),
        ledger.shadow_failures(deployment.digest, since=start),
    )
    return champion.label, f"{deployment.name} {deployment.version} {deployment.digest[:12]}", agreed


def challenged(settings: Settings, ledger: Ledger, began: datetime | None) -> Challenged | None:
    """The same for metrics; None also where the champion has become the challenger."""
    try:
        found = compared(settings, ledger, began)
    except ConfigError:
        return None
    if found is None:
        return None
    _, label, agreed = found
    return Challenged(
        label=label,
        share=agreed.share,
        images=agreed.images,
        waiting=agreed.waiting,
        failures=len(agreed.failures),
    )


def keep(settings: Settings, ledger: Ledger, now: datetime) -> Look:
    """Have the usual look, and let the ledger keep it for /metrics and alerts.

    Raises:
        ConfigError, OutOfResources: as of `look`.
    """
    began = now - timedelta(days=USUAL_DAYS)
    found = look(settings, ledger, began=began)
    told = drifts.samples(found.facts, found.findings, challenged(settings, ledger, began), now)
    ledger.keep_look(DRIFT, now, [asdict(one) for one in told])
    return found


def kept(found: Sequence[Mapping[str, Any]] | None) -> tuple[Sample, ...]:
    """What `keep` has kept."""
    return tuple(Sample(**one) for one in found or ())
