"""The audit: who did what to whose data, and to the node, in the words of PS3.15 A.5.

Every event has a method here; messages go to the trail of the node (`audit_trail`), which others write too.
"""

import getpass
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.watch import audit_message as words
from dicom_node.watch.audit_message import EventID, EventType, Message, Outcome, Role
from dicom_node.watch.audit_transfers import Transferred, Transfers

ALERTS_PER_MINUTE = 20
"""Rejected associations of one host that are written down one by one; of the rest, how many there were."""
MINUTE = 60.0
MOST_HOSTS = 500
STUDIES_PER_MESSAGE = 25
"""A repository takes messages of 32768 octets at least (PS3.15 A.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Another Application Entity and where it is."""

    ae_title: str
    address: str


@dataclass(slots=True)
class _Alerts:
    """Of one host, in the minute that began then."""

    began: float
    count: int = 0


class Audit:
    """Writes messages about what this process does.

    Args:
        name: of the process: a role or a command.
        ae_title: of the node.
        write: where messages go.
        patient_ids: whether messages state Patient IDs.
        clock: the time, aware.
    """

    def __init__(
        self,
        name: str,
        ae_title: str,
        write: Callable[[Sequence[Message]], None],
        *,
        patient_ids: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._ae_title = ae_title
        self._write = write
        self._patient_ids = patient_ids
        self._clock = clock
        self._host = socket.gethostname()
        self._alerts: dict[str, _Alerts] = {}
        self._lock = threading.Lock()

    @classmethod
    def nowhere(cls) -> "Audit":
        """One that writes nothing: for a part that runs without a node."""
        return cls("nothing", "NOBODY", lambda _: None)

    def application(self, *, started: bool, failure: str = "") -> None:
        """Application Activity (A.5.3.1): this process begins its work, or has ended it."""
        kind = EventType.APPLICATION_START if started else EventType.APPLICATION_STOP
        outcome = Outcome.MAJOR_FAILURE if failure else Outcome.SUCCESS
        participants = [self._process(Role.APPLICATION)]
        self._say(EventID.APPLICATION_ACTIVITY, "E", participants, type_code=kind, outcome=outcome, description=failure)

    def receiving(self, peer: Node) -> Transfers:
        """Begin Transferring and DICOM Instances Transferred (A.5.3.3, A.5.3.7) of what a peer sends."""
        source = words.peer(peer.ae_title, peer.address, roles=[Role.SOURCE_ROLE_ID], requestor=True)
        ours = self._process(Role.DESTINATION_ROLE_ID)
        return Transfers(self._transfers([source, ours]), receiving=True)

    def sending(self, peer: Node) -> Transfers:
        """The same of what is sent to a peer."""
        ours = self._process(Role.SOURCE_ROLE_ID, requestor=True)
        target = words.peer(peer.ae_title, peer.address, roles=[Role.DESTINATION_ROLE_ID], requestor=False)
        return Transfers(self._transfers([ours, target]), receiving=False)

    def node_rejected(self, peer: Node, why: str) -> None:
        """Security Alert, Node Authentication (A.5.3.11): a peer that is not known was turned away.

        Of a host that comes again and again only some are written one by one: it must not fill the disk.
        """
        with self._lock:
            now = time.monotonic()
            if len(self._alerts) > MOST_HOSTS:
                self._alerts = {host: one for host, one in self._alerts.items() if now - one.began < MINUTE}
            alerts = self._alerts.setdefault(peer.address, _Alerts(now))
            more = 0
            if now - alerts.began >= MINUTE:
                more = max(0, alerts.count - ALERTS_PER_MINUTE)
                alerts.began, alerts.count = now, 0
            alerts.count += 1
            if alerts.count > ALERTS_PER_MINUTE:
                return
        description = why + (f"; {more} more of this host were not written down one by one" if more else "")
        self._alert(
            EventType.NODE_AUTHENTICATION,
            [words.node(peer.address, {"Alert Description": description})],
            others=[words.peer(peer.ae_title, peer.address, roles=(), requestor=False)],
            outcome=Outcome.MINOR_FAILURE,
            description=why,
        )

    def software_changed(
        self, what: str, uri: str, details: Mapping[str, str], *, by_person: bool, user: str = "", address: str = ""
    ) -> None:
        """Security Alert, Software Configuration (A.5.3.11): another model version, or other settings.

        Args:
            what: was done.
            uri: to what.
            details: of it.
            by_person: whether somebody did it, at this machine unless `user` is named.
            user: who did it in the dashboard.
            address: from where.
        """
        described = {"Alert Description": what} | dict(details)
        person = words.person(user, address=address) if user else self._person()
        others = [person] if by_person else []
        self._alert(EventType.SOFTWARE_CONFIGURATION, [words.resource(uri, "", described)], others=others)

    def exported(self, folder: Path, images: Iterable[Transferred]) -> None:
        """Export (A.5.3.4): images of studies, de-identified, are written into a folder."""
        participants = [
            self._person(Role.SOURCE_ROLE_ID),
            self._process(Role.SOURCE_ROLE_ID),
            words.media(folder.absolute().as_uri()),
        ]
        every = _by_study(images)
        made = []
        for start in range(0, len(every), STUDIES_PER_MESSAGE):
            part = every[start : start + STUDIES_PER_MESSAGE]
            objects = [words.study(one.study, one.sop_classes, anonymized=True) for one in part]
            objects += self._patients(one.patient_id for one in part)
            made.append(self._message(EventID.EXPORT, "R", participants, objects))
        self._write(made)

    def accessed(self, study: Transferred, user: str, address: str) -> None:
        """DICOM Instances Accessed (A.5.3.6): somebody saw pictures or the patient of a study."""
        objects = [words.study(study.study, study.sop_classes), *self._patients([study.patient_id])]
        participants = [words.person(user, address=address), self._process()]
        self._say(EventID.DICOM_INSTANCES_ACCESSED, "R", participants, objects)

    def deleted(self, study: Transferred, why: str) -> None:
        """DICOM Study Deleted (A.5.3.8): the node does not hold a study any more."""
        objects = [words.study(study.study, study.sop_classes), *self._patients([study.patient_id])]
        participants = [self._process(requestor=True)]
        self._say(EventID.DICOM_STUDY_DELETED, "D", participants, objects, description=why)

    def login(self, user: str, address: str, *, granted: bool = True) -> None:
        """User Authentication, Login (A.5.3.12): somebody logged on, or was turned away."""
        self._authentication(EventType.LOGIN, user, address, Outcome.SUCCESS if granted else Outcome.MINOR_FAILURE)

    def logout(self, user: str, address: str) -> None:
        """User Authentication, Logout (A.5.3.12)."""
        self._authentication(EventType.LOGOUT, user, address, Outcome.SUCCESS)

    def log_used(self, folder: Path, fault: str = "") -> None:
        """Audit Log Used (A.5.3.2): somebody looked through the trail, and found this."""
        outcome = Outcome.MAJOR_FAILURE if fault else Outcome.SUCCESS
        objects = [words.resource(folder.absolute().as_uri(), "Security Audit Log")]
        participants = [self._person(), self._process()]
        self._say(EventID.AUDIT_LOG_USED, "R", participants, objects, outcome=outcome, description=fault)

    def gap(self, since: datetime, lost: int) -> tuple[Message, Message]:
        """Security Alerts, Audit Recording Stopped and Started (A.5.3.11): for a time nothing could be written."""
        outcome = Outcome.MAJOR_FAILURE if lost else Outcome.MINOR_FAILURE
        what = f"the audit could not be written since {since:%Y-%m-%d %H:%M:%S} UTC; {lost} message(s) are lost"
        made = [
            self._alert_message(
                kind,
                [words.resource("urn:dicom-node:audit", "Security Audit Log", {"Alert Description": what})],
                outcome=outcome,
                when=when,
            )
            for kind, when in (
                (EventType.AUDIT_RECORDING_STOPPED, since),
                (EventType.AUDIT_RECORDING_STARTED, self._clock()),
            )
        ]
        return made[0], made[1]

    def _transfers(self, participants: Sequence[Message]) -> Callable[..., None]:
        def tell(what: Transferred, *, ended: bool) -> None:
            objects = [words.study(what.study, what.sop_classes)] if what.study else []
            objects += self._patients([what.patient_id])
            event = EventID.DICOM_INSTANCES_TRANSFERRED if ended else EventID.BEGIN_TRANSFERRING_DICOM_INSTANCES
            # R where the audit source does not know what the receiver held before, too (A.5.3.7).
            action = ("C" if what.new else "R") if ended else "E"
            self._say(event, action, participants, objects, outcome=what.outcome, description=what.description)

        return tell

    def _authentication(self, kind: EventType, user: str, address: str, outcome: Outcome) -> None:
        participants = [words.person(user, address=address), self._process()]
        self._say(EventID.USER_AUTHENTICATION, "E", participants, type_code=kind, outcome=outcome)

    def _patients(self, patient_ids: Iterable[str]) -> list[Message]:
        return [words.patient(one) for one in dict.fromkeys(patient_ids) if one] if self._patient_ids else []

    def _process(self, *roles: Role, requestor: bool = False) -> Message:
        return words.process(os.getpid(), self._ae_title, self.name, roles=roles, requestor=requestor)

    def _person(self, *roles: Role) -> Message:
        return words.person(f"{user_name()}@{self._host}", roles=roles)

    def _alert(
        self, kind: EventType, objects: Sequence[Message], *, others: Sequence[Message] = (), **how: Any
    ) -> None:
        self._write([self._alert_message(kind, objects, others=others, **how)])

    def _alert_message(
        self, kind: EventType, objects: Sequence[Message], *, others: Sequence[Message] = (), **how: Any
    ) -> Message:
        participants = [self._process(Role.APPLICATION), *others]
        return self._message(EventID.SECURITY_ALERT, "E", participants, objects, type_code=kind, **how)

    def _say(
        self, event: EventID, action: str, participants: Sequence[Message], objects: Sequence[Message] = (), **how: Any
    ) -> None:
        self._write([self._message(event, action, participants, objects, **how)])

    def _message(
        self,
        event: EventID,
        action: str,
        participants: Sequence[Message],
        objects: Sequence[Message] = (),
        *,
        when: datetime | None = None,
        **how: Any,
    ) -> Message:
        return words.message(
            event,
            action,
            when=when or self._clock(),
            source=f"{self._ae_title}@{self._host}",
            participants=participants,
            objects=objects,
            **how,
        )


def _by_study(images: Iterable[Transferred]) -> list[Transferred]:
    found: dict[tuple[str, str], Transferred] = {}
    for one in images:
        before = found.get((one.study, one.patient_id))
        counts = Counter(one.sop_classes) + Counter(before.sop_classes if before else {})
        found[one.study, one.patient_id] = replace(before or one, sop_classes=counts)
    return list(found.values())


def user_name() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
