"""A study with one received image and one task, and workers for it."""

from pathlib import Path

from pydicom import dcmread
from radiographs import encode, synthetic
from toy_explainer import ToyExplainer
from working import STUDY, association, at, instance, settings, task

from dicom_node.explain.worker import Worker
from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool

SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.33"


RULES = [
    {"name": "chest", "action": "explain", "destinations": ["pacs", "archive"]},
    {"name": "quick", "action": "explain", "destinations": ["pacs"], "results": ["structured_report"]},
]


class Doing(ToyExplainer):
    """The toy model, after doing something."""

    def __init__(self, before) -> None:
        super().__init__()
        object.__setattr__(self, "_before", before)

    def explain(self, radiograph, methods, assessment=None):
        self._before()
        return super().explain(radiograph, methods, assessment)


class Node:
    """A study with one received image and one task, and workers for it."""

    def __init__(
        self, folder: Path, *, image: bytes | None = None, pacs=None, archive=None, results=None, **limits
    ) -> None:
        self.settings = settings(
            folder,
            ("pacs", "PACS", 11113, pacs or {}),
            ("archive", "ARCHIVE", 11114, archive or {}),
            rules=RULES,
            broker=limits,
            results=results or {},
        )
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.spool = Spool(self.settings.node.spool, 0)
        self.now = at(30)
        self.receive(1, image)
        self.add_task("t1")

    def receive(self, number: int, image: bytes | None = None) -> None:
        made = instance(number, path=self.settings.node.spool / f"{number}.dcm")
        made.path.write_bytes(image or chest(number))
        self.ledger.open_association(association())
        assert self.ledger.add_instance(made) == "added"
        self.ledger.close_association("a1", at(1))

    def add_task(self, name: str, revision: int = 1, **changes) -> None:
        """As the dispatcher would: by the rule of that name, or for everybody without one."""
        seen = self.ledger.study(STUDY, revision)
        rule = next((one for one in self.settings.rules if one.name == changes.get("route", "chest")), None)
        told = tuple(one.name for one in self.settings.destinations)
        decided = (
            {"destinations": told}
            if rule is None
            else {"destinations": rule.destinations, "results": rule.results or ()}
        )
        changes = decided | changes
        assert self.ledger.mark_ready(seen, [task(seen, name, **changes)], at(20))

    def worker(self, explainer=None, **options) -> Worker:
        model = options.pop("model", lambda: explainer or ToyExplainer())
        options = {"clock": lambda: self.now} | options
        return Worker(self.settings, self.ledger, self.spool, model, **options)

    @property
    def state(self) -> tuple[StudyState, str | None]:
        return self.ledger.studies()[0].state, self.ledger.studies()[0].reason

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.spool.outbox.rglob("*.dcm")}

    @property
    def owed(self) -> list[tuple[str, str]]:
        return sorted((one.sop_instance_uid, one.destination) for one in self.ledger.deliveries())

    def owed_to(self, destination: str, state: DeliveryState = DeliveryState.PENDING) -> dict[str, Path]:
        """The files of a destination by their kind."""
        rows = self.ledger.deliveries()
        return {one.kind: one.path for one in rows if (one.destination, one.state) == (destination, state)}

    @property
    def report(self):
        """The one result, which must be a report."""
        (path,) = {one.path for one in self.ledger.deliveries() if one.state is DeliveryState.PENDING}
        found = dcmread(path)
        assert found.SOPClassUID == SR_STORAGE
        return found

    @property
    def report_text(self) -> str:
        """All text of the one report."""
        return "\n".join(str(one.TextValue) for one in items(self.report) if "TextValue" in one)


def items(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from items(child)


def chest(number: int = 1, **changes) -> bytes:
    made = instance(number)
    return encode(
        synthetic(
            bits=8,
            SOPInstanceUID=made.sop_instance_uid,
            StudyInstanceUID=made.study_instance_uid,
            SeriesInstanceUID=made.series_instance_uid,
            **changes,
        )
    )
