"""How what a model sees and says has changed since its training.

Six statistics of each image (score, distance from the training images, mean, contrast, sharpness, aspect) and two
shares (positive, far from the training images) are compared with the bundle's validation images. An alarm needs both: a
difference that chance does not explain, and one that is large enough to matter. docs/monitoring.md gives the reasons.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from dicom_node.errors import ConfigError
from dicom_node.storage.ledger.observations import Observation
from explain_core.bundles import files
from explain_core.errors import ExplainError, install
from explain_core.statistics import OF_THE_IMAGE, OF_THE_MODEL, REFERENCE, load_reference

Floats = NDArray[np.float64]
DriftOutcome = Literal["no drift", "drift", "too few", "not measured"]

STATISTICS: Final = (*OF_THE_MODEL, *OF_THE_IMAGE)
SHARES: Final = ("positive", "far")
MINIMUM: Final = 50
"""Images on either side below which nothing is said."""
ALPHA: Final = 0.01
"""Chance of any false alarm in one look, by Holm's procedure over all statistics and groups of that look."""
LEAST_KS: Final = 0.15
LEAST_SHIFT: Final = 0.3
"""Wasserstein distance in standard deviations of the reference."""
LEAST_POSITIVE: Final = 0.10
LEAST_FAR: Final = 0.05
_LEAST_SPREAD: Final = 0.05
"""Of the reference's median: the standard deviation of a reference whose images are all alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a bundle says of itself, read without loading the model.

    Attributes:
        threshold: of the probability.
        limit: of the distance; None for a model that does not judge it.
        reference: values of the validation images by statistic; None in a bundle without them.
    """

    name: str
    version: str
    digest: str
    threshold: float
    limit: float | None
    reference: Mapping[str, Floats] | None

    @property
    def label(self) -> str:
        """Name, version and the first digits of the digest."""
        return f"{self.name} {self.version} {self.digest[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is compared with.

    Attributes:
        kind: "training": the bundle's validation images; "live": what the same model saw here earlier.
        images: how many.
        samples: values by statistic.
        positive: how many are positive.
        far: how many are far from the training images; None where that was not measured.
    """

    kind: Literal["training", "live"]
    images: int
    samples: Mapping[str, Floats]
    positive: int
    far: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statistic, or one share, of one group of images beside the reference's.

    Attributes:
        group: "all", or whose images.
        statistic: one of STATISTICS, or "positive" or "far": a share.
        images, reference_images: how many have it.
        value, reference_value: medians; of a share the shares.
        low, high: 95 % interval (Wilson) of a share.
        ks: Kolmogorov-Smirnov distance, 0 to 1; None for a share.
        shift: Wasserstein distance in standard deviations of the reference; None for a share.
        p: of the two-sample test: Kolmogorov-Smirnov, Fisher for a share.
        adjusted: p after Holm.
        verdict: drift needs `adjusted` < ALPHA and a large enough difference.
    """

    group: str
    statistic: str
    images: int
    reference_images: int
    verdict: DriftOutcome
    value: float | None = None
    reference_value: float | None = None
    low: float | None = None
    high: float | None = None
    ks: float | None = None
    shift: float | None = None
    p: float | None = None
    adjusted: float | None = None
    large: bool = False


def model_facts(folder: Path) -> ModelFacts:
    """Read a bundle's description and reference; every checksum is verified first.

    Raises:
        ConfigError: the bundle cannot be used; the message names the file.
    """
    try:
        digest = files.verify(folder)
        description = tomllib.loads((folder / "bundle.toml").read_text())
        outlier = description.get("outlier")
        reference = None
        if REFERENCE in files.listed(folder / files.SUMS):
            read = load_reference(folder / REFERENCE)["statistics"]
            reference = {name: np.asarray(values, np.float64) for name, values in read.items()}
        return ModelFacts(
            name=str(description["name"]),
            version=str(description["version"]),
            digest=digest,
            threshold=float(description["threshold"]),
            limit=None if outlier is None else float(outlier["limit"]),
            reference=reference,
        )
    except (ExplainError, KeyError, TypeError, ValueError, OSError) as error:
        message = str(error) if isinstance(error, ExplainError) else f"{folder}: {type(error).__name__}: {error}"
        raise ConfigError(message) from error


