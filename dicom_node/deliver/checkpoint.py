"""A requestor's own thread, which takes messages of the peer, stands still while a request waits for its answer.

pynetdicom's `send_*` stop that thread, the reactor, by clearing an event that it waits for, and go on when it says that
it waits. But it says so until it has its turn again: one that was let go on and has not had it yet is taken for one
that waits, and may then take the answer, for which nobody asked it. The request ends without one, after the whole
timeout. Two objects one after the other on a busy machine are enough (pynetdicom 3.0).
"""

import threading

from pynetdicom.association import Association

_LOOK = 0.05
"""Seconds after which a reactor that waits says so again."""


class Checkpoint(threading.Event):
    """The event, in place of pynetdicom's: whoever clears it knows that the reactor goes on, or that it will not.

    Not for an association that answers a network time-out with A-RELEASE: there the reactor asks itself
    whether it waits.

    Args:
        association: whose reactor waits for it; not started yet.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._turn = threading.Lock()
        self.set()

    def clear(self) -> None:
        """Let the reactor go no further than to its next wait."""
        with self._turn:
            super().clear()

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - the event's; nobody gives it
        """Wait until it is set, however long, and say in one step with that whether the reactor goes on; True.

        It says so again and again: a report of the peer's (N-EVENT-REPORT) is served by a thread of its own, which at
        its end, whenever that is, says that nothing waits.
        """
        while True:
            super().wait(_LOOK)
            with self._turn:
                going_on = self.is_set()
                self._association._is_paused = not going_on  # noqa: SLF001 - what `send_*` wait for
            if going_on:
                return True
