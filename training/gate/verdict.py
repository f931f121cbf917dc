"""Findings and the verdict: the rules held against the figures of `training.measure.comparison`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from training.gate.rules import (
    ALL,
    AT_LEAST,
    COUNTS,
    LEAKS,
    MEASURED,
    MEASURES,
    NO_LEAK,
    NON_INFERIOR,
    NOT_CLEARLY_WORSE,
    NOT_WORSE,
    Rule,
    Rules,
)

Figures = Mapping[str, Any]
Outcome = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule found in one group.

    Attributes:
        rule: name of the rule.
        kind: of the rule.
        group: of `GROUPS`.
        figure: name of the figure.
        limit: as in the rule.
        value: what was held against the limit (the figure, its bound, or the difference's), None if not measured.
        by: by how much the limit is missed, in the figure's unit, > 0; 0 if it is kept, None if nothing was measured.
        outcome: "passed", "failed" or "not judged".
        sentence: all of it in plain words.
    """

    rule: str
    kind: str
    group: str
    figure: str
    limit: float
    value: float | None
    by: float | None
    outcome: Outcome
    sentence: str

    @property
    def passed(self) -> bool:
        """Whether the rule was judged and kept."""
        return self.outcome == "passed"

    @property
    def failed(self) -> bool:
        """Whether the rule was broken."""
        return self.outcome == "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the challenger may be promoted: no finding failed."""

    passed: bool
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that refuse the challenger."""
        return tuple(finding for finding in self.findings if finding.failed)

    @property
    def not_judged(self) -> tuple[Finding, ...]:
        """What no rule could say anything about."""
        return tuple(finding for finding in self.findings if finding.outcome == "not judged")

    @property
    def reason(self) -> str:
        """The failures in plain words; "" where there are none."""
        return " ".join(finding.sentence for finding in self.failures)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"passed": self.passed, "findings": [asdict(finding) for finding in self.findings]}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Verdict":
        """What `to_dict` wrote."""
        return cls(passed=table["passed"], findings=tuple(Finding(**entry) for entry in table["findings"]))


def judge(rules: Rules, figures: Figures) -> Verdict:
    """Hold the figures of `comparison.compare` against the rules; one finding per rule and group."""
    findings = tuple(finding for rule in rules.rules for finding in _findings(rule, figures))
    return Verdict(passed=not any(finding.failed for finding in findings), findings=findings)


def _findings(rule: Rule, figures: Figures) -> Iterator[Finding]:
    if rule.kind == NO_LEAK:
        yield _leak(rule, figures)
        return
    for group in rule.groups:
        yield _judged(rule, group, figures)


def _get(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _finding(rule: Rule, group: str, outcome: Outcome, text: str, **found: float | None) -> Finding:
    return Finding(
        rule=rule.name, kind=rule.kind, group=group, figure=rule.figure, limit=rule.limit, value=found.get("value"),
        by=found.get("by"), outcome=outcome, sentence=text,
    )  # fmt: skip


def _leak(rule: Rule, figures: Figures) -> Finding:
    count, what = _number(_get(figures, "leaks", rule.figure, "count")), LEAKS[rule.figure]
    if count is None:
        return _missing(rule, ALL, f"Whether {what} are in two splits was not measured.")
    if count == 0:
        return _finding(rule, ALL, "passed", f"No {what} are in two splits.", value=0.0, by=0.0)
    pairs = _get(figures, "leaks", rule.figure, "between") or ()
    where = "; ".join(f"{first} and {second}: {number}" for first, second, number in pairs)
    text = f"{count:g} {what} are in two splits, allowed are none ({where or 'nobody says which'})."
    return _finding(rule, ALL, "failed", text, value=count, by=count)


def _missing(rule: Rule, group: str, text: str) -> Finding:
    if rule.optional:
        return _finding(rule, group, "not judged", f"{text} The rule is optional.")
    return _finding(rule, group, "failed", f"{text} The rule is not optional, so this counts as failed.")


def _judged(rule: Rule, group: str, figures: Figures) -> Finding:
    measure = MEASURES.get(rule.figure)
    text = _upper(measure.text if measure else COUNTS[rule.figure])
    where = "all test patients" if group == ALL else group
    if measure is None:
        count = _number(_get(figures, "groups", group, rule.figure))
        return _limited(rule, group, text if group == ALL else f"{text}, {where}", count, "")
    short = _too_few(rule, group, figures)
    if short:
        # the whole test set must be able to answer; a small group is only named
        if group == ALL:
            return _missing(rule, group, f"{text}, {where}: not measured, {short}.")
        return _finding(rule, group, "not judged", f"{text}, {where}: not judged, {short}.")
    own = _get(figures, "models", "challenger", "figures", rule.figure, group)
    if rule.kind != NOT_WORSE:
        bound = _bound(own, rule.sure, lower=rule.kind == AT_LEAST)
        return _limited(rule, group, f"{text}, {where}", bound, measure.unit)
    difference = _get(figures, "differences", rule.figure, group)
    # the unfavourable end of a difference is its lower one where more is better, its upper one where less is
    bound = _bound(difference, rule.sure, lower=measure.higher == (rule.judged == NON_INFERIOR))
    gain = bound if bound is None or measure.higher else -bound
    return _compared(rule, group, f"{text}, {where}", gain, figures)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _too_few(rule: Rule, group: str, figures: Figures) -> str:
    """What the group lacks, "" where it has enough."""
    counts = _get(figures, "groups", group)
    if counts is None and group != ALL:
        return "no test image is known to belong to this group"
    measured = _get(figures, "models", "challenger", "figures", rule.figure, group, "images")
    wanted = (
        ("labelled positive", rule.positives, _get(counts, "positive")),
        ("labelled negative", rule.negatives, _get(counts, "negative")),
        ("measured", rule.images, measured),
    )
    short = [f"{found or 0} {name} images of the {need} needed" for name, need, found in wanted if (found or 0) < need]
    return "only " + " and ".join(short) if short else ""


def _bound(estimate: Any, sure: float | None, *, lower: bool) -> float | None:
    """The one-sided bound of an estimate, or its value where nothing is said about certainty."""
    if sure is None:
        return _number(_get(estimate, "value"))
    bounds = _get(estimate, "bounds", f"{sure:g}")
    return _number(bounds[0 if lower else 1]) if isinstance(bounds, Sequence) else None


def _limited(rule: Rule, group: str, what: str, found: float | None, unit: str) -> Finding:
    if found is None:
        return _missing(rule, group, f"{what}: not measured.")
    by = rule.limit - found if rule.kind == AT_LEAST else found - rule.limit
    certainty = "" if rule.sure is None else f" (with {rule.sure * 100:g} % certainty)"
    text = f"{what}: {_text(found)}{unit}{certainty}, {rule.kind} {_text(rule.limit)}{unit} is asked for"
    return _decided(rule, group, text, found, by, unit)


def _compared(rule: Rule, group: str, what: str, found: float | None, figures: Figures) -> Finding:
    """`found`: the bound of the gain over the champion, less than 0 where the challenger is worse."""
    if found is None:
        return _missing(rule, group, f"{what}: the difference to the champion was not measured.")
    unit = MEASURES[rule.figure].unit
    own, other = (
        _number(_get(figures, "models", role, "figures", rule.figure, group, "value"))
        for role in ("challenger", "champion")
    )
    worse = f"worse by {_text(-found)}{unit}" if found < 0 else f"better by {_text(found)}{unit}"
    how = {
        NON_INFERIOR: f"with {(rule.sure or 0) * 100:g} % certainty at worst {worse}",
        NOT_CLEARLY_WORSE: f"with {(rule.sure or 0) * 100:g} % certainty at best {worse}",
        MEASURED: f"measured {worse}",
    }[rule.judged]
    text = f"{what}: {_text(own)}{unit} against {_text(other)}{unit} of the champion, {how}, allowed is {rule.limit:g}"
    return _decided(rule, group, f"{text}{unit}", found, -rule.limit - found, unit)


def _decided(rule: Rule, group: str, text: str, found: float, by: float, unit: str) -> Finding:
    if by > 0:
        return _finding(rule, group, "failed", f"{text}: failed by {_text(by)}{unit}.", value=found, by=by)
    return _finding(rule, group, "passed", f"{text}: passed.", value=found, by=0.0)


def _text(value: float | None) -> str:
    """A number as a reader wants it: whole ones as they are, small ones to three decimals or the first digit."""
    if value is None:
        return "not measured"
    if value == round(value):
        return f"{value:g}"
    return f"{value:.3f}" if abs(value) >= 0.0005 else f"{value:.1g}"  # noqa: PLR2004 - where three decimals end
