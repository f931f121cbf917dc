"""A floor under the speed of a peer while a message is on its way: values in, values out.

The deadline of a PDU alone would let a peer send an object one small PDU at a time, for ever. So a peer has `window`
seconds in hand when a message begins; time runs them down, every byte earns 1 / `floor` s, and never more than `window`
are in hand. Whoever has none left was slower than `floor` for longer than `window`. Between messages nothing runs: how
long an association may be idle is the network time-out's business.
"""


class Pace:
    """What one peer has in hand.

    Args:
        floor: bytes a second.
        window: seconds.
    """

    def __init__(self, floor: float, window: float) -> None:
        self._floor = floor
        self._window = window
        self._until: float | None = None

    def message(self, now: float, *, under_way: bool) -> None:
        """Say whether a message has begun and not ended."""
        if not under_way:
            self._until = None
        elif self._until is None:
            self._until = now + self._window

    def held_up(self, seconds: float) -> None:
        """Give back the time that the peer had to wait for us."""
        if self._until is not None:
            self._until += seconds

    def keeps_up(self, now: float, size: int) -> bool:
        """Count `size` bytes that have come, and say whether the peer is fast enough."""
        if self._until is None:
            return True
        self._until = min(now + self._window, self._until + size / self._floor)
        return now <= self._until
