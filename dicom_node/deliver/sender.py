"""The outbox, emptied: the Celery task "dicom_node.deliver" and the retry policy.

One message wakes a sender for one destination. The sender leases all that is due there, sends it over one
association and records every object's outcome as it comes, so that a sender killed in the middle repeats at
most the object under way; the destination sees the same SOP Instance UID again and keeps one.

    delivered (0x0000 or a warning)     sent
    refused, unreachable, no answer     again after 30 s, 60 s, 120 s ... (at most an hour), then dead
    SOP Class not taken                 downgraded: another object stands in (segmentation, else overlay, else
                                        secondary capture); dead when there is none
    file unreadable, no such            dead at once: waiting does not help; `rerun --failed` after the
    destination in the settings         destination is put right
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from celery import Celery

from dicom_node.clock import utc_now
from dicom_node.deliver import scu
from dicom_node.deliver.audited import Sending
from dicom_node.deliver.scu import StoreOutcome, StoreRequest
from dicom_node.errors import ConfigError, DeliveryError, DeliveryUnreachable, OutOfResources
from dicom_node.nouns import Delivery, DeliveryState, Destination
from dicom_node.queue import broker
from dicom_node.settings.sections import DeliverySettings, Settings
from dicom_node.status import Status
from dicom_node.storage.ledger import Ledger
from dicom_node.watch.audit import Audit

LEASE_SECONDS = 30.0
"""Of a batch, renewed while its sender lives: how long what a killed sender held has to wait."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how late.

    Attributes:
        first: wait after the first attempt.
        factor: each wait is this many times the one before.
        cap: longest wait.
        max_attempts: attempts after which a delivery is a dead letter.
    """

    first: timedelta = timedelta(seconds=30)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=1)
    max_attempts: int = 10

    @classmethod
    def of(cls, settings: DeliverySettings) -> "RetryPolicy":
        """The policy that the settings ask for."""
        first = timedelta(seconds=settings.retry_seconds)
        return cls(
            first=first,
            factor=settings.factor,
            cap=max(first, timedelta(hours=1)),
            max_attempts=settings.max_attempts,
        )


def next_attempt(attempts: int, now: datetime, policy: RetryPolicy) -> datetime | None:
    """When to try again after `attempts` failed attempts, or None: dead letter.

    Args:
        attempts: how many there were, at least 1.
        now: the time, aware.
        policy: how often and how late.
    """
    if attempts >= policy.max_attempts:
        return None
    wait, capped = policy.first.total_seconds(), policy.cap.total_seconds()
    for _ in range(attempts - 1):
        wait = min(wait * policy.factor, capped)
    return now + timedelta(seconds=min(wait, capped))


class Store(Protocol):
    """scu.store, or something that behaves like it."""

    def __call__(
        self,
        destination: Destination,
        requests: Sequence[StoreRequest],
        *,
        calling_ae_title: str,
        timeout: float,
    ) -> Iterator[StoreOutcome]:
        """Yield one outcome for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Delivers what the ledger says is due.

    Attributes:
        settings: destinations, timeout, retry policy, our AE title.
        ledger: where deliveries are leased and settled.
        clock: the time.
        store: the Storage SCU.
        audit: is told what was sent to whom.
    """

    settings: Settings
    ledger: Ledger
    clock: Callable[[], datetime] = utc_now
    store: Store = scu.store
    audit: Audit = field(default_factory=Audit.nowhere)

    def deliver(self, delivery_id: str) -> int:
        """Send everything that is due at the destination of one delivery.

        Returns:
            how many objects were attempted; 0 when there is nothing to do, which is no fault.
        """
        owner = f"sender-{os.getpid()}-{uuid.uuid4().hex}"
        batch = self.ledger.lease_deliveries(delivery_id, owner, self.clock(), LEASE_SECONDS)
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
                    self._send(batch, owner, destination)
        return len(batch)

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

    def _send(self, batch: Sequence[Delivery], owner: str, destination: Destination) -> None:
        waiting = {one.delivery_id: one for one in batch}
        told = Sending(self.audit, destination, batch)
        try:
            for outcome in self.store(
                destination,
                [_request(one) for one in batch],
                calling_ae_title=self.settings.node.ae_title,
                timeout=self.settings.delivery.timeout,
            ):
                sent = waiting[outcome.key]
                told.tell(sent, None if _repeated(sent, outcome) else outcome.error)
                self._settle(waiting.pop(outcome.key), owner, outcome)
        except DeliveryError as error:
            self._fail_rest(waiting.values(), owner, str(error))
        except Exception as error:
            # What is left must not hang until its lease runs out; the class says enough without the data.
            self._fail_rest(waiting.values(), owner, f"sending failed ({type(error).__name__})")
            raise
        finally:
            told.end(waiting.values())

    def _settle(self, delivery: Delivery, owner: str, outcome: StoreOutcome) -> None:
        now = self.clock()
        entry = log.bind(
            delivery=delivery.delivery_id, sop_instance_uid=delivery.sop_instance_uid, status=outcome.status
        )
        repeated = _repeated(delivery, outcome)
        if outcome.error is None or repeated:
            remark = "stored by an earlier attempt whose answer was lost (0x0111)" if repeated else None
            self.ledger.delivery_sent(delivery.delivery_id, now, outcome.status or 0, remark)
            entry.log(logging.WARNING if outcome.status else logging.INFO, "delivered")
            return
        reason = str(outcome.error)
        if outcome.class_refused:
            self._downgrade(delivery, owner, reason)
            return
        again = next_attempt(delivery.attempts, now, self._policy) if outcome.retry else None
        if again is None:
            self.ledger.delivery_dead(delivery.delivery_id, owner, reason, now)
            entry.error("dead letter", reason=reason, attempts=delivery.attempts)
            return
        self.ledger.delivery_retry(delivery.delivery_id, owner, again, reason)
        entry.warning("not delivered", reason=reason, attempts=delivery.attempts, again=again.isoformat())
        if isinstance(outcome.error, DeliveryUnreachable):
            self.ledger.postpone_destination(delivery.destination, again)

    def _downgrade(self, delivery: Delivery, owner: str, reason: str) -> None:
        entry = log.bind(delivery=delivery.delivery_id, sop_instance_uid=delivery.sop_instance_uid, kind=delivery.kind)
        settled = self.ledger.delivery_refused(delivery.delivery_id, owner, reason, self.clock())
        if settled is not None and settled.state is DeliveryState.DOWNGRADED:
            entry.warning("downgraded", reason=reason, stand_in=settled.stand_in)
        else:
            entry.error("dead letter", reason=reason, attempts=delivery.attempts)

    def _fail_rest(self, deliveries: Iterable[Delivery], owner: str, reason: str) -> None:
        for delivery in deliveries:
            outcome = StoreOutcome(key=delivery.delivery_id, status=None, error=DeliveryError(reason), retry=True)
            self._settle(delivery, owner, outcome)

    def _bury(self, deliveries: Sequence[Delivery], owner: str, reason: str) -> None:
        for delivery in deliveries:
            self.ledger.delivery_dead(delivery.delivery_id, owner, reason, self.clock())
        log.error("dead letters", reason=reason, count=len(deliveries))

    @property
    def _policy(self) -> RetryPolicy:
        return RetryPolicy.of(self.settings.delivery)


def register_deliver(app: Celery, sender: Sender) -> None:
    """Make `sender` answer the messages of "dicom_node.deliver"."""
    broker.register(app, broker.DELIVER, sender.deliver)


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
