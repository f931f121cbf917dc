"""An export from beginning to end: which images, with which targets and boxes, written, checked again, named.

One image is in memory at a time. What becomes of every study is said in the report; nothing of the report is in the
export.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset

from dicom_node.dicom import elements, pixels, reading
from dicom_node.dicom.reading import read_header
from dicom_node.errors import DatasetUnreadable, NodeError, StudyUnsuitable
from dicom_node.learn import labels, pseudonyms, regions
from dicom_node.learn.export.folder import BOX_COLUMNS, BOXES, LABEL_COLUMNS, LABELS, Draft, ExportRefused, fixed_text
from dicom_node.learn.export.judged import Opinions, opinions
from dicom_node.learn.export.recheck import check
from dicom_node.learn.pseudonyms import Facts, Pseudonyms
from dicom_node.nouns import Instance, SOPInstanceUID
from dicom_node.route.rules import Action, decide_instance
from dicom_node.settings.sections import Settings
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_transfers import Transferred
from dicom_node.watch.logs import place, without_warnings
from explain_core.errors import install

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

BURNED_IN = "its header says that the pixels show who the patient is (Burned In Annotation YES)"
_TARGETS = "give --labels or verdicts, or export without targets with --unlabelled"
_REASONS = 5
_NORMAL = 0
_FAULTS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
"""Of one image: the others are still exported. What ends the whole, such as a full disk, is none of them."""

KEY_RECORD = "export-key.fingerprint"
"""In the spool, beside what was received: by which key the exports were made; it tells when the key was lost."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be exported.

    Attributes:
        labels: the CSV table of targets, or None.
        since: only images that were received at this time or later; None for all.
        unlabelled: whether images without a target are exported too.
        new_key: whether the pseudonyms may be others than those of earlier exports.
    """

    labels: Path | None = None
    since: datetime | None = None
    unlabelled: bool = False
    new_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An image that was received and is not in the export."""

    study_instance_uid: str
    sop_instance_uid: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What was exported and what was not; for the node's own people, as it names studies by their UIDs.

    Attributes:
        targets: how many images have which target, by "0", "1" and "".
        sources: how many targets come from the table ("csv") and from verdicts ("verdict").
        left_out: images that cannot be used, with the reason.
        unlabelled: studies of usable images that have no target.
        without_id: studies whose patient has no ID: each counts as a patient of its own.
        contradicted: images on which the readers' verdicts contradict each other or the table.
        regions: what could not be used of the regions that were sent back, with how many of them.
    """

    images: int = 0
    patients: int = 0
    studies: int = 0
    boxes: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    without_id: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    regions: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = replace(self, targets=Counter(), sources=Counter(), regions=Counter())  # asdict breaks a Counter
        counted = {"targets": dict(self.targets), "sources": dict(self.sources), "regions": dict(self.regions)}
        return asdict(plain) | counted

    @property
    def nothing(self) -> str:
        """Why there is no image in it: the reasons, with how many images or studies each, the most frequent first."""
        reasons = Counter(one.reason for one in self.left_out).most_common()
        said = [f"{count} image(s): {reason}" for reason, count in reasons[:_REASONS]]
        if others := sum(count for _, count in reasons[_REASONS:]):
            said.append(f"{others} image(s): other reasons")
        if self.unlabelled:
            said.append(f"{len(self.unlabelled)} of the studies: no image with a target ({_TARGETS})")
        return f"nothing was exported; left out were {'; '.join(said)}" if said else "no image was received"

    @property
    def counts(self) -> dict[str, int]:
        """What the manifest says of them."""
        return {"images": self.images, "patients": self.patients, "studies": self.studies, "boxes": self.boxes}


class NothingExported(NodeError):
    """No image can be exported; `report` has what was left out."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.nothing)
        self.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What is known of one image: 0, 1 or None, who said so, and what the readers said of the result."""

    value: int | None
    source: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """One image as exported, and the file that it was made from."""

    name: str
    source: Path
    row: Mapping[str, object]
    facts: Facts
    about: Transferred


def export(
    settings: Settings,
    ledger: Ledger,
    out: Path,
    wishes: Wishes,
    *,
    now: datetime,
    progress: Progress,
    audit: Audit | None = None,
) -> Report:
    """Write a de-identified training set into the new folder `out`.

    Args:
        settings: rules and [export].
        ledger: what was received, and the verdicts.
        out: the folder; it must not be there.
        wishes: what is to be exported.
        now: the time.
        progress: told from time to time.
        audit: is told whose images are exported, before the folder is there.

    Returns:
        What was done.

    Raises:
        NothingExported: no image can be exported; the message says why, and no folder was made.
        ExportRefused: `out` is there, or the library is missing.
        LabelsWrong: of the table, with all that is wrong with it.
        KeyUnusable: the key of the pseudonyms, or it is not that of earlier exports.
        IdentifierFound: the re-check found something of a source; everything was deleted.
        OutOfResources: the disk is full or the ledger does not answer; everything was deleted.
    """
    if pseudonyms.rules_version() is None:
        raise ExportRefused(f"the de-identification library is missing: {install('export')}")
    studies = ledger.received_studies(wishes.since)
    record, fetch = settings.node.spool / KEY_RECORD, Spool.of(settings).fetch
    with Draft(out) as draft:
        table = labels.read(wishes.labels, _known(ledger, fetch, progress)) if wishes.labels is not None else {}
        job = _Job(
            settings=settings,
            ledger=ledger,
            fetch=fetch,
            wishes=wishes,
            draft=draft,
            record=record,
            names=Pseudonyms(pseudonyms.export_key(settings.export.key, record, new=wishes.new_key)),
            table=table,
            said=opinions(ledger.verdicts()),
            audit=audit or Audit.nowhere(),
        )
        for done, study in enumerate(studies):
            progress("studies", done, len(studies))
            job.take(study)
        progress("studies", len(studies), len(studies))
        return job.finish(now, progress)


def _known(ledger: Ledger, fetch: Fetch, progress: Progress) -> labels.Known:
    """Looks up what was received, for the table of labels: of all times, for a label may be of any study."""

    def known(column: str) -> dict[str, list[str]]:
        studies = ledger.received_studies()
        if column == labels.STUDY:
            return {uid: [uid] for uid in studies}
        found: dict[str, set[str]] = {}
        for done, study in enumerate(studies):
            progress("accession numbers", done, len(studies))
            for instance in ledger.received_instances(study):
                number = _accession_number(fetch, instance)
                if number:
                    found.setdefault(number, set()).add(study)
        return {number: sorted(uids) for number, uids in found.items()}

    return known


def _accession_number(fetch: Fetch, instance: Instance) -> str:
    try:
        with without_warnings():
            return str(read_header(fetch(instance.path), ["AccessionNumber"]).get("AccessionNumber") or "").strip()
    except Exception:  # noqa: BLE001 - a file that cannot be read has no number; it is left out with its reason
        return ""


@dataclass(slots=True, kw_only=True)
class _Job:
    settings: Settings
    ledger: Ledger
    fetch: Fetch
    wishes: Wishes
    draft: Draft
    record: Path
    names: Pseudonyms
    table: Mapping[str, int]
    said: Mapping[SOPInstanceUID, Opinions]
    audit: Audit
    report: Report = field(default_factory=Report)
    images: list[_Image] = field(default_factory=list)
    boxes: list[dict[str, object]] = field(default_factory=list)

    def take(self, study: str) -> None:
        """Export the usable images of one study."""
        usable, others, shapes = self._sort(study)
        chosen: dict[str, str] = {}
        unlabelled = False
        for instance in usable:
            target = self._target(study, instance.sop_instance_uid)
            unlabelled |= target.value is None
            if target.value is None and not self.wishes.unlabelled:
                continue
            name = self._take_image(instance, target)
            if name is not None:
                chosen[instance.sop_instance_uid] = "" if target.value == _NORMAL else name
        if unlabelled:
            self.report.unlabelled.append(study)
        self._take_regions(others, shapes, chosen)

    def _sort(self, study: str) -> tuple[list[Instance], list[Dataset], dict[str, tuple[int, int]]]:
        """The images to export, the objects that may hold regions, and rows and columns of every image."""
        usable: list[Instance] = []
        others: list[Dataset] = []
        shapes: dict[str, tuple[int, int]] = {}
        for instance in self.ledger.received_instances(study):
            try:
                ds = read_header(self.fetch(instance.path))
            except DatasetUnreadable as error:
                self._leave(instance, str(error))
                continue
            decision = decide_instance(ds, instance.calling_ae_title, self.settings.rules)
            if decision.action is Action.PASS_OVER:
                others += [ds] if regions.may_hold_regions(ds) else []
                continue
            shapes[instance.sop_instance_uid] = (elements.integer(ds, "Rows", 0), elements.integer(ds, "Columns", 0))
            if self.wishes.since is not None and instance.received_at < self.wishes.since:
                continue
            if decision.action is Action.IGNORE:
                self._leave(instance, decision.reason or "no routing rule takes it")
            elif pseudonyms.burned_in(ds):
                self._leave(instance, BURNED_IN)
            else:
                usable.append(instance)
        return usable, others, shapes

    def _target(self, study: str, image: SOPInstanceUID) -> _Target:
        """By the table, else by the verdicts on the image."""
        said, labelled = self.said.get(image), self.table.get(study)
        verdict = said.opinion.value if said is not None and said.opinion is not None else ""
        implied = said.target if said is not None else None
        if (said is not None and said.contradictory) or (labelled is not None and implied not in {None, labelled}):
            self.report.contradicted.append(image)
        if labelled is not None:
            return _Target(value=labelled, source="csv", verdict=verdict)
        return _Target(value=implied, source="" if implied is None else "verdict", verdict=verdict)

    def _take_image(self, instance: Instance, target: _Target) -> str | None:
        """Write one image; None, and why, when it cannot be used."""
        try:
            ds = reading.read(self.fetch(instance.path))
            facts = pseudonyms.facts(ds)
            luminance = pixels.radiograph(ds).pixels
        except (StudyUnsuitable, DatasetUnreadable) as error:
            self._leave(instance, str(error))
            return None
        except _FAULTS as error:
            log.error("image failed", error=type(error).__name__, place=place(error))  # noqa: TRY400
            self._leave(instance, f"reading it failed ({type(error).__name__})")
            return None
        study = instance.study_instance_uid
        patient, identified = self.names.patient(ds, study)
        name = self.draft.add_image(self.names.image(instance.sop_instance_uid), luminance)
        value = "" if target.value is None else str(target.value)
        row: dict[str, object] = {
            "file": name,
            "patient_id": patient,
            "study": self.names.study(study),
            "target": value,
            "target_source": target.source,
            "verdict": target.verdict,
            "view": facts.view,
            "sex": facts.sex,
            "age": "" if facts.age is None else facts.age,
        }
        about = Transferred(study=study, patient_id=elements.patient_id(ds), sop_classes={instance.sop_class_uid: 1})
        self.images.append(_Image(name=name, source=instance.path, row=row, facts=facts, about=about))
        self.report.targets[value] += 1
        self.report.sources[target.source] += bool(target.source)
        if not identified and study not in self.report.without_id:
            self.report.without_id.append(study)
        return name

    def _take_regions(
        self, others: list[Dataset], shapes: Mapping[str, tuple[int, int]], chosen: Mapping[str, str]
    ) -> None:
        """Boxes of the regions on exported images; none on an image that is said to show no opacity."""
        if not others:
            return
        found = regions.regions(others, shapes)
        self.report.regions.update(found.problems)
        for region in found.regions:
            name = chosen.get(region.sop_instance_uid)
            if name:
                cells = (round(value, 2) for value in region.box)
                self.boxes.append(dict(zip(BOX_COLUMNS, (name, *cells), strict=True)))
            elif name == "":
                self.report.regions["a region on an image whose target is 0"] += 1

    def _leave(self, instance: Instance, reason: str) -> None:
        self.report.left_out.append(
            LeftOut(
                study_instance_uid=instance.study_instance_uid,
                sop_instance_uid=instance.sop_instance_uid,
                reason=reason,
            )
        )

    def finish(self, now: datetime, progress: Progress) -> Report:
        """Tables and manifest, the re-check, and the name."""
        report = self.report
        report.sources = +report.sources
        report.images, report.boxes = len(self.images), len(self.boxes)
        report.patients = len({image.row["patient_id"] for image in self.images})
        report.studies = len({image.row["study"] for image in self.images})
        if not self.images:
            raise NothingExported(report)
        rows = sorted((image.row for image in self.images), key=lambda row: str(row["file"]))
        facts = {
            image.name: {"modality": image.facts.modality, "photometric": image.facts.photometric}
            for image in self.images
        }
        self.draft.add_table(LABELS, LABEL_COLUMNS, rows)
        self.draft.add_table(BOXES, BOX_COLUMNS, sorted(self.boxes, key=lambda row: str(row["file"])))
        self.draft.add_manifest(report.counts, now, facts, pseudonyms.fingerprint(self.names.key))
        check(self.draft.folder, self._sources(progress), fixed_text())
        pseudonyms.remember_key(self.names.key, self.record)
        self.audit.exported(self.draft.target, [image.about for image in self.images])
        self.draft.commit()
        return report

    def _sources(self, progress: Progress) -> Iterator[tuple[str, Path]]:
        for done, image in enumerate(self.images):
            progress("re-check", done, len(self.images))
            yield image.name, self.fetch(image.source)
        progress("re-check", len(self.images), len(self.images))
