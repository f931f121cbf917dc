"""Errors of the node: each knows whether to retry and the DIMSE status to answer with.

NodeError                    retry   status    meaning
├─ PeerError                 no      0xC000    the peer sent something we cannot take
│  ├─ DatasetUnreadable      no      0xC000    not a DICOM data set
│  │  └─ Damaged             no      0xC000    nor what it was when it was stored (storage.objects)
│  ├─ SOPClassMismatch       no      0xA900    data set does not match the SOP Class of the request
│  ├─ InvalidInstanceUID     no      0x0117    a UID of the request is none (receive.part_file)
│  ├─ Conflict               no      0x0111    the UID is stored with another data set (receive.intake)
│  ├─ CommitmentUnreadable   no      0x0115    a commitment request or report makes no sense (dicom.commitment)
│  └─ TooMuchAsked           no      0x0213    it names more objects than one may (dicom.commitment)
├─ OutOfResources            yes     0xA700    our disk, our database, our object store
├─ BrokerUnreachable         yes     -         the queue does not answer; the work waits in the ledger
├─ DeliveryError             -       -         a result could not be handed over
│  ├─ DeliveryRefused        no      -         the destination answered with a failure status
│  │  └─ NotTaken            no      -         it does not accept Storage Commitment (deliver.commitment)
│  └─ DeliveryUnreachable    yes     -         no connection, rejected association, time-out
├─ StudyUnsuitable           no      -         no usable image: recorded, not an alarm
├─ ConfigError               no      -         only at start-up: names file, line and key
├─ NotDeployed               no      -         a version may not be deployed, or none is left (models.promotion)
├─ NotKept                   no      -         retention has removed what is asked for
├─ NoSuchJob                 no      -         no retraining job of that name (learn.jobs)
├─ LabelsWrong               no      -         a table of labels cannot be used: names the line (learn.labels)
├─ NotJudged                 no      -         no verdict may be given on that result (learn.export.judged)
├─ NothingExported           no      -         no image is fit for a training set (learn.export.run)
├─ ExportRefused             no      -         the folder cannot take an export (learn.export.folder)
├─ IdentifierFound           no      -         what was written still names somebody (learn.export.recheck)
├─ Untold                    no      -         a server did not take an alert (health.telling)
└─ KeyUnusable               no      -         a secret key cannot be used (storage.key_file)
"""

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why an image is not analysed, for machines: code values of the scheme 99XAI."""

    RULES = "rules"
    MODALITY = "modality"
    BODY_PART = "body-part"
    VIEW = "view"
    PATIENT = "patient"
    FRAMES = "frames"
    COLOUR = "colour"
    RAW = "raw"
    DERIVED = "derived"
    SIZE = "size"
    BLANK = "blank"
    PIXELS = "pixels"
    SYNTAX = "syntax"
    UNREADABLE = "unreadable"
    MODEL = "model"
    FAILED = "failed"


class NodeError(Exception):
    """Base of every error of dicom_node."""

    retry: ClassVar[bool] = False
    status: ClassVar[int] = 0xC000


class PeerError(NodeError):
    """The peer sent something we cannot take."""


class DatasetUnreadable(PeerError):
    """The bytes are not a DICOM data set that can be read; `reason` says what is the matter with them."""

    def __init__(self, message: str, reason: Reason = Reason.UNREADABLE) -> None:
        super().__init__(message)
        self.reason = reason


class SOPClassMismatch(PeerError):
    """The data set does not match the SOP Class of the request."""

    status: ClassVar[int] = 0xA900


class OutOfResources(NodeError):
    """The node lacks disk space, or its database or its object store does not answer."""

    retry: ClassVar[bool] = True
    status: ClassVar[int] = 0xA700


class BrokerUnreachable(NodeError):
    """The queue does not answer; nothing is lost, the work waits in the ledger."""

    retry: ClassVar[bool] = True


class DeliveryError(NodeError):
    """A result could not be handed to its destination."""


class DeliveryRefused(DeliveryError):
    """The destination answered with a failure status."""


class DeliveryUnreachable(DeliveryError):
    """The destination could not be reached, did not let us in, or broke off.

    Args:
        message: what happened.
        tried: an object was on its way, so that it may be the cause.
        wait: seconds for which the destination asks to be left alone.
    """

    retry: ClassVar[bool] = True

    def __init__(self, message: str, *, tried: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.tried = tried
        self.wait = wait


class StudyUnsuitable(NodeError):
    """The model may not be applied to the image, or to any of the study; `reason` says what it is instead."""

    def __init__(self, message: str, reason: Reason = Reason.RULES) -> None:
        super().__init__(message)
        self.reason = reason


class NotKept(NodeError):
    """What is asked for was there, and retention has removed it."""


class ConfigError(NodeError):
    """The configuration is wrong; the message names file, line and key."""
