"""Verdicts: which result was judged, and which target of the image a verdict implies."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import Dataset, dcmread

from dicom_node.errors import NodeError
from dicom_node.nouns import REPORT, Note, Opinion, SOPInstanceUID, StudyInstanceUID
from dicom_node.results.codes import DECISION, PRESENT
from dicom_node.results.summary import read_summaries
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.verdicts import ReaderVerdict
from dicom_node.watch.logs import without_warnings


class NotJudged(NodeError):
    """The verdict cannot be taken: there is no such study, image or result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinions:
    """What all readers together say of one image.

    Attributes:
        opinion: what they all say, or None when they differ.
        target: what it implies, 0 or 1; None when it implies nothing or contradicts itself.
        contradictory: whether the readers imply different targets.
    """

    opinion: Opinion | None
    target: int | None
    contradictory: bool


def judge(
    ledger: Ledger,
    study_instance_uid: str,
    opinion: Opinion,
    *,
    image: str | None,
    reader: str,
    note: Note | None,
    now: datetime,
    fetch: Fetch = Path,
) -> ReaderVerdict:
    """Keep a verdict on the result of a study, together with the decisions that were judged.

    The decisions are those of the node's reports as they were made for the destinations: what the reader saw.
    They are kept, so that a later result by another model changes nothing of what the verdict means.

    Args:
        ledger: where it is kept.
        study_instance_uid: the study.
        opinion: what the reader says.
        image: SOP Instance UID of the one image that is meant; None for all of the study.
        reader: a short sign of who says so.
        note: why, or None.
        now: the time.
        fetch: gives a local file of what a row names (`FileStore.fetch`).

    Raises:
        NotJudged: the study is not known, has no result, or its images have different decisions and none is named.
    """
    if not ledger.received_instances(study_instance_uid):
        raise NotJudged("no study with this UID was received")
    decisions, model = _results(ledger, study_instance_uid, fetch)
    if not decisions:
        raise NotJudged("the study has no structured report with a decision in the outbox: there is nothing to judge")
    if image is not None:
        if image not in decisions:
            raise NotJudged(f"there is no decision on this image; decided were: {', '.join(sorted(decisions))}")
        decisions = {SOPInstanceUID(image): decisions[SOPInstanceUID(image)]}
    elif len(set(decisions.values())) > 1:
        named = ", ".join(f"{uid} ({'present' if found else 'absent'})" for uid, found in sorted(decisions.items()))
        raise NotJudged(f"the images of the study were decided differently; name one with --image: {named}")
    verdict = ReaderVerdict(
        study_instance_uid=StudyInstanceUID(study_instance_uid),
        decisions=decisions,
        model=model,
        opinion=opinion,
        reader=reader,
        note=note,
        given_at=now,
    )
    ledger.add_verdict(verdict)
    return verdict


def opinions(verdicts: Iterable[ReaderVerdict]) -> Mapping[SOPInstanceUID, Opinions]:
    """What the readers say of each image; of several verdicts of one reader on an image the last counts.

    Args:
        verdicts: in the order in which they were given.
    """
    last: dict[SOPInstanceUID, dict[str, tuple[Opinion, bool]]] = {}
    for verdict in verdicts:
        for image, positive in verdict.decisions.items():
            last.setdefault(image, {})[verdict.reader] = (verdict.opinion, positive)
    return {image: _together(by_reader.values()) for image, by_reader in last.items()}


def _together(said: Iterable[tuple[Opinion, bool]]) -> Opinions:
    said = list(said)
    kinds = {opinion for opinion, _ in said}
    targets = {int(positive == (kind is Opinion.AGREE)) for kind, positive in said if kind is not Opinion.WRONG_PLACE}
    return Opinions(
        opinion=next(iter(kinds)) if len(kinds) == 1 else None,
        target=next(iter(targets)) if len(targets) == 1 else None,
        contradictory=len(targets) > 1,
    )


def _results(ledger: Ledger, study_instance_uid: str, fetch: Fetch) -> tuple[dict[SOPInstanceUID, bool], str]:
    """The newest decision on each image of the study, and the model that made the newest."""
    found: dict[SOPInstanceUID, bool] = {}
    model = ""
    rows = ledger.deliveries(study=study_instance_uid, limit=100_000)
    files = [fetch(path) for path in dict.fromkeys(row.path for row in rows if row.kind == REPORT)]
    for path in (one for one in files if one.is_file()):
        with without_warnings():
            report = dcmread(path)
            decided = dict(_decisions(report))
            if decided:
                model = next((summary.model for summary in read_summaries(report)), model)
        found |= decided
    return found, model


def _decisions(item: Dataset) -> Iterator[tuple[SOPInstanceUID, bool]]:
    """Of each image that a report of ours decides on, whether the finding was called present."""
    for child in item.get("ContentSequence") or ():
        names = child.get("ConceptNameCodeSequence")
        if names and (names[0].CodeValue, names[0].CodingSchemeDesignator) == (
            DECISION.value,
            DECISION.scheme_designator,
        ):
            positive = child.ConceptCodeSequence[0].CodeValue == PRESENT.value
            for of in child.get("ContentSequence") or ():
                for one in of.get("ReferencedSOPSequence") or ():
                    yield SOPInstanceUID(str(one.ReferencedSOPInstanceUID)), positive
        yield from _decisions(child)
