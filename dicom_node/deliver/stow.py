"""STOW-RS user agent (PS3.18 section 10.5): objects to one origin server, an outcome for each.

Objects of a study go together, in one multipart/related body of bounded size that is read from the files while it is
sent. What the answer says of each instance counts, not the status of the whole: an instance that it does not name is
not taken for stored. When a request of several objects fails as a whole, they are sent one by one, so that none suffers
for another.

    named as stored                  delivered, with its Warning Reason
    named as failed                  refused with its Failure Reason; some say that this kind of object is not taken
    415 for one object               this kind of object is not taken
    400, 409, 413 and their like     refused
    401, 403, 404, 429, 502, 503,    nothing is said of the object: it is the destination that is in trouble
    a redirect, another answer
    500, a connection that breaks    the same, but the object may be the cause
"""

import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from dicom_node.deliver import store_response
from dicom_node.deliver.scu import StoreOutcome, StoreRequest, unreadable
from dicom_node.dicom.uids import checked_uid
from dicom_node.errors import DatasetUnreadable, DeliveryError, DeliveryRefused, DeliveryUnreachable
from dicom_node.nouns import WebDestination

if TYPE_CHECKING:
    from dicom_node.deliver.web_client import Answer, Tokens, WebClient

MOST_OBJECTS = 20
MOST_BYTES = 16 << 20
"""Of the objects of one request; a larger one goes alone."""
CHUNK = 1 << 16

CLASS_REFUSED = frozenset({0x0122, 0x0124, 0xC122})
"""Failure Reasons that will not change for the object: its SOP Class is not supported, storing it not authorised, its
transfer syntax not supported (PS3.18 table I.2-2; PS3.7 C.5)."""
UNSUPPORTED_MEDIA_TYPE = 415
_OF_THE_OBJECT = frozenset({400, 406, 409, 410, 411, 413, UNSUPPORTED_MEDIA_TYPE, 422})
_INTERNAL_ERROR = 500
_ANSWERED = (200, 202, 204)
_ADVICE = {
    401: "the token is not taken: see client_id, its secret and scope",
    403: "we may not store there: see the rights of client_id or of the certificate",
    404: "there is no DICOMweb service: see url",
    405: "nothing can be stored there: see url",
    407: "the proxy wants a login",
    413: "it is too large for the server: raise its limit for requests",
    429: "the server asks for fewer requests",
    503: "the server is busy or being maintained",
}
_NO_SEARCH = frozenset({400, 405, 406, 501})
"""Statuses of a server that is there and lets us in, but answers no searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A file that can be sent."""

    request: StoreRequest
    study: str
    size: int


@dataclass(slots=True)
class Stow:
    """Stores at DICOMweb destinations; keeps the tokens of this process."""

    _tokens: "Tokens | None" = field(default=None, repr=False)

    def __call__(
        self,
        destination: WebDestination,
        requests: Iterable[StoreRequest],
        *,
        calling_ae_title: str,  # noqa: ARG002 - as of scu.store; HTTP knows no AE titles
        timeout: float,
    ) -> Generator[StoreOutcome]:
        """Send files to one destination, by study, and yield each outcome as soon as it is known.

        Args:
            destination: the origin server.
            requests: the files, of any SOP class and transfer syntax.
            calling_ae_title: our own AE title.
            timeout: seconds without any progress: of a connection, of bytes on their way, of an answer after them.

        Yields:
            one outcome for each request. Nothing is raised for a peer's fault.
        """
        parts: list[_Part] = []
        for request in requests:
            try:
                parts.append(_part(request))
            except (OSError, InvalidDicomError, ValueError, AttributeError, DatasetUnreadable) as error:
                yield unreadable(request, error)
        waiting = _batches(parts)
        try:
            with self._client(destination, timeout) as client:
                while waiting:
                    batch = waiting[0]
                    yield from _send(client, batch, waiting)
        except DeliveryUnreachable as error:  # nothing more can be had from there now
            for part in (part for batch in waiting for part in batch):
                yield _failed(part.request, DeliveryUnreachable(str(error), wait=error.wait), retry=True)

    def echo(self, destination: WebDestination, *, timeout: float) -> str:
        """Ask for one study (QIDO-RS, PS3.18 section 10.6), whose answer is not read: what C-ECHO is to DICOM.

        Returns:
            what is to be said of a destination that can be reached.

        Raises:
            DeliveryUnreachable: it cannot.
        """
        with self._client(destination, timeout) as client:
            answer = client.send("GET", "/studies?limit=1", {"Accept": "application/dicom+json"}, read=False)
        if answer.status in _NO_SEARCH:
            return f"lets us in; answers no searches (status {answer.status})"
        if answer.status not in _ANSWERED:
            raise _trouble(answer)
        if answer.content_type not in {"application/dicom+json", "application/json", "application/dicom+xml", ""}:
            raise DeliveryUnreachable(f"the answer is no DICOMweb ({_media_type(answer)}): see url")
        return "answers searches"

    def _client(self, destination: WebDestination, timeout: float) -> "WebClient":
        from dicom_node.deliver.web_client import Tokens, WebClient  # noqa: PLC0415 - only where one is needed

        self._tokens = self._tokens or Tokens()
        return WebClient(destination, self._tokens, timeout)


