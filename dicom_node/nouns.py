"""The nouns of the node. They know errors and nothing else of the node, and do nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, NewType

from dicom_node.errors import Reason

REPORT: Final = "structured_report"
"""The kind of result that says in words what became of a study; its builder's name."""

SOPInstanceUID = NewType("SOPInstanceUID", str)
SeriesInstanceUID = NewType("SeriesInstanceUID", str)
StudyInstanceUID = NewType("StudyInstanceUID", str)
AETitle = NewType("AETitle", str)


class StudyState(StrEnum):
    """receiving -> ready -> explaining -> explained, ignored or failed."""

    RECEIVING = "receiving"
    READY = "ready"
    EXPLAINING = "explaining"
    EXPLAINED = "explained"
    IGNORED = "ignored"
    FAILED = "failed"


class TaskState(StrEnum):
    """pending -> leased -> done, or failed (terminal, replayable)."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """pending -> sent, downgraded (another object stands in), or dead (kept, shown, replayable); sent -> committed.

    An object on standby is kept ready should the destination not take the SOP Class of another one. Where the
    destination is asked for Storage Commitment, what is sent is safe only when it is committed.
    """

    PENDING = "pending"
    SENT = "sent"
    COMMITTED = "committed"
    DEAD = "dead"
    STANDBY = "standby"
    DOWNGRADED = "downgraded"


class CommitmentState(StrEnum):
    """Of a request of ours: asking -> asked -> answered, or closed without an answer (and asked anew).

    Of a report that we owe: owed -> reported, or dead (its asker cannot be reached).
    """

    ASKING = "asking"
    ASKED = "asked"
    ANSWERED = "answered"
    CLOSED = "closed"
    OWED = "owed"
    REPORTED = "reported"
    DEAD = "dead"


class Opinion(StrEnum):
    """What a radiologist says of a result: decision right, decision wrong, or right but marked at the wrong place."""

    AGREE = "agree"
    DISAGREE = "disagree"
    WRONG_PLACE = "wrong-place"


class Note(StrEnum):
    """Why, in words of a closed list: free text would sooner or later hold patient data."""

    ARTEFACT = "artefact"
    DEVICE = "device"
    POOR_IMAGE = "poor-image"
    SUBTLE = "subtle"
    OTHER_FINDING = "other-finding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """One accepted association (PS3.8), from A-ASSOCIATE to its end.

    Attributes:
        listener: the process that holds it, `Spool.owner`.
    """

    association_id: str
    calling_ae_title: AETitle
    called_ae_title: AETitle
    peer_address: str
    opened_at: datetime
    listener: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One stored SOP Instance: a file in the spool and a row in the ledger.

    Attributes:
        removed: whether retention has removed the file; the instance may be received anew.
    """

    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    series_instance_uid: SeriesInstanceUID
    study_instance_uid: StudyInstanceUID
    transfer_syntax_uid: str
    association_id: str
    calling_ae_title: AETitle
    path: Path
    sha256: str
    size: int
    received_at: datetime
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The instances of one study that make up one revision."""

    study_instance_uid: StudyInstanceUID
    revision: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What to do with the images that a rule selects: names only, from the settings.

    Attributes:
        name: of the rule.
        destinations: who gets the results.
        results: the only objects that they get, among those that they want; empty: all that they want.
    """

    name: str
    destinations: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """The PEM files of one side of a TLS connection.

    Attributes:
        certificate: our own, with the intermediate ones after it; None: we show none.
        key: its private key.
        authorities: certificates of those whose signature we believe; None: nobody's.
        revocations: their certificate revocation lists; None: nothing is revoked.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    revocations: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A Storage SCP that takes results.

    Attributes:
        tls: what a TLS connection to it is made with; None: it is reached without TLS.
        tls_name: the host name or address that its certificate must carry; None: any.
        commitment: whether it is asked to commit to what it was sent (PS3.4 Annex J).
    """

    name: str
    ae_title: AETitle
    host: str
    port: int
    tls: TLSFiles | None = None
    tls_name: str | None = None
    commitment: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """One object that a request for Storage Commitment or a report names (PS3.3 table 10-11)."""

    sop_class_uid: str
    sop_instance_uid: SOPInstanceUID


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentRequest:
    """The Action Information of an N-ACTION of Storage Commitment (PS3.4 table J.3-1)."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentReport:
    """The Event Information of an N-EVENT-REPORT of Storage Commitment (PS3.4 table J.3-2).

    Attributes:
        committed: what is safe at the one who reports.
        failed: what is not, and the Failure Reason (0008,1197) of each.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: Mapping[Reference, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebDestination:
    """An origin server that takes results over DICOMweb (STOW-RS, PS3.18 section 10.5).

    Attributes:
        url: of the service, without a slash at its end; /studies follows it.
        token_url: where a token is had for the client's credentials (RFC 6749 section 4.4); None: no token.
        client_id: of these credentials.
        client_secret_file: a file that holds nothing but the secret.
        client_secret_variable: of the environment, instead of a file.
        scope: what is asked for, or None.
        authorities: PEM file of those that are trusted to sign the server's certificate; None: the system's.
        certificate: our own, PEM, for mutual TLS, or None.
        key: of our certificate; None: it is in the same file.
        proxy: its URL, "environment" for what HTTPS_PROXY and its like say, or None: no proxy.
    """

    name: str
    url: str
    token_url: str | None = None
    client_id: str | None = None
    client_secret_file: Path | None = None
    client_secret_variable: str | None = None
    scope: str | None = None
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedBy:
    """An image that no route takes.

    Attributes:
        reason: a plain clause that follows "because"; names no patient.
        code: the reason for machines.
    """

    sop_instance_uid: SOPInstanceUID
    reason: str
    code: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One unit of work: explain `selected` of a study revision, or, without any, report `reason`.

    What the rules decided is decided once, by the dispatcher, and travels with the task: a rule that is renamed or
    removed while the task waits changes nothing about who is answered.

    Attributes:
        task_id: UUIDv5 of study, revision and route: submitting twice is the same task.
        route: name of the route, for people; the empty string for a study that no rule takes.
        destinations: who gets the results.
        results: the only objects that they get, among those that they want; empty: all that they want.
        selected: the SOP Instances to explain; empty for a "not analysed" report.
        passed_by: the images of the revision that no route takes.
        reason: why nothing is analysed, or None.
        created_at: recorded once; the content date and time of the results.
    """

    task_id: str
    study_instance_uid: StudyInstanceUID
    revision: int
    route: str
    destinations: tuple[str, ...]
    results: tuple[str, ...]
    selected: tuple[SOPInstanceUID, ...]
    passed_by: tuple[PassedBy, ...]
    reason: str | None
    state: TaskState
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One result object owed to one destination (the outbox).

    Attributes:
        kind: name of the object's builder.
        fallback: the kind that stands in when the destination does not take the SOP Class, or None.
        stand_in: the kind that does stand in for a downgraded one, or None.
        last_error: why the last attempt failed, or the warning that it was delivered with.
        study_instance_uid, revision: what it is a result of; known where a sender has taken it.
    """

    delivery_id: str
    task_id: str
    kind: str
    fallback: str | None
    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    path: Path
    destination: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    last_error: str | None
    stand_in: str | None = None
    study_instance_uid: StudyInstanceUID | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """A destination that did not answer when it was last tried.

    Attributes:
        attempts: how often in a row.
        since: the first of these.
        next_attempt_at: until then it is left in peace.
        reason: of the last.
    """

    destination: str
    attempts: int
    since: datetime
    next_attempt_at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyActivity:
    """What the ledger knows of a study that holds instances in no revision yet.

    Attributes:
        revision: the revision that these instances will make, counted from 1.
        first_received: when the first of them was stored.
        last_received: when the last of them was stored.
        open_associations: associations that touched the study and have not ended.
        new_instances: how many there are, at least 1.
    """

    study_instance_uid: StudyInstanceUID
    revision: int
    first_received: datetime
    last_received: datetime
    open_associations: int
    new_instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSize:
    """What one of the node's stores holds.

    Attributes:
        name: images, results, quarantine, ...
        oldest: when the oldest of its files was written, or None.
    """

    name: str
    files: int
    bytes: int
    oldest: datetime | None
    measured_at: datetime
