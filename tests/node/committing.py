"""Peers of Storage Commitment for the tests: a PACS that commits, on whichever association it is told to."""

import threading

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from working import SC_STORAGE, Peer, free_port

MODEL, INSTANCE = StorageCommitmentPushModel, StorageCommitmentPushModelInstance


def request(uid, *objects):
    """The Action Information of a request; objects are (SOP Class UID, SOP Instance UID)."""
    ds = Dataset()
    ds.TransactionUID = uid
    ds.ReferencedSOPSequence = [item(*one) for one in objects]
    return ds


def item(sop_class, uid, reason=None):
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = sop_class, uid
    if reason is not None:
        ds.FailureReason = reason
    return ds


def told(ds):
    """What a report says: the Transaction UID, what is committed, what has failed and why."""
    return (
        ds.TransactionUID,
        [one.ReferencedSOPInstanceUID for one in ds.get("ReferencedSOPSequence", [])],
        {one.ReferencedSOPInstanceUID: one.FailureReason for one in ds.get("FailedSOPSequence", [])},
    )


class CommittingPacs(Peer):
    """A Storage SCP that also commits.

    Args:
        when: "before" or "after" its answer to the request, over the same association; "never" by itself.
        failures: by SOP Instance UID: why it does not commit to it.
        status: of its answers to requests; None: it never answers.
    """

    def __init__(self, when="after", failures=None, status=0x0000, **options):
        super().__init__(**options)
        self.when, self.failures, self.status = when, failures or {}, status
        self.requests, self.answers, self.classes = [], [], [SC_STORAGE, MODEL]
        self.lock = threading.Lock()
        self.releases = 0
        self.released = threading.Event()

    def start(self):
        entity = AE(self.ae_title)
        for one in self.classes:
            entity.add_supported_context(one)
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_N_ACTION, self._asked),
            (evt.EVT_RELEASED, self._left),
        ]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def _left(self, _event):
        self.releases += 1

    def information(self, asked, *, leave_out=()):
        ds = Dataset()
        ds.TransactionUID = asked.TransactionUID
        named = [one for one in asked.ReferencedSOPSequence if one.ReferencedSOPInstanceUID not in leave_out]
        failed = [one for one in named if one.ReferencedSOPInstanceUID in self.failures]
        if safe := [one for one in named if one not in failed]:
            ds.ReferencedSOPSequence = [item(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in safe]
        if failed:
            ds.FailedSOPSequence = [
                item(one.ReferencedSOPClassUID, uid, self.failures[uid])
                for one in failed
                for uid in [one.ReferencedSOPInstanceUID]
            ]
        return ds

    def report(self, association, asked, **how):
        ds = self.information(asked, **how)
        status, _ = association.send_n_event_report(ds, 2 if "FailedSOPSequence" in ds else 1, MODEL, INSTANCE)
        with self.lock:
            self.answers.append(status.get("Status"))

    def call(self, port, *reports, ae_title=None, role=True, event_type=None):
        """Open an association to a listener and report; the statuses of its answers."""
        entity = AE(ae_title or self.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
        entity.add_requested_context(MODEL)
        roles = [build_role(MODEL, scp_role=True)] if role else []
        association = entity.associate("127.0.0.1", port, ae_title="EXPLAIN", ext_neg=roles)
        assert association.is_established
        statuses = []
        for ds in reports:
            kind = event_type or (2 if "FailedSOPSequence" in ds else 1)
            statuses.append(association.send_n_event_report(ds, kind, MODEL, INSTANCE)[0].get("Status"))
        association.release()
        return statuses

    def _asked(self, event):
        asked = event.action_information
        with self.lock:
            self.requests.append(asked)
        if self.status is None:
            self.released.wait(200)
            return 0x0110, None
        if self.status == 0x0000 and self.when == "before":
            self.report(event.assoc, asked)
        if self.status == 0x0000 and self.when == "after":
            threading.Timer(0.1, self.report, (event.assoc, asked)).start()
        return self.status, None


class Asker:
    """A modality that asks whether what it sent is safe, and listens for reports on a port of its own."""

    def __init__(self, title="MODALITY", status=0x0000):
        self.title, self.status, self.port = title, status, free_port()
        self.reports, self.roles, self.came = [], [], threading.Event()
        self._server = None

    def listen(self):
        entity = AE(self.title)
        entity.add_supported_context(MODEL, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self.hear)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def stop(self):
        if self._server is not None:
            self._server.shutdown()

    def hear(self, event):
        asked = {uid: (one.scu_role, one.scp_role) for uid, one in event.assoc.requestor.role_selection.items()}
        self.roles.append(asked.get(MODEL))
        self.reports.append((event.event_type, *told(event.event_information)))
        self.came.set()
        return self.status, None