def _send(client: "WebClient", batch: list[_Part], waiting: list[list[_Part]]) -> Iterator[StoreOutcome]:
    """One request for the first batch that waits, which then waits no more; or for each of its objects.

    Raises:
        DeliveryUnreachable: it has nothing to do with the objects: what is not settled still waits.
    """
    try:
        answer = _post(client, batch)
        stored, failed = _named(answer)
    except DeliveryUnreachable as error:
        if not error.tried:
            raise
        if len(batch) == 1:
            waiting.pop(0)
            yield _failed(batch[0].request, error, retry=True)
            return
        answer = None
    except OSError as error:
        if len(batch) == 1:
            waiting.pop(0)
            yield unreadable(batch[0].request, error)
            return
        answer = None
    if answer is None or (len(batch) > 1 and not stored and not failed):
        waiting[:1] = [[part] for part in batch]
        return
    waiting.pop(0)
    for part in batch:
        yield _outcome(part.request, answer, stored, failed)


def _post(client: "WebClient", batch: Sequence[_Part]) -> "Answer":
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    tail = f"--{boundary}--\r\n".encode()

    class Body:
        """May be gone through twice: a token may have to be replaced."""

        def __iter__(self) -> Iterator[bytes]:
            for part in batch:
                yield head
                with part.request.path.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        yield chunk
                yield b"\r\n"
            yield tail

    size = sum(len(head) + part.size + 2 for part in batch) + len(tail)
    headers = {
        "Accept": "application/dicom+json",
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
    }
    return client.send("POST", f"/studies/{batch[0].study}", headers, Body(), size)


def _named(answer: "Answer") -> tuple[dict[str, int], dict[str, int]]:
    """Of which instances the answer says something; of none, where all that says something is its status.

    Raises:
        DeliveryUnreachable: what is said is not about the objects.
    """
    try:
        return store_response.read(answer.content_type, answer.body)
    except store_response.NotUnderstood:
        if answer.status in _ANSWERED:
            reason = f"the answer ({answer.status}) is no Store Instances Response ({_media_type(answer)}): see url"
            raise DeliveryUnreachable(reason) from None
    if answer.status not in _OF_THE_OBJECT:
        raise _trouble(answer)
    return {}, {}


def _outcome(request: StoreRequest, answer: "Answer", stored: dict[str, int], failed: dict[str, int]) -> StoreOutcome:
    uid = request.sop_instance_uid
    if uid in stored:
        return StoreOutcome(key=request.key, status=stored[uid], error=None, retry=False)
    if uid in failed:
        code = failed[uid]
        meaning = STORAGE_SERVICE_CLASS_STATUS.get(code, ("Failure", ""))[1]
        reason = f"STOW-RS Failure Reason 0x{code:04X}" + (f" ({meaning})" if meaning else "")
        refused = code in CLASS_REFUSED
        error = DeliveryRefused(reason)
        return StoreOutcome(key=request.key, status=code, error=error, retry=not refused, class_refused=refused)
    if answer.status == UNSUPPORTED_MEDIA_TYPE:
        name = pydicom.uid.UID(request.sop_class_uid).name
        error = DeliveryRefused(f"the server does not accept {name} in its transfer syntax (status 415)")
        return StoreOutcome(key=request.key, status=None, error=error, retry=False, class_refused=True)
    if answer.status in _ANSWERED or stored or failed:
        return _failed(request, DeliveryRefused(f"the answer ({answer.status}) does not name the object"), retry=True)
    return _failed(request, DeliveryRefused(_said(answer)), retry=True)


def _trouble(answer: "Answer") -> DeliveryUnreachable:
    return DeliveryUnreachable(_said(answer), tried=answer.status == _INTERNAL_ERROR, wait=answer.wait)


def _said(answer: "Answer") -> str:
    advice = _ADVICE.get(answer.status, "")
    if answer.status // 100 == 3:  # noqa: PLR2004 - redirects; followed, they would lead patients' data elsewhere
        advice = "a redirect, which is not followed: put the right place into url"
    return f"status {answer.status}" + (f": {advice}" if advice else "")


def _media_type(answer: "Answer") -> str:
    known = answer.content_type if len(answer.content_type) < 40 and answer.content_type.isprintable() else ""  # noqa: PLR2004
    return known or "without a media type"


def _part(request: StoreRequest) -> _Part:
    header = pydicom.dcmread(request.path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
    return _Part(request=request, study=checked_uid(str(header.StudyInstanceUID)), size=request.path.stat().st_size)


def _batches(parts: Iterable[_Part]) -> list[list[_Part]]:
    """By study, in the order of their first objects; each within MOST_OBJECTS and MOST_BYTES, or of one object."""
    studies: dict[str, list[_Part]] = {}
    for part in parts:
        studies.setdefault(part.study, []).append(part)
    batches: list[list[_Part]] = []
    for of_study in studies.values():
        batches.append([])
        for part in of_study:
            last = batches[-1]
            if last and (len(last) == MOST_OBJECTS or sum(one.size for one in last) + part.size > MOST_BYTES):
                batches.append([])
            batches[-1].append(part)
    return batches


def _failed(request: StoreRequest, error: DeliveryError, *, retry: bool) -> StoreOutcome:
    return StoreOutcome(key=request.key, status=None, error=error, retry=retry)
