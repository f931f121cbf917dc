"""How far a long computation is, told to whoever listens, without a parameter through every layer.

The caller listens (`listening`), a layer that does several things says which one it is at (`step`), and what takes long
says how far it is (`tell`). Where nobody listens nothing happens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[float], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(part: float) -> None:
    """Say which part of the work is done, 0 to 1."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(part)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` told what is told in the block."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def step(index: int, count: int) -> Iterator[None]:
    """The block is number `index`, from 0, of `count` equal steps: what it tells is a part of that step."""
    outer = _LISTENER.get()
    if outer is None:
        yield
        return
    with listening(lambda part: outer((index + part) / count)):
        yield
        tell(1.0)