def training_reference(facts: ModelFacts) -> Reference | None:
    """The validation images of a bundle; None when it says nothing of them."""
    if facts.reference is None:
        return None
    scores, distances = facts.reference["probability"], facts.reference.get("distance")
    far = None if distances is None or facts.limit is None else int((distances > facts.limit).sum())
    positive = int((scores >= facts.threshold).sum())
    return Reference(kind="training", images=len(scores), samples=facts.reference, positive=positive, far=far)


def live_reference(seen: Sequence[Observation]) -> Reference:
    """What the same model saw and said earlier."""
    judged = [one.far for one in seen if one.far is not None]
    return Reference(
        kind="live",
        images=len(seen),
        samples={name: values(seen, name) for name in STATISTICS},
        positive=sum(one.positive for one in seen),
        far=sum(judged) if judged else None,
    )


def values(seen: Sequence[Observation], statistic: str) -> Floats:
    """The values of one statistic, of the images that have it."""
    if statistic == "probability":
        found = [one.probability for one in seen]
    elif statistic == "distance":
        found = [one.distance for one in seen if one.distance is not None]
    else:
        found = [one.statistics[statistic] for one in seen if statistic in one.statistics]
    return np.asarray(found, np.float64)


def judge(groups: Mapping[str, Sequence[Observation]], reference: Reference) -> list[Finding]:
    """Every statistic and share of every group beside the reference, corrected for their number.

    Args:
        groups: images by the name of their group.
        reference: what they are compared with.

    Raises:
        ConfigError: SciPy is missing.
    """
    findings = [finding for group, seen in groups.items() for finding in _of_group(group, seen, reference)]
    tested = [finding.p for finding in findings if finding.p is not None]
    adjusted = iter(holm(tested))
    return [_decided(one, next(adjusted)) if one.p is not None else one for one in findings]


def verdict(findings: Sequence[Finding]) -> DriftOutcome:
    """What is to be said of all of them: drift if any drifts, too few if nothing could be tested."""
    found = {finding.verdict for finding in findings}
    order: tuple[DriftOutcome, ...] = ("drift", "no drift")
    return next((one for one in order if one in found), "too few")


def holm(p: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6:65-70).

    Where all below a limit count as found, the chance of any false one among them is at most that limit, however they
    depend on each other.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def _decided(finding: Finding, adjusted: float) -> Finding:
    return replace(finding, adjusted=adjusted, verdict="drift" if finding.large and adjusted < ALPHA else "no drift")


def _of_group(group: str, seen: Sequence[Observation], reference: Reference) -> list[Finding]:
    found = [_distribution(group, name, values(seen, name), reference) for name in STATISTICS]
    judged = [one.far for one in seen if one.far is not None]
    with_distance = len(reference.samples.get("distance", ()))
    positive = (sum(one.positive for one in seen), len(seen)), (reference.positive, reference.images)
    far = (sum(judged), len(judged)), (reference.far or 0, 0 if reference.far is None else with_distance)
    found.append(_share(group, "positive", *positive))
    found.append(_share(group, "far", *far))
    return found


def _distribution(group: str, name: str, live: Floats, reference: Reference) -> Finding:
    """Kolmogorov-Smirnov and Wasserstein; ties make the first one's p too high, never too low."""
    earlier = np.asarray(reference.samples.get(name, ()), np.float64)
    finding = _untested(group, name, len(live), len(earlier))
    medians = [float(np.median(found)) if len(found) else None for found in (live, earlier)]
    finding = replace(finding, value=medians[0], reference_value=medians[1])
    if finding.verdict != "no drift":
        return finding
    stats = scipy_stats()
    test = stats.ks_2samp(live, earlier, method="asymp")
    spread = max(float(earlier.std()), _LEAST_SPREAD * abs(float(np.median(earlier))), np.finfo(float).tiny)
    ks, shift = float(test.statistic), float(stats.wasserstein_distance(live, earlier)) / spread
    return replace(finding, ks=ks, shift=shift, p=float(test.pvalue), large=ks >= LEAST_KS or shift >= LEAST_SHIFT)


