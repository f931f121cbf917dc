"""Routing: which images are explained, and why the others are not. The first matching rule wins.

A rule matches an image when all its conditions hold. Text is compared without regard to case and surrounding
spaces, a regex must match the whole value, and an element with several values matches when one of them does.
An element that is absent, empty or unreadable is missing; the condition states what that means. An image that
no rule matches is ignored.

Objects that are answers themselves (this node's results; reports, presentation states, segmentations, ...)
are passed over before any rule: answering an answer would never end.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from dicom_node.dicom import codes, suitability
from dicom_node.dicom.elements import is_own_result
from dicom_node.errors import DatasetUnreadable, Reason, StudyUnsuitable
from dicom_node.nouns import PassedBy, Route, SOPInstanceUID
from dicom_node.route.patients import NOBODY, OTHER_PATIENT, Patient, patient_of
from dicom_node.settings.rule_tables import BODY_PART, CALLING_AE_TITLE, VIEW, Condition, Rule
from dicom_node.watch.logs import without_warnings

NO_RULE = "no routing rule takes it"
OWN_RESULT = "it is a result of this node"
ANSWER = "it is a report, presentation state, segmentation or key object, not an image to explain"
ONLY_ANSWERS = "the study holds nothing but results, reports and presentation states"

# PS3.6 A: presentation states, reports, key objects, segmentations, parametric maps. By prefix: new
# SOP Classes of these families are answers too.
_ANSWER_PREFIXES = (
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.30",
)


class Action(StrEnum):
    """What becomes of one image."""

    EXPLAIN = "explain"
    IGNORE = "ignore"
    PASS_OVER = "pass over"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One condition as tried.

    Attributes:
        text: the condition and the outcome in words, without any value of the image.
        found: the values of the element: may be patient data, for the person at the terminal, never for logs.
    """

    rule: str
    text: str
    held: bool
    found: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the rules say of one image.

    Attributes:
        rule: the rule that matched, or None.
        route: where an image that is explained goes, else None.
        reason: why it is not explained, else None; fit to be reported, names no patient.
        steps: every condition that was tried, in order.
    """

    rule: Rule | None
    action: Action
    route: Route | None
    reason: str | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyDecision:
    """What the rules say of a study revision.

    Attributes:
        routes: the images that each route explains, in the order given.
        ignored: why each other image is not explained, in the order given.
        passed_over: objects that are answers themselves.
    """

    routes: dict[Route, tuple[SOPInstanceUID, ...]]
    ignored: tuple[PassedBy, ...]
    passed_over: tuple[SOPInstanceUID, ...]

    @property
    def silent(self) -> bool:
        """Whether there is nothing to answer: the study holds only answers."""
        return not self.routes and not self.ignored

    @property
    def reason(self) -> str | None:
        """Why nothing of the study is explained, in one line; None when something is."""
        if self.routes:
            return None
        if not self.ignored:
            return ONLY_ANSWERS
        counts: dict[str, int] = {}
        for one in self.ignored:
            counts[one.reason] = counts.get(one.reason, 0) + 1
        if len(counts) == 1:
            return next(iter(counts))
        return "; ".join(f"{reason} ({count})" for reason, count in counts.items())


def decide_instance(header: Dataset, calling_ae_title: str, rules: Sequence[Rule]) -> Decision:
    """Apply the rules to one image; never raises for anything a header may hold.

    Args:
        header: the data set, with or without pixels.
        calling_ae_title: who sent it.
        rules: in order, with their destinations and results filled in (as `Settings.rules` are).
    """
    with without_warnings():
        if (answer := _answer(header)) is not None:
            return Decision(rule=None, action=Action.PASS_OVER, route=None, reason=answer, steps=())
        steps: list[Step] = []
        for rule in rules:
            if all(_try(condition, rule, header, calling_ae_title, steps) for condition in rule.when):
                action, reason = Action(rule.action), _with_findings(rule, header)
                return Decision(rule=rule, action=action, route=rule.route, reason=reason, steps=tuple(steps))
    return Decision(rule=None, action=Action.IGNORE, route=None, reason=NO_RULE, steps=tuple(steps))


def decide_study(
    images: Iterable[tuple[SOPInstanceUID, Dataset, str]], rules: Sequence[Rule], patient: Patient = NOBODY
) -> StudyDecision:
    """Apply the rules to every image of a study revision; those of another patient are not explained.

    Args:
        images: SOP Instance UID, header and calling AE title of each.
        rules: as for `decide_instance`.
        patient: whose the earlier revisions are; each image that may be of this person adds what it states.
    """
    routes: dict[Route, tuple[SOPInstanceUID, ...]] = {}
    ignored: list[PassedBy] = []
    passed_over: list[SOPInstanceUID] = []
    for uid, header, calling_ae_title in images:
        decision = decide_instance(header, calling_ae_title, rules)
        if decision.action is Action.PASS_OVER:
            passed_over.append(uid)
            continue
        own = patient_of(header)
        if not own.may_be(patient):
            ignored.append(PassedBy(sop_instance_uid=uid, reason=OTHER_PATIENT, code=Reason.PATIENT))
            continue
        patient = patient.completed_by(own)
        if decision.route is None:
            reason = decision.reason or NO_RULE
            ignored.append(PassedBy(sop_instance_uid=uid, reason=reason, code=_code(header)))
        else:
            routes[decision.route] = (*routes.get(decision.route, ()), uid)
    return StudyDecision(routes=routes, ignored=tuple(ignored), passed_over=tuple(passed_over))


def _with_findings(rule: Rule, header: Dataset) -> str | None:
    """The rule's reason and, where it asks for body part or view, what the header says of them."""
    asked = [condition.tag for condition in rule.when]
    found = [_stated(header, tag) for tag in asked if tag in {BODY_PART, VIEW}]
    said = [one.said for one in found[-1:] if one is not None]
    return f"{rule.reason}: {said[0]}" if rule.reason and said else rule.reason


