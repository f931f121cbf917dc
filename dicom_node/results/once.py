"""What is computed of an image once, though several objects for several destinations show it."""

import weakref
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, TypeVar

from numpy.typing import NDArray

Answer = TypeVar("Answer")


def once(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """`function` of an array and of what else is hashable; its answers are kept as long as the array lives.

    The array is known by its identity: nobody may change it, or an answer, after the first call. Those of a result's
    context are never changed.
    """
    known: dict[int, dict[tuple[Hashable, ...], Answer]] = {}

    @wraps(function)
    def of(array: NDArray[Any], *more: Hashable) -> Answer:
        if id(array) not in known:
            known[id(array)] = {}
            weakref.finalize(array, known.pop, id(array)).atexit = False
        answers = known[id(array)]
        if more not in answers:
            answers[more] = function(array, *more)
        return answers[more]

    return of
