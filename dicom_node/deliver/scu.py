"""Storage SCU (PS3.4 Annex B): objects to one destination over one association, an outcome for each.

Every C-STORE status is looked at. A warning (0xBxxx, PS3.4 table B.2-1) counts as delivered: the destination
has stored the object. A rejected presentation context concerns the objects that need it and no others; like the
status 0x0122 it says that the destination does not take the SOP Class. The peer's Error Comment is not repeated
anywhere: it may quote patient data.
"""

import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS
from pynetdicom.transport import AssociationSocket

from dicom_node.deliver.burst import in_bursts
from dicom_node.deliver.checkpoint import Checkpoint
from dicom_node.deliver.silence import Silence
from dicom_node.dicom.structure import of_this_host
from dicom_node.dicom.tls import client_context
from dicom_node.dicom.tls_failures import meaning
from dicom_node.errors import ConfigError, DeliveryError, DeliveryRefused, DeliveryUnreachable
from dicom_node.nouns import Destination, SOPInstanceUID

CONNECT_SECONDS = 10.0
SUCCESS = 0x0000
SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.6
MAX_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd identifiers from 1 to 255
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """One file to send; `key` is the caller's name for it."""

    key: str
    sop_instance_uid: SOPInstanceUID
    sop_class_uid: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutcome:
    """What became of one file.

    Attributes:
        key: the caller's name for it.
        status: the C-STORE status, None when there was no answer.
        error: None when it is delivered (success or warning).
        retry: whether the same attempt may succeed later without anybody's doing.
        class_refused: whether the destination does not take the file's SOP Class, or not in its transfer syntax.
    """

    key: str
    status: int | None
    error: DeliveryError | None
    retry: bool
    class_refused: bool = False

    @property
    def delivered(self) -> bool:
        """The destination has the object."""
        return self.error is None


def store(
    destination: Destination,
    requests: Iterable[StoreRequest],
    *,
    calling_ae_title: str,
    timeout: float,
) -> Generator[StoreOutcome]:
    """Send files to one destination, in order, and yield each outcome as soon as it is known.

    One association serves all. When it breaks, the file under way is unreachable and a new association is
    tried for the rest; when none can be had, the rest is unreachable too.

    Args:
        destination: the Storage SCP.
        requests: the files, of any SOP class and transfer syntax.
        calling_ae_title: our own AE title.
        timeout: seconds without any progress: of the negotiation, of bytes on their way, of an answer after them.

    Yields:
        one outcome for each request. Nothing is raised for a peer's fault.
    """
    waiting = deque(requests)
    while waiting:
        batch, contexts = _negotiable(waiting)
        offered = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
        try:
            with associated(destination, offered, calling_ae_title, timeout) as (association, connection):
                if not association.is_established:
                    yield from _not_established(association, waiting, batch)
                    continue
                in_bursts(association)
                for _ in range(batch):
                    request = waiting.popleft()
                    with Silence(association, connection, timeout, request.path):
                        outcome = _store_one(association, request)
                    yield outcome
                    if isinstance(outcome.error, DeliveryUnreachable):
                        break
        except DeliveryUnreachable as error:  # there was no association
            while waiting:
                yield _failed(waiting.popleft(), error, retry=True)


def echo(destination: Destination, *, calling_ae_title: str, timeout: float) -> int:
    """C-ECHO (PS3.4 Annex A) to a destination.

    Returns:
        the status; 0x0000 is success.

    Raises:
        DeliveryUnreachable: no association, or no answer.
    """
    offered = [build_context(Verification)]
    with associated(destination, offered, calling_ae_title, timeout) as (association, _):
        if not association.is_established:
            raise DeliveryUnreachable(why_not(association))
        status = association.send_c_echo()
        if "Status" not in status:
            raise DeliveryUnreachable("no answer to C-ECHO")
        return int(status.Status)


