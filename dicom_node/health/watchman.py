"""The loop that looks at the node and tells people, and once a day looks for drift.

What was told is a row of the ledger, so that neither a restart nor a second host tells it again. Of the ledger itself,
which may be what is wrong, the process remembers it; while it is away nothing else is told, for nobody knows what was.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from dicom_node.clock import utc_now
from dicom_node.errors import NodeError, OutOfResources
from dicom_node.health import telling
from dicom_node.health.alerts import Decision, Kind, Message, decide
from dicom_node.health.asking import Trouble
from dicom_node.health.figures import Observer
from dicom_node.health.heartbeat import host
from dicom_node.health.parts import Part, parts
from dicom_node.models import look
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger, Noted
from dicom_node.watch.logs import place

EVERY_SECONDS: Final = 60.0
AGAIN_SECONDS: Final = 30.0
DRIFT_EVERY: Final = timedelta(days=1)
LEDGER: Final = "ledger"

log = structlog.get_logger(__name__)


class Watchman:
    """Looks, and tells.

    Args:
        settings: of the node; [alerts] says who is told.
        ledger: of the node.
        clock: the time.
    """

    def __init__(self, settings: Settings, ledger: Ledger, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._observer = Observer(settings, ledger, limit=10.0, keep=0.0)
        self._own: list[Noted] = []

    def run(self, stop: threading.Event, every: float = EVERY_SECONDS) -> None:
        """Look until `stop`; no failure ends the loop."""
        while not stop.wait(every):
            for part in (self.step, self.look_for_drift):
                try:
                    part()
                except NodeError as error:
                    log.warning("watchman's trouble, will go on trying", reason=str(error))
                except Exception as error:  # noqa: BLE001 - the next look may succeed
                    log.error(  # noqa: TRY400 - the text may be anything
                        "watchman's trouble, will go on trying", error=type(error).__name__, place=place(error)
                    )

    def step(self) -> None:
        """Look once, and tell what is to be told."""
        figures = self._observer.look()
        found, now = parts(figures, self._settings), self._clock()
        self._own_step([one for one in found if one.name == LEDGER], now)
        if not isinstance(figures.ledger, Trouble):
            self._shared_step([one for one in found if one.name != LEDGER], now)

    def look_for_drift(self) -> None:
        """Once a day, of several processes that want to one; a node without SciPy or without the bundle does not."""
        if self._ledger.claim_look(look.DRIFT, now := self._clock(), DRIFT_EVERY):
            look.keep(self._settings, self._ledger, now)

    def _decided(self, found: Sequence[Part], known: Sequence[Noted], now: datetime) -> Decision:
        return decide(found, known, now, timedelta(hours=self._settings.alerts.repeat_hours))

    def _own_step(self, found: Sequence[Part], now: datetime) -> None:
        decision = self._decided(found, self._own, now)
        told = self._tell(decision.messages, now)
        over = {one.about.name for one in decision.messages if one.kind is Kind.OVER and told}
        firing = {one.about.name for one in decision.messages if one.kind is not Kind.OVER and told}
        wrong = {one.name: one for one in decision.wrong}
        kept = [one for one in self._own if one.name not in wrong and one not in decision.forgotten]
        self._own = [one for one in (*kept, *wrong.values()) if one.name not in over]
        self._own = [_told(one, now) if one.name in firing else one for one in self._own]

    def _shared_step(self, found: Sequence[Part], now: datetime) -> None:
        decision = self._decided(found, self._ledger.noted(), now)
        self._ledger.note(decision.wrong)
        for one in decision.forgotten:
            self._ledger.end_alert(one.name, one.seen_at)
        mine = [one for one in decision.messages if self._claimed(one, now)]
        if not self._tell(mine, now):
            self._give_back(mine, now)

    def _claimed(self, message: Message, now: datetime) -> bool:
        name = message.about.name
        if message.kind is Kind.OVER:
            return self._ledger.end_alert(name, message.about.seen_at)
        return self._ledger.claim_alert(name, now, message.told_before)

    def _give_back(self, messages: Sequence[Message], now: datetime) -> None:
        for one in messages:
            if one.kind is Kind.OVER:
                self._ledger.restore_alert(one.about)
            else:
                self._ledger.unclaim_alert(one.about.name, now, one.told_before)

    def _tell(self, messages: Sequence[Message], now: datetime) -> bool:
        """Tell, in the log too; False where nobody could be told."""
        if not messages:
            return True
        try:
            failures = telling.tell(self._settings.alerts, self._settings.node.ae_title, host(), messages, now)
        except telling.Untold as error:
            log.error("alert could not be told, will try again", reason=str(error))  # noqa: TRY400
            return False
        for failure in failures:
            log.error("alert told by one way and not by another", reason=failure)
        for one in messages:
            entry = log.info if one.kind is Kind.OVER else log.warning
            entry("alert", name=one.about.name, state=one.kind.value, level=one.about.level, said=one.about.said)
        return True


def beside(settings: Settings, stop: threading.Event, work: Callable[[], None]) -> None:
    """Watch in a thread while `work` runs, which is begun again as long as the ledger does not answer.

    The watchman lives in the role `retention`. Of all roles it needs the least to live: no port, no Redis, no peer, no
    GPU. In a thread of his own he goes on while a removal is stuck, and while the ledger is away.
    """
    watchman = Watchman(settings, Ledger(settings.node.database))
    threading.Thread(target=watchman.run, args=(stop,), name="watchman", daemon=True).start()
    while not stop.is_set():
        try:
            work()
        except OutOfResources as error:
            log.error("retention waits, will try again", reason=str(error))  # noqa: TRY400 - the text says it all
            stop.wait(AGAIN_SECONDS)


def _told(one: Noted, now: datetime) -> Noted:
    return Noted(name=one.name, level=one.level, said=one.said, began_at=one.began_at, seen_at=one.seen_at, told_at=now)
