"""An outbox and its sender, for tests: objects that are owed, and a clock that the test moves."""

import itertools
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from working import CR_STORAGE, SC_STORAGE, STUDY, T0, at, delivery, due, instance, settings, study, task

from dicom_node.deliver.sender import Sender
from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.storage.ledger import Ledger

SR_STORAGE = "1.2.840.10008.5.1.4.1.1.88.33"
SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
CHAIN = {
    "segmentation": (SEG_STORAGE, "overlay"),
    "overlay": (CR_STORAGE, "secondary_capture"),
    "secondary_capture": (SC_STORAGE, None),
}
"""Three kinds of three SOP Classes, each standing in for the one before."""


def write(folder: Path, uid: str, sop_class: str = SC_STORAGE) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.PatientName, ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "Canary^Bird", "1", STUDY, f"{STUDY}.1"
    ds.save_as(folder / f"{uid}.dcm", enforce_file_format=True)
    return folder / f"{uid}.dcm"


class Node:
    """A ledger with explained deliveries and a sender with a clock that the test moves."""

    def __init__(self, folder: Path, *peers_: tuple[str, int] | dict, **delivery_settings) -> None:
        self.folder = folder
        self.settings = settings(
            folder,
            *(one if isinstance(one, dict) else (one[0], "PACS", one[1]) for one in peers_),
            delivery={"timeout": 5} | delivery_settings,
        )
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.now = at(100)
        self.sender = Sender(settings=self.settings, ledger=self.ledger, clock=lambda: self.now)
        self._tasks = itertools.count(1)

    def owe(self, *deliveries) -> None:
        number = next(self._tasks)
        uid = f"{STUDY}.{number}"
        self.ledger.add_instance(instance(1, study=uid))
        revision = study(instance(1, study=uid))
        self.ledger.mark_ready(revision, [task(revision, f"t{number}")], T0)
        self.ledger.lease(f"t{number}", "w", T0, 60)
        owed = {"deliveries": deliveries, "state": StudyState.EXPLAINED, "reason": None, "now": T0}
        assert self.ledger.complete(f"t{number}", "w", **owed)

    def result(self, number: int, destination: str = "pacs", sop_class: str = SC_STORAGE, **changes):
        path = write(self.folder, f"2.25.{number}", sop_class)
        return delivery("t1", number, destination, path=path, sop_class_uid=sop_class, **changes)

    def owe_chain(self, *wanted: str) -> None:
        """The kinds of CHAIN, those that are not wanted on standby."""
        self.owe(
            *(
                self.result(
                    number,
                    sop_class=sop_class,
                    kind=kind,
                    fallback=fallback,
                    state=DeliveryState.PENDING if kind in wanted else DeliveryState.STANDBY,
                )
                for number, (kind, (sop_class, fallback)) in enumerate(CHAIN.items(), start=1)
            )
        )

    def deliver_all(self) -> None:
        """Messages as the dispatcher sends them, until nothing is due."""
        while waiting := due(self.ledger, self.now):
            self.sender.deliver(waiting[0].delivery_id)

    def kinds(self) -> dict[str, str]:
        return {one.kind: one.state.value for one in self.ledger.deliveries()}

    def states(self) -> dict[str, DeliveryState]:
        return {one.delivery_id.removeprefix("t1-"): one.state for one in self.ledger.deliveries()}