class _Entity(AE):
    """Makes its connection, with TLS where it has a context, and remembers it.

    pynetdicom 3.0 loses that of a refused connection without closing it, and makes no difference between one that TLS
    has refused and nobody there.

    Args:
        ae_title: our own.
        tls: the context, or None.
        name: of the host that is called, as its certificate carries it.
    """

    def __init__(self, ae_title: str, tls: ssl.SSLContext | None = None, name: str | None = None) -> None:
        super().__init__(ae_title=ae_title)
        self.connection: socket.socket | None = None
        self._tls, self._name = tls, name

    def _create_socket(self, *arguments: Any) -> AssociationSocket:
        created = super()._create_socket(*arguments)
        if created.socket is not None:  # a peer that acknowledges late would hold up each small object by 40 ms
            created.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None and created.socket is not None:
            created.socket = self._tls.wrap_socket(created.socket, server_hostname=self._name)
        self.connection = created.socket
        return created


@contextmanager
def associated(
    destination: Destination,
    contexts: list[PresentationContext],
    calling_ae_title: str,
    timeout: float,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[tuple[evt.EventType, Callable[[evt.Event], Any]]] = (),
) -> Iterator[tuple[Association, socket.socket | None]]:
    """An association, established or not, and its connection; at the end it is released and closed.

    Args:
        destination: the acceptor.
        contexts: what is proposed.
        calling_ae_title: our own AE title.
        timeout: seconds for each step of the negotiation, and for each read and write.
        roles: what we propose to be, where it is not the SCU (PS3.7 D.3.3.4).
        handlers: of requests that the acceptor makes.

    Raises:
        DeliveryUnreachable: the host has no address, a file that TLS needs cannot be used, or there was no TLS
            connection.
    """
    try:
        named = destination.tls_name is not None
        tls = None if destination.tls is None else client_context(destination.tls, check_name=named)
    except ConfigError as error:
        raise DeliveryUnreachable(f"no TLS connection: {error}") from error
    entity = _Entity(calling_ae_title, tls, destination.tls_name or destination.host)
    entity.acse_timeout = timeout
    entity.dimse_timeout = timeout
    entity.network_timeout = timeout
    entity.connection_timeout = min(timeout, CONNECT_SECONDS)

    def limited(event: evt.Event) -> None:
        """No read or write may take for ever: pynetdicom waits so for the rest of a PDU."""
        connection: Any = event.assoc.dul.socket
        connection.socket.settimeout(timeout)
        event.assoc._reactor_checkpoint = Checkpoint(event.assoc)  # noqa: SLF001 - see there

    try:
        association = entity.associate(
            destination.host,
            destination.port,
            contexts=contexts,
            ae_title=destination.ae_title,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, limited), *handlers],
        )
    except socket.gaierror as error:
        raise DeliveryUnreachable(f"no association: the host {destination.host} has no address") from error
    # An object may take longer than any answer: how long nothing may happen is watched by Silence.
    association.dimse_timeout = association.network_timeout = None if association.is_established else timeout
    try:
        if not association.is_established and (failure := getattr(entity.connection, "failure", None)) is not None:
            raise DeliveryUnreachable(f"no TLS connection: {meaning(failure)}")
        yield association, entity.connection
    finally:
        association.dimse_timeout = timeout
        if association.is_established:
            association.release()
        if association.is_alive():
            association.kill()
        if entity.connection is not None:
            entity.connection.close()


def _negotiable(requests: Sequence[StoreRequest]) -> tuple[int, list[tuple[str, str]]]:
    """How many requests from the front one association can carry, and the contexts that they need.

    Every file is offered in its own transfer syntax, so that it is sent as it is written, and an uncompressed
    one in the default transfer syntax too (PS3.5 section 10.1), which everybody takes.
    """
    contexts: dict[tuple[str, str], None] = {}
    for count, request in enumerate(requests):
        more = {(request.sop_class_uid, str(one)): None for one in _sendable(request.path)}
        if len(contexts | more) > MAX_CONTEXTS:
            return count, list(contexts)
        contexts |= more
    return len(requests), list(contexts)


def _sendable(path: Path) -> tuple[pydicom.uid.UID, ...]:
    """The transfer syntaxes that a file can be sent in."""
    syntax = _transfer_syntax(path)
    return _UNCOMPRESSED if syntax in _UNCOMPRESSED else (syntax,)


