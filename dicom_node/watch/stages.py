"""How long the stages of one piece of work took, told to whoever listens, without a parameter through every layer.

The caller listens (`listening`), a layer names what it does (`stage`). Where nobody listens nothing happens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from dicom_node.clock import utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, from its begin to its end; one that was broken off has both, too."""

    name: str
    began_at: datetime
    ended_at: datetime

    @property
    def seconds(self) -> float:
        """How long it took; never less than 0, however the clock was set."""
        return max(0.0, (self.ended_at - self.began_at).total_seconds())


_FOUND: ContextVar[list[Stage] | None] = ContextVar("stages", default=None)


@contextmanager
def listening() -> Iterator[list[Stage]]:
    """The stages of the block, in the order in which they end; the list fills while it runs."""
    found: list[Stage] = []
    token = _FOUND.set(found)
    try:
        yield found
    finally:
        _FOUND.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The block is a stage of that name; a name may come up several times."""
    found = _FOUND.get()
    if found is None:
        yield
        return
    began = utc_now()
    try:
        yield
    finally:
        found.append(Stage(name=name, began_at=began, ended_at=utc_now()))
