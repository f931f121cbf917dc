"""Ask several things at once, each for a limited time: one that hangs is said to hang, and holds up nobody."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dicom_node.errors import NodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """No answer, and why: of an error of ours its words, of any other its name."""

    said: str


@dataclass(slots=True)
class _Asked:
    thread: threading.Thread
    answer: list[Any] = field(default_factory=list)


class Questions:
    """Things to ask, and what they said last.

    Args:
        asks: what to call, by its name.
        limit: seconds for each answer.
        keep: seconds for which an answer is good enough for the next who asks.
    """

    def __init__(self, asks: Mapping[str, Callable[[], Any]], *, limit: float = 2.0, keep: float = 1.0) -> None:
        self._asks = asks
        self._limit = limit
        self._keep = keep
        self._lock = threading.Lock()
        self._open: dict[str, _Asked] = {}
        self._said: dict[str, Any] = {}
        self._at = -keep - 1.0

    def ask(self) -> dict[str, Any]:
        """What each of them says: its answer, or a Trouble. Takes `limit` seconds at most, or a little more."""
        with self._lock:
            if time.monotonic() - self._at > self._keep:
                self._said = self._answers()
                self._at = time.monotonic()
            return self._said

    def _answers(self) -> dict[str, Any]:
        silent = Trouble(said=f"no answer within {self._limit:g} s")
        late = {name: asked for name, asked in self._open.items() if asked.thread.is_alive()}
        self._open = {name: late.get(name) or _asked(name, ask) for name, ask in self._asks.items()}
        deadline, said = time.monotonic() + self._limit, dict[str, Any]()
        for name, asked in self._open.items():
            if name not in late:  # one that still hangs was asked long ago: whatever it says now is old
                asked.thread.join(max(0.0, deadline - time.monotonic()))
            said[name] = asked.answer[0] if asked.answer and name not in late else silent
        return said


def _asked(name: str, ask: Callable[[], Any]) -> _Asked:
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(ask())
        except (NodeError, OSError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            answer.append(Trouble(said=words or type(error).__name__))
        except Exception as error:  # noqa: BLE001 - its words may be anything
            answer.append(Trouble(said=type(error).__name__))

    asked = _Asked(threading.Thread(target=run, name=f"ask-{name}", daemon=True), answer)
    asked.thread.start()
    return asked