def _transfer_syntax(path: Path) -> pydicom.uid.UID:
    try:
        return pydicom.uid.UID(read_file_meta_info(path).TransferSyntaxUID)
    except (OSError, InvalidDicomError, AttributeError, ValueError):
        return ExplicitVRLittleEndian  # the file is looked at again when its turn comes


def _not_established(association: Association, waiting: deque[StoreRequest], batch: int) -> Iterator[StoreOutcome]:
    """No context accepted concerns this batch; no association concerns all that waits."""
    if association.rejected_contexts:
        for _ in range(batch):
            yield _no_context(waiting.popleft())
        return
    reason = why_not(association)
    while waiting:
        yield _failed(waiting.popleft(), DeliveryUnreachable(reason), retry=True)


def why_not(association: Association) -> str:
    """Why there is no association: rejected with the peer's reason (PS3.8 section 9.3.4), aborted, or nobody there."""
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        return f"association rejected: {answer.reason_str}"
    if association.is_aborted and answer is not None:
        return "association aborted by the destination"
    return "no association: the destination does not answer"


def _store_one(association: Association, request: StoreRequest) -> StoreOutcome:
    if not _accepted(association, request):
        return _no_context(request)
    try:
        dataset = pydicom.dcmread(request.path)
    except (OSError, InvalidDicomError, ValueError) as error:
        return unreadable(request, error)
    try:
        answer = association.send_c_store(dataset)
    except (ValueError, AttributeError) as error:
        reason = f"the result file cannot be sent ({type(error).__name__})"
        return _failed(request, DeliveryRefused(reason), retry=False)
    except RuntimeError:  # the association ended between our look and the request
        return _failed(request, DeliveryUnreachable("the association was ended", tried=True), retry=True)
    if "Status" not in answer:
        return _failed(request, DeliveryUnreachable("no answer to C-STORE", tried=True), retry=True)
    return _answered(request, int(answer.Status))


def _answered(request: StoreRequest, status: int) -> StoreOutcome:
    if status == SUCCESS or is_warning(status):
        return StoreOutcome(key=request.key, status=status, error=None, retry=False)
    meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("Failure", ""))[1]
    reason = f"C-STORE status 0x{status:04X}" + (f" ({meaning})" if meaning else "")
    refused = status == SOP_CLASS_NOT_SUPPORTED
    return StoreOutcome(
        key=request.key, status=status, error=DeliveryRefused(reason), retry=not refused, class_refused=refused
    )


def is_warning(status: int) -> bool:
    """Whether a C-STORE status says: stored, with a remark (PS3.4 table B.2-1, PS3.7 annex C)."""
    return status & 0xF000 == 0xB000  # noqa: PLR2004 - the class of warnings


def _accepted(association: Association, request: StoreRequest) -> bool:
    """Whether the destination takes the SOP Class, in a transfer syntax that the file can be sent in."""
    syntaxes = _sendable(request.path)
    return any(
        cx.abstract_syntax == request.sop_class_uid and cx.transfer_syntax[0] in syntaxes
        for cx in association.accepted_contexts
    )


def _no_context(request: StoreRequest) -> StoreOutcome:
    name = pydicom.uid.UID(request.sop_class_uid).name
    syntaxes = _sendable(request.path)
    compressed = "" if syntaxes == _UNCOMPRESSED else f" in {syntaxes[0].name}"
    reason = f"the destination does not accept {name}{compressed} (presentation context rejected)"
    return StoreOutcome(key=request.key, status=None, error=DeliveryRefused(reason), retry=False, class_refused=True)


def unreadable(request: StoreRequest, error: Exception) -> StoreOutcome:
    """Of a result whose file cannot be read: for good where the file is damaged or gone, else tried again."""
    reason = f"the result file cannot be read ({type(error).__name__})"
    return _failed(request, DeliveryRefused(reason), retry=of_this_host(error))


def _failed(request: StoreRequest, error: DeliveryError, *, retry: bool) -> StoreOutcome:
    return StoreOutcome(key=request.key, status=None, error=error, retry=retry)