def _stated(header: Dataset, tag: str) -> codes.Stated[codes.BodyPart] | codes.Stated[codes.View] | None:
    return codes.view(header) if tag == VIEW else codes.body_part(header)


def _code(header: Dataset) -> Reason:
    """What stands against an image that the rules do not choose; the rules alone when nothing else does."""
    try:
        suitability.check_header(header)
    except (StudyUnsuitable, DatasetUnreadable) as error:
        return error.reason
    return Reason.RULES


def wanted(condition: Condition) -> str:
    """The condition in words."""
    if condition.regex is not None:
        text = f"{condition.tag} matches /{condition.regex}/"
    elif condition.one_of is not None:
        text = f"{condition.tag} in {', '.join(condition.one_of) or 'nothing'}"
    else:
        text = f"{condition.tag} equals {condition.equals!r}"
    return f"{text} or is missing" if condition.missing == "match" else text


def values_of(header: Dataset, calling_ae_title: str, tag: str) -> tuple[str, ...]:
    """The values that a condition's `tag` names, stripped; of every item where it names a sequence.

    Empty values and bytes that are no value of their VR are left out: the element then counts as missing.
    """
    if tag == CALLING_AE_TITLE:
        return (calling_ae_title.strip(),) if calling_ae_title.strip() else ()
    if tag in {BODY_PART, VIEW}:
        stated = _stated(header, tag)
        return () if stated is None else (stated.what.value,)
    keyword, _, rest = tag.partition(".")
    try:
        found = header.get(keyword)
        if rest:
            return tuple(value for item in found or () for value in values_of(item, calling_ae_title, rest))
        several: Iterable[object] = found if isinstance(found, MultiValue | list | tuple) else (found,)
        return tuple(text for one in several if one is not None and (text := str(one).strip()))
    except Exception:  # noqa: BLE001 - pydicom raises almost anything for a damaged element
        return ()


def _try(condition: Condition, rule: Rule, header: Dataset, calling_ae_title: str, steps: list[Step]) -> bool:
    found = values_of(header, calling_ae_title, condition.tag)
    held = _holds(condition, found)
    outcome = "holds" if held else ("is missing" if not found else "does not hold")
    steps.append(Step(rule=rule.name, text=f"{wanted(condition)}: {outcome}", held=held, found=found))
    return held


def _holds(condition: Condition, found: Sequence[str]) -> bool:
    if not found:
        return condition.missing == "match"
    if condition.regex is not None:
        return any(re.fullmatch(condition.regex, value, re.IGNORECASE) for value in found)
    accepted = condition.one_of if condition.one_of is not None else (condition.equals or "",)
    texts = {text.strip().casefold() for text in accepted}
    return any(value.casefold() in texts for value in found)


def _answer(header: Dataset) -> str | None:
    """Why the object is an answer itself, or None for everything else."""
    if is_own_result(header):
        return OWN_RESULT
    sop_class = next(iter(values_of(header, "", "SOPClassUID")), "")
    return ANSWER if UID(sop_class).startswith(_ANSWER_PREFIXES) else None
