"""A requestor's own thread, which takes messages of the peer, stands still while a request waits for its answer.

pynetdicom's `send_*` stop that thread, the reactor, by clearing an event that it waits for, and go on when it says that
it waits. But it says so until it has its turn again: one that was let go on and has not had it yet is taken for one
that waits, and may then take the answer, for which nobody asked it. The request ends without one, after the whole
timeout.
Two objects one after the other on a busy machine are enough (pynetdicom 3.0).
"""

import threading

from pynetdicom.association import Association


class Checkpoint(threading.Event):
    """The event, in place of pynetdicom's: whoever clears it knows that the reactor goes on, or that it will not.

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

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, and say that the reactor goes on in one step with that; True."""
        while True:
            super().wait(timeout)
            with self._turn:
                if self.is_set():
                    self._association._is_paused = False  # noqa: SLF001 - what `send_*` wait for
                    return True
