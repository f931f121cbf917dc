"""The outbox, emptied: the Celery task "dicom_node.deliver" and the retry policy.

One message wakes a sender for one destination. The sender leases all that is due there, sends it, by C-STORE or by
STOW-RS, and records every object's outcome as it comes, so that a sender killed in the middle repeats at most what is
under way; the destination sees the same SOP Instance UID again and keeps one.

    delivered (0x0000 or a warning)     sent; where the destination is to commit to it, `commitment` asks
    refused                             again after 30 s, 60 s, 120 s ... (at most an hour), then dead
    SOP Class not taken                 downgraded: another object stands in (segmentation, else overlay, else
                                        secondary capture); dead when there is none
    file unreadable or damaged, no      dead at once: waiting does not help; `rerun --failed` after the
    such destination in the settings    destination is put right
    object store away                   waits until it is submitted again; no attempt of the object is counted
    destination not reached             waits for the destination; no attempt of the object is counted
    broken off while it was sent,       as refused, for the object may be the cause; but while the destination is
    out of resources (0xA7xx)           paused it is the destination that is in trouble, and no attempt is counted

A destination that gave a batch no other answer is left in peace, for 30 s, 60 s, 120 s ... (at most `probe_seconds`).
After `pause_after` such batches in a row it is paused: one object is tried at a time, the one that was tried the least,
until there is an answer. So a destination may be away for a weekend without a single dead letter.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from celery import Celery

from dicom_node.clock import utc_now
from dicom_node.deliver import observed, scu
from dicom_node.deliver.audited import Sending
from dicom_node.deliver.scu import StoreOutcome, StoreRequest
from dicom_node.deliver.stow import Stow
from dicom_node.errors import ConfigError, DatasetUnreadable, DeliveryError, DeliveryUnreachable, OutOfResources
from dicom_node.nouns import Delivery, DeliveryState, Destination, WebDestination
from dicom_node.queue import broker
from dicom_node.settings.sections import DeliverySettings, Settings
from dicom_node.status import Status
from dicom_node.storage.file_store import Fetch
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.deliveries import LEASE_SECONDS
from dicom_node.watch.audit import Audit

LONGEST_WANTED = timedelta(hours=1)
"""Of what a destination asks for by Retry-After."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how late.

    Attributes:
        first: wait after the first attempt.
        factor: each wait is this many times the one before.
        cap: longest wait.
        max_attempts: attempts after which a delivery is a dead letter.
        pause_after: batches in a row without an answer after which a destination is paused; also objects in a row
            after which a batch is given up.
        probe_cap: longest wait for a destination that does not answer.
    """

    first: timedelta = timedelta(seconds=30)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=1)
    max_attempts: int = 10
    pause_after: int = 3
    probe_cap: timedelta = timedelta(minutes=5)

    @classmethod
    def of(cls, settings: DeliverySettings) -> "RetryPolicy":
        """The policy that the settings ask for."""
        first = timedelta(seconds=settings.retry_seconds)
        return cls(
            first=first,
            factor=settings.factor,
            cap=max(first, timedelta(hours=1)),
            max_attempts=settings.max_attempts,
            pause_after=settings.pause_after,
            probe_cap=max(first, timedelta(seconds=settings.probe_seconds)),
        )


def next_attempt(attempts: int, now: datetime, policy: RetryPolicy) -> datetime | None:
    """When to try again after `attempts` failed attempts, or None: dead letter.

    Args:
        attempts: how many there were, at least 1.
        now: the time, aware.
        policy: how often and how late.
    """
    return None if attempts >= policy.max_attempts else now + _wait(attempts, policy, policy.cap)


def next_probe(missed: int, now: datetime, policy: RetryPolicy, wanted: float = 0.0) -> datetime:
    """When to try a destination again that has not answered `missed` times in a row.

    Args:
        missed: at least 1.
        now: the time, aware.
        policy: how late.
        wanted: seconds for which the destination itself asks; an hour at most.
    """
    return now + max(_wait(missed, policy, policy.probe_cap), min(timedelta(seconds=wanted), LONGEST_WANTED))


def _wait(times: int, policy: RetryPolicy, cap: timedelta) -> timedelta:
    wait, capped = policy.first.total_seconds(), cap.total_seconds()
    for _ in range(times - 1):
        wait = min(wait * policy.factor, capped)
    return timedelta(seconds=min(wait, capped))


Kind_contra = TypeVar("Kind_contra", contravariant=True)


class Store(Protocol[Kind_contra]):
    """scu.store, or something that behaves like it."""

    def __call__(
        self,
        destination: Kind_contra,
        requests: Sequence[StoreRequest],
        *,
        calling_ae_title: str,
        timeout: float,
    ) -> Generator[StoreOutcome]:
        """Yield one outcome for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Delivers what the ledger says is due.

    Attributes:
        settings: destinations, timeout, retry policy, our AE title.
        ledger: where deliveries are leased and settled.
        fetch: gives a local file of what a row names (`FileStore.fetch`).
        clock: the time.
        store: the Storage SCU.
        stow: the user agent of STOW-RS.
        audit: is told what was sent to whom.
    """

    settings: Settings
    ledger: Ledger
    fetch: Fetch = Path
    clock: Callable[[], datetime] = utc_now
    store: Store[Destination] = scu.store
    stow: Store[WebDestination] = field(default_factory=Stow)
    audit: Audit = field(default_factory=Audit.nowhere)

    def deliver(self, delivery_id: str) -> int:
        """Send everything that is due at the destination of one delivery.

        Returns:
            how many objects were attempted; 0 when there is nothing to do, which is no fault.
        """
        owner = f"sender-{os.getpid()}-{uuid.uuid4().hex}"
        batch = self.ledger.lease_deliveries(
            delivery_id, owner, self.clock(), LEASE_SECONDS, pause_after=self._policy.pause_after
        )
        if not batch:
            return 0
        name = batch[0].destination
        with structlog.contextvars.bound_contextvars(destination=name):
            try:
                destination = self.settings.destination(name)
            except ConfigError:
                self._bury(batch, owner, "the destination is not in the settings")
            else:
                with self._held(owner):
                    if here := [*self._brought(batch, owner)]:
                        self._send(here, owner, destination)
        return len(batch)

    def _brought(self, batch: Sequence[Delivery], owner: str) -> Iterator[Delivery]:
        """Those whose files are on this host; one that is damaged is dead, what cannot be had now waits."""
        away: OutOfResources | None = None
        for one in batch:
            if away is None:
                try:
                    yield replace(one, path=self.fetch(one.path))
                    continue
                except DatasetUnreadable as error:
                    refused = DeliveryError(str(error))
                    self._settle(one, owner, StoreOutcome(key=one.delivery_id, status=None, error=refused, retry=False))
                    continue
                except OutOfResources as error:
                    log.warning("not sent yet", reason=str(error))
                    away = error
            self.ledger.delivery_untried(one.delivery_id, owner, str(away))

    @contextmanager
    def _held(self, owner: str) -> Iterator[None]:
        """Renew the lease of what this owner still holds, as long as its process lives."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(LEASE_SECONDS / 3):
                try:
                    self.ledger.renew_deliveries(owner, self.clock(), LEASE_SECONDS)
                except OutOfResources as error:
                    log.warning("lease not renewed", reason=str(error))
                except Exception as error:  # noqa: BLE001 - the next renewal may succeed
                    log.error("lease not renewed", error=type(error).__name__)  # noqa: TRY400

        renewer = threading.Thread(target=renew, name="lease", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            over.set()
            renewer.join()

    def _send(self, batch: Sequence[Delivery], owner: str, destination: Destination | WebDestination) -> None:
        waiting = {one.delivery_id: one for one in batch}
        missed = next((one.attempts for one in self.ledger.unreachable() if one.destination == destination.name), 0)
        answered, silent, trouble = False, 0, None
        unanswered: list[tuple[Delivery, StoreOutcome]] = []
        told = Sending(self.audit, destination, map(_request, batch))
        passage = observed.Passage(destination.name, self.clock)
        try:
            with closing(self._store(batch, destination)) as outcomes:
                for outcome in outcomes:
                    sent = waiting[outcome.key]
                    told.tell(sent.delivery_id, None if _repeated(sent, outcome) else outcome.error)
                    passage.tell(sent)
                    if not _of_the_destination(outcome):
                        answered, silent = True, 0
                        self._settle(waiting.pop(outcome.key), owner, outcome)
                        continue
                    silent, trouble = silent + 1, outcome.error
                    unanswered.append((sent, outcome))
                    if silent >= self._policy.pause_after:
                        break  # what is left would wait as long for nothing
            shut = silent > 0 and isinstance(trouble, DeliveryUnreachable) and not trouble.tried
            self._look_back(destination.name, missed, trouble if shut or not answered else None, answered=answered)
            # Only now, for what is let go is due at once where its destination is not left in peace.
            for delivery, outcome in unanswered:
                del waiting[delivery.delivery_id]
                self._settle_silence(delivery, owner, outcome, paused=missed >= self._policy.pause_after)
            for delivery in waiting.values():
                self.ledger.delivery_untried(delivery.delivery_id, owner, str(trouble))
        except DeliveryError as error:
            self._fail_rest(waiting.values(), owner, str(error))
        except Exception as error:
            # What is left must not hang until its lease runs out; the class says enough without the data.
            self._fail_rest(waiting.values(), owner, f"sending failed ({type(error).__name__})")
            raise
        finally:
            told.end()
            passage.end()

    def _store(self, batch: Sequence[Delivery], destination: Destination | WebDestination) -> Generator[StoreOutcome]:
        requests = [_request(one) for one in batch]
        ours, timeout = self.settings.node.ae_title, self.settings.delivery.timeout
        if isinstance(destination, WebDestination):
            return self.stow(destination, requests, calling_ae_title=ours, timeout=timeout)
        return self.store(destination, requests, calling_ae_title=ours, timeout=timeout)

    def _look_back(self, destination: str, missed: int, trouble: DeliveryError | None, *, answered: bool) -> None:
        """After a batch: the destination answers, or is left in peace."""
        if answered and self.ledger.destination_reached(destination):
            log.info("destination answers again", attempts=missed)
            missed = 0
        if trouble is None:
            return
        now, missed = self.clock(), missed + 1
        until = next_probe(missed, now, self._policy, getattr(trouble, "wait", 0.0))
        self.ledger.destination_unreachable(destination, now, until, str(trouble))
        entry = log.bind(reason=str(trouble), attempts=missed, again=until.isoformat())
        if missed == self._policy.pause_after:
            entry.error("destination paused")
        else:
            entry.warning("destination does not answer")

    def _settle_silence(self, delivery: Delivery, owner: str, outcome: StoreOutcome, *, paused: bool) -> None:
        """No answer about the object: it counts as an attempt only where the object may be the cause."""
        if paused or (isinstance(outcome.error, DeliveryUnreachable) and not outcome.error.tried):
            self.ledger.delivery_untried(delivery.delivery_id, owner, str(outcome.error))
            observed.count(delivery, "unreachable")
        else:
            self._settle(delivery, owner, outcome)

    def _settle(self, delivery: Delivery, owner: str, outcome: StoreOutcome) -> None:
        now = self.clock()
        entry = observed.entry(delivery, status=outcome.status)
        repeated = _repeated(delivery, outcome)
        if outcome.error is None or repeated:
            remark = "stored by an earlier attempt whose answer was lost (0x0111)" if repeated else None
            there = self.settings.destination(delivery.destination)
            wanted = isinstance(there, Destination) and there.commitment
            self.ledger.delivery_sent(delivery.delivery_id, now, outcome.status or 0, remark, commitment=wanted)
            entry.log(logging.WARNING if outcome.status else logging.INFO, "delivered")
            observed.count(delivery, "warning" if outcome.status else "sent")
            return
        reason = str(outcome.error)
        if outcome.class_refused:
            self._downgrade(delivery, owner, reason)
            return
        again = next_attempt(delivery.attempts, now, self._policy) if outcome.retry else None
        if again is None:
            self.ledger.delivery_dead(delivery.delivery_id, owner, reason, now)
            entry.error("dead letter", reason=reason, attempts=delivery.attempts)
            observed.count(delivery, "dead")
            return
        self.ledger.delivery_retry(delivery.delivery_id, owner, again, reason)
        entry.warning("not delivered", reason=reason, attempts=delivery.attempts, again=again.isoformat())
        observed.count(delivery, "retry")

    def _downgrade(self, delivery: Delivery, owner: str, reason: str) -> None:
        entry = observed.entry(delivery, kind=delivery.kind)
        settled = self.ledger.delivery_refused(delivery.delivery_id, owner, reason, self.clock())
        if settled is not None and settled.state is DeliveryState.DOWNGRADED:
            entry.warning("downgraded", reason=reason, stand_in=settled.stand_in)
            observed.count(delivery, "downgraded")
        else:
            entry.error("dead letter", reason=reason, attempts=delivery.attempts)
            observed.count(delivery, "dead")

    def _fail_rest(self, deliveries: Iterable[Delivery], owner: str, reason: str) -> None:
        for delivery in deliveries:
            outcome = StoreOutcome(key=delivery.delivery_id, status=None, error=DeliveryError(reason), retry=True)
            self._settle(delivery, owner, outcome)

    def _bury(self, deliveries: Sequence[Delivery], owner: str, reason: str) -> None:
        for delivery in deliveries:
            self.ledger.delivery_dead(delivery.delivery_id, owner, reason, self.clock())
            observed.entry(delivery).error("dead letter", reason=reason, attempts=delivery.attempts)
            observed.count(delivery, "dead")
        self.ledger.destination_reached(deliveries[0].destination)  # there is nothing that could answer again

    @property
    def _policy(self) -> RetryPolicy:
        return RetryPolicy.of(self.settings.delivery)


def register_deliver(app: Celery, sender: Sender) -> None:
    """Make `sender` answer the messages of "dicom_node.deliver"."""
    observed.know(one.name for one in sender.settings.destinations)
    broker.register(app, broker.DELIVER, sender.deliver)


def _of_the_destination(outcome: StoreOutcome) -> bool:
    """Whether an outcome says less of the object than of its destination: no answer, or out of resources."""
    return isinstance(outcome.error, DeliveryUnreachable) or (outcome.status or 0) & 0xFF00 == Status.OUT_OF_RESOURCES


def _repeated(delivery: Delivery, outcome: StoreOutcome) -> bool:
    """Whether an earlier attempt, whose answer was lost, stored it: UIDs are ours and follow from the content."""
    return outcome.status == Status.DUPLICATE_SOP_INSTANCE and delivery.attempts > 1


def _request(delivery: Delivery) -> StoreRequest:
    return StoreRequest(
        key=delivery.delivery_id,
        sop_instance_uid=delivery.sop_instance_uid,
        sop_class_uid=delivery.sop_class_uid,
        path=delivery.path,
    )
