"""What is taken away from a node, and when: the same for the same seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILL = ("listener", "worker", "sender", "dispatcher")
"""Roles of which one process is killed (SIGKILL)."""

FAULTS = (
    *(f"kill {role}" for role in KILL),
    "restart redis",
    "flush redis",
    "destination away",
    "fill the quiet time",
    "restart database",
)
"""`fill the quiet time`: a study whose images come when it is about to be taken as complete."""

AWAY = {"restart redis": (0, 8), "destination away": (3, 25), "restart database": (0, 5)}
"""Seconds, least and most, that a thing is away; a killed process comes back as its supervisor starts it."""
KILLED = (0.5, 4)

FIRST, LAST = 4.0, 5.0
"""Seconds without a fault at the beginning of a run and at the end of its load."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at: seconds from the start of the load.
        kind: one of FAULTS.
        which: chooses among several processes of a role.
        seconds: how long it is away.
    """

    at: float
    kind: str
    which: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.kind} ({self.which % 100}), {self.seconds:.1f} s"


def schedule(seed: int, seconds: float, every: float, kinds: Sequence[str] = FAULTS) -> list[Fault]:
    """Faults in order of time; each kind comes before any kind comes again.

    Args:
        seed: of the random choices.
        seconds: length of the load.
        every: mean distance of two faults, in seconds.
        kinds: of faults that there may be.
    """
    chance = random.Random(seed)  # noqa: S311
    made: list[Fault] = []
    bag: list[str] = []
    at = FIRST
    while at < seconds - LAST and kinds:
        if not bag:
            bag = list(kinds)
            chance.shuffle(bag)
        kind = bag.pop()
        made.append(Fault(at, kind, chance.randrange(1 << 16), chance.uniform(*AWAY.get(kind, KILLED))))
        at += every * chance.uniform(0.5, 1.5)
    return made