def _share(group: str, name: str, live: tuple[int, int], earlier: tuple[int, int]) -> Finding:
    """Fisher's exact test; fewer images far from the training data than before are no alarm."""
    (count, images), (reference_count, reference_images) = live, earlier
    finding = _untested(group, name, images, reference_images)
    if images:
        low, high = wilson(count, images)
        finding = replace(finding, value=count / images, low=low, high=high)
    if reference_images:
        finding = replace(finding, reference_value=reference_count / reference_images)
    if finding.verdict != "no drift":
        return finding
    table = [[count, images - count], [reference_count, reference_images - reference_count]]
    more, least = ("greater", LEAST_FAR) if name == "far" else ("two-sided", LEAST_POSITIVE)
    difference = count / images - reference_count / reference_images
    p = float(scipy_stats().fisher_exact(table, alternative=more).pvalue)
    return replace(finding, p=p, large=abs(difference) >= least)


def _untested(group: str, name: str, images: int, reference_images: int) -> Finding:
    fewest = min(images, reference_images)
    found: DriftOutcome = "not measured" if fewest == 0 else "too few" if fewest < MINIMUM else "no drift"
    return Finding(group=group, statistic=name, images=images, reference_images=reference_images, verdict=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenged:
    """How far a challenger agrees with the champion, for `samples`."""

    label: str
    share: float | None
    images: int
    waiting: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value of one metric.

    Attributes:
        name: without the prefix `dicom_node_`.
        text: what it is.
    """

    name: str
    text: str
    labels: Mapping[str, str]
    value: float


def samples(
    facts: ModelFacts, findings: Sequence[Finding], challenged: Challenged | None, now: datetime
) -> tuple[Sample, ...]:
    """One look as metrics.

    Args:
        facts: the model.
        findings: may be empty.
        challenged: the comparison with the challenger, if there is one.
        now: when it was looked.
    """
    found: list[Sample] = []

    def put(name: str, text: str, value: float | None, **labels: str) -> None:
        if value is not None:
            found.append(Sample(name=name, text=text, labels=labels, value=float(value)))

    model = facts.label
    said = verdict(findings)
    put("drift_last_run_timestamp_seconds", "When drift was looked for.", now.timestamp(), model=model)
    put("drift_enough_images", "1 where anything could be tested.", said != "too few", model=model)
    for one in findings:
        labels = {"statistic": one.statistic, "model": model, "group": one.group}
        put("drift_images", "Images looked at.", one.images, **labels)
        put("drift_alarm", "1 where a statistic has drifted.", one.verdict == "drift", **labels)
        put("drift_ks", "Kolmogorov-Smirnov distance from the reference.", one.ks, **labels)
        put("drift_shift_ratio", "Wasserstein distance / standard deviation of the reference.", one.shift, **labels)
        put("drift_p_adjusted", "P value after Holm.", one.adjusted, **labels)
        if one.statistic in SHARES:
            text = f"Share of images that are {one.statistic}."
            put(f"{one.statistic}_ratio", text, one.value, model=model, group=one.group)
    if challenged is not None:
        pair = {"model": model, "challenger": challenged.label}
        put("challenger_agreement_ratio", "Share of images decided alike.", challenged.share, **pair)
        put("challenger_images", "Images that both models decided.", challenged.images, **pair)
        put("challenger_waiting_images", "Images that the challenger has not seen yet.", challenged.waiting, **pair)
        put("challenger_failures", "Studies without an answer of the challenger.", challenged.failures, **pair)
    return tuple(found)


def write_metrics(path: Path, found: Sequence[Sample]) -> None:
    """Write samples for the textfile collector of Prometheus' node_exporter; atomic: read whole or not at all.

    Args:
        path: FILE.prom in the collector's folder.
        found: what to write.

    Raises:
        ConfigError: the file cannot be written.
    """
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for one in found:
        name = f"dicom_node_{one.name}"
        if name not in gauges:
            gauges[name] = Gauge(name, one.text, tuple(one.labels), registry=registry)
        gauges[name].labels(**one.labels).set(one.value)
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise ConfigError(f"{path}: cannot write the metrics: {error.strerror}") from error


def wilson(count: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953); `of` is at least 1."""
    interval = scipy_stats().binomtest(count, of).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def scipy_stats() -> Any:
    """SciPy's statistics.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from scipy import stats  # noqa: PLC0415 - optional, and slow to load
    except ImportError as error:
        raise ConfigError(f"SciPy is missing: {install('monitoring')}") from error
    return stats
