"""Storage Commitment SCU (PS3.4 Annex J): destinations are asked to commit to what they were sent.

A loop beside the sender, driven by the ledger alone: whoever is killed, the next one goes on.

    sent, not asked about      one N-ACTION for all of it, under a new Transaction UID
    accepted                   the association stays open for `commitment_wait`; the report may come over it, or later
                               over one that the destination opens to the listener
    no report in time          asked again, under another Transaction UID
    refused, unreachable       asked again with growing pauses, `max_attempts` times, then dead
    Push Model not accepted    said once; stays sent, shown as not committed; asked again every hour
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from pynetdicom import build_context, evt
from pynetdicom.association import Association

from dicom_node.clock import utc_now
from dicom_node.deliver import scu
from dicom_node.deliver.reporting import Reporter
from dicom_node.deliver.sender import RetryPolicy, next_attempt
from dicom_node.dicom import commitment as push_model
from dicom_node.errors import ConfigError, DeliveryError, DeliveryRefused, DeliveryUnreachable, NodeError
from dicom_node.nouns import CommitmentRequest, Destination
from dicom_node.settings.sections import Settings
from dicom_node.status import CommitmentStatus
from dicom_node.storage.commitment import hear_report
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import Ledger
from dicom_node.watch.logs import place

POLL_SECONDS: Final = 1.0
STEPS: Final = 5
"""Each of which may take `delivery.timeout`, of a request: after that one whose sender was killed was never made."""
BATCH_SECONDS: Final = 60.0
"""How long a request waits for the rest of a batch that is being sent."""
NOT_TAKEN_AGAIN: Final = timedelta(hours=1)
KEPT: Final = timedelta(days=90)
"""Requests and reports that are done with."""
TIDY: Final = timedelta(hours=1)

log = structlog.get_logger(__name__)


class NotTaken(DeliveryRefused):
    """The destination does not accept the Push Model."""


def ask(
    destination: Destination,
    request: CommitmentRequest,
    *,
    calling_ae_title: str,
    timeout: float,
    wait: float,
    asked: Callable[[], None],
    heard: Callable[[push_model.Message], CommitmentStatus],
) -> None:
    """Make one request and wait a while for its report on the same association.

    Args:
        destination: who is asked.
        request: about what.
        calling_ae_title: our own AE title.
        timeout: seconds for each answer.
        wait: seconds for the report, after the request was accepted.
        asked: called when it was accepted.
        heard: takes a report and says with which status it is answered.

    Raises:
        NotTaken: the destination does not accept the Push Model.
        DeliveryRefused: it answered with a failure.
        DeliveryUnreachable: no association, or no answer.
    """
    answered = threading.Event()

    def hear(event: evt.Event) -> tuple[int, None]:
        return int(heard(push_model.Message.of_event_report(event))), None

    contexts = [build_context(push_model.PUSH_MODEL, list(push_model.SYNTAXES))]
    handlers = [(evt.EVT_N_EVENT_REPORT, hear)]
    with scu.associated(destination, contexts, calling_ae_title, timeout, handlers=handlers) as (association, _):
        if not association.is_established:
            if association.rejected_contexts:
                raise NotTaken("the destination does not take Storage Commitment (presentation context rejected)")
            raise DeliveryUnreachable(scu.why_not(association))
        association.dimse_timeout = timeout
        _tell_when_answered(association, answered)
        _request(association, request)
        asked()
        _listen(association, answered, wait)


def _tell_when_answered(association: Association, answered: threading.Event) -> None:
    """Know when the answer to a report is on its way: a release before it would leave the peer without."""
    serve = association._serve_request  # noqa: SLF001 - the place where a request and its answer are one step

    def serve_and_tell(*arguments: object) -> None:
        serve(*arguments)  # type: ignore[arg-type]
        answered.set()

    association._serve_request = serve_and_tell  # type: ignore[assignment,method-assign]  # noqa: SLF001


def _request(association: Association, request: CommitmentRequest) -> None:
    information = push_model.request_data_set(request)
    try:
        status, _ = association.send_n_action(
            information, push_model.REQUEST, push_model.PUSH_MODEL, push_model.WELL_KNOWN
        )
    except (RuntimeError, ValueError):  # the association ended between our look and the request
        raise DeliveryUnreachable("the association was ended") from None
    if "Status" not in status:
        raise DeliveryUnreachable("no answer to N-ACTION")
    if status.Status != CommitmentStatus.SUCCESS:
        raise DeliveryRefused(f"the destination refused the request (N-ACTION status 0x{status.Status:04X})")


def _listen(association: Association, answered: threading.Event, wait: float) -> None:
    deadline = time.monotonic() + wait
    while association.is_established and time.monotonic() < deadline and not answered.wait(0.05):
        pass


@dataclass(slots=True)
class Committer:
    """Asks for what is to be committed, closes what was not answered, and has owed reports sent.

    Args:
        settings: destinations, times, our AE title.
        ledger: what was sent, asked and promised.
        fetch: gives a local file of what a row names (`FileStore.fetch`).
        clock: the time.
    """

    settings: Settings
    ledger: Ledger
    fetch: Fetch = Path
    clock: Callable[[], datetime] = utc_now
    _busy: dict[str, threading.Thread] = field(default_factory=dict, init=False)
    _troubles: dict[str, str] = field(default_factory=dict, init=False)
    _tidied: datetime | None = field(default=None, init=False)

    def run(self, stop: threading.Event) -> None:
        """Look once a second until told to stop; no failure ends the loop."""
        while not stop.wait(POLL_SECONDS):
            self._safely("commitment", self.step)

    def step(self) -> None:
        """Look once; who is slow to talk to is talked to in a thread of its own, one for each."""
        self.close_overdue()
        self._tidy()
        for one in self.settings.destinations:
            name = one.name
            if one.commitment and not self._at_work(name) and (request := self._open(name)) is not None:
                self._in_a_thread(name, partial(self._ask, self._committing(name), request))
        for title in self.ledger.who_is_owed(self.clock()):
            reporter = Reporter(settings=self.settings, ledger=self.ledger, fetch=self.fetch, clock=self.clock)
            if not self._at_work(f"reports to {title}"):
                self._in_a_thread(f"reports to {title}", partial(reporter.report, title))

    def ask(self, name: str) -> bool:
        """Ask one destination about all that waits there.

        Returns:
            whether there was anything to ask about.
        """
        request = self._open(name)
        if request is not None:
            self._ask(self._committing(name), request)
        return request is not None

    def _committing(self, name: str) -> Destination:
        """A destination that is asked; the settings let `commitment` stand at those alone that speak DICOM."""
        found = self.settings.destination(name)
        if not isinstance(found, Destination):
            raise ConfigError(f"destinations: {name!r} is no DICOM destination: nobody is asked to commit")
        return found

    def _open(self, name: str) -> CommitmentRequest | None:
        limits = self.settings.delivery
        return self.ledger.open_commitment(
            name,
            self._committing(name).ae_title,
            self.clock(),
            STEPS * limits.timeout + limits.commitment_wait,
            patience=BATCH_SECONDS,
        )

    def _ask(self, destination: Destination, request: CommitmentRequest) -> None:
        name, limits = destination.name, self.settings.delivery
        entry = log.bind(destination=name, transaction=request.transaction_uid)
        due = timedelta(seconds=limits.commitment_timeout)
        try:
            ask(
                destination,
                request,
                calling_ae_title=self.settings.node.ae_title,
                timeout=limits.timeout,
                wait=limits.commitment_wait,
                asked=lambda: self.ledger.commitment_asked(request.transaction_uid, self.clock() + due),
                heard=lambda message: hear_report(self.ledger, limits, message, destination.ae_title, self.clock()),
            )
        except NotTaken as error:
            until = self.clock() + NOT_TAKEN_AGAIN
            self.ledger.close_commitment(
                request.transaction_uid, str(error), lambda _: until, self.clock(), counts=False
            )
            self._trouble(name, str(error))
        except DeliveryError as error:
            again, dead = self._close(request.transaction_uid, str(error))
            entry.warning("commitment not asked for", reason=str(error), again=again, dead=dead)
        else:
            self._troubles.pop(name, None)
            entry.info("commitment asked for", count=len(request.references))

    def close_overdue(self) -> None:
        """What was not answered in time is asked about again, or dead."""
        for transaction_uid, name in self.ledger.overdue_commitments(self.clock()):
            again, dead = self._close(transaction_uid, "the destination did not answer in time")
            log.warning("no commitment in time", destination=name, transaction=transaction_uid, again=again, dead=dead)

    def _close(self, transaction_uid: str, why: str) -> tuple[int, int]:
        now, policy = self.clock(), RetryPolicy.of(self.settings.delivery)
        return self.ledger.close_commitment(transaction_uid, why, lambda done: next_attempt(done, now, policy), now)

    def _tidy(self) -> None:
        """What nobody wants to be committed any more is not waited for; what is long done with is forgotten."""
        now = self.clock()
        if self._tidied is not None and now - self._tidied < TIDY:
            return
        waived = self.ledger.waive_commitments([one.name for one in self.settings.destinations if one.commitment])
        if waived:
            log.warning("commitment no longer wanted", count=waived)
        self.ledger.forget_commitments(now - KEPT)
        self.ledger.forget_reports(now - KEPT)
        self._tidied = now

    def _trouble(self, name: str, reason: str) -> None:
        """Say once what an administrator has to put right; the ledger shows it as long as it lasts."""
        if self._troubles.get(name) != reason:
            self._troubles[name] = reason
            log.error("not committed", destination=name, reason=reason)

    def _at_work(self, what: str) -> bool:
        running = self._busy.get(what)
        return running is not None and running.is_alive()

    def _in_a_thread(self, what: str, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=self._safely, args=(what, work), name=what, daemon=True)
        self._busy[what] = thread
        thread.start()

    def _safely(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except NodeError as error:
            log.warning("commitment trouble, will go on trying", part=what, reason=str(error))
        except Exception as error:  # noqa: BLE001 - the next look may succeed; the message may quote a data set
            log.error(  # noqa: TRY400
                "commitment trouble, will go on trying", part=what, error=type(error).__name__, place=place(error)
            )
