"""Every role says every few seconds, in the ledger, that it lives: so that a process on another host is seen, too."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from dicom_node.clock import utc_now
from dicom_node.errors import ConfigError, NodeError
from dicom_node.storage.ledger import Ledger

if TYPE_CHECKING:
    from explain_core.explanation import Explainer

EVERY_SECONDS: Final = 10.0
ALIVE: Final = timedelta(seconds=35)
"""A process that was not heard of for so long is silent: three heartbeats, and a ledger that was busy."""
GRACE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)
_detail: dict[str, str] = {}
_news = threading.Event()


def host() -> str:
    """The name of this machine, or of this container."""
    return socket.gethostname()[:64]


def tell(**detail: str) -> None:
    """What this process says of itself from now on: device and model of a worker."""
    if not detail.items() <= _detail.items():
        _detail.update(detail)
        _news.set()


def describing(current: "Callable[[], Explainer]") -> "Callable[[], Explainer]":
    """The same, and this process says from then on which model it runs, and on which device.

    "cpu" is how a GPU is missed that should be there.
    """

    def described() -> "Explainer":
        explainer = current()
        identity = explainer.identity
        model = f"{identity.name} {identity.version} {identity.digest[:12]}"
        tell(model=model, device=str(getattr(explainer, "device", "cpu")))
        return explainer

    return described


@contextmanager
def beating(ledger: Ledger, role: str, *, every: float = EVERY_SECONDS) -> Iterator[None]:
    """While the block runs, this process is seen to live; one that ends in order is not waited for.

    Args:
        ledger: where that is written; one that does not answer is told once, and tried again.
        role: of this process.
        every: seconds.
    """
    over = threading.Event()
    me = (role, host(), os.getpid())

    def beat() -> None:
        troubled = made = False
        while True:
            try:
                if not made:
                    ledger.create()  # this process may be the first that asks for it
                    made = True
                ledger.beat(*me, utc_now(), _detail)
                troubled = False
            except ConfigError:
                return  # the role itself says so, and ends
            except Exception as error:  # noqa: BLE001 - the next one may succeed; the role goes on in any case
                if not troubled:
                    reason = str(error) if isinstance(error, NodeError) else type(error).__name__
                    log.warning("no heartbeat, will go on trying", reason=reason)
                troubled = True
            _news.wait(every)
            _news.clear()
            if over.is_set():
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        _news.set()
        thread.join(GRACE_SECONDS)
        with suppress(Exception):  # then it is silent, which is told
            ledger.end_beat(*me)
        ledger.close()
