"""When somebody is told: parts of the node in, messages out. Pure.

Something is told once it has lasted a little, again after `repeat` while it lasts and when it gets worse, and once more
when it has been over for a little. So a part that comes and goes by the minute fills nobody's mailbox.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from dicom_node.health.parts import Part, State
from dicom_node.storage.ledger import Noted

LASTS: Final = timedelta(seconds=90)
"""How long something must be wrong before it is told."""
CALM: Final = timedelta(minutes=5)
"""How long it must be right before it is over."""
SOONEST: Final = timedelta(minutes=10)
"""Between two messages about one thing that has got worse."""


class Kind(StrEnum):
    """Of a message."""

    FIRING = "firing"
    AGAIN = "again"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What somebody is told.

    Attributes:
        about: what is, or was, wrong.
        told_before: when somebody was told of it last, None before the first time.
    """

    kind: Kind
    about: Noted
    told_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from a look: what is wrong now, what to tell, and what is over without ever having been told."""

    wrong: tuple[Noted, ...]
    messages: tuple[Message, ...]
    forgotten: tuple[Noted, ...]


def decide(found: Sequence[Part], known: Sequence[Noted], now: datetime, repeat: timedelta) -> Decision:
    """What to tell.

    Args:
        found: the parts as they are.
        known: what was wrong before.
        now: the time.
        repeat: after which something that lasts is told again.
    """
    before = {one.name: one for one in known}
    wrong = tuple(_noted(one, before.get(one.name), now) for one in found if one.state is not State.GOOD)
    names = {one.name for one in wrong}
    over = [one for one in known if one.name not in names and now - one.seen_at >= CALM]
    messages = [*_to_tell(wrong, before, now, repeat)]
    messages += [Message(kind=Kind.OVER, about=one, told_before=one.told_at) for one in over if one.told_at is not None]
    return Decision(wrong=wrong, messages=tuple(messages), forgotten=tuple(one for one in over if one.told_at is None))


def _noted(part: Part, before: Noted | None, now: datetime) -> Noted:
    said = part.said if part.advice is None else f"{part.said}: {part.advice}"
    return Noted(
        name=part.name,
        level=part.state.value,
        said=said,
        began_at=now if before is None else before.began_at,
        seen_at=now,
        told_at=None if before is None else before.told_at,
    )


def _to_tell(wrong: Sequence[Noted], before: dict[str, Noted], now: datetime, repeat: timedelta) -> Iterator[Message]:
    for one in wrong:
        told = one.told_at
        if told is None:
            if now - one.began_at >= LASTS:
                yield Message(kind=Kind.FIRING, about=one, told_before=None)
            continue
        worse = one.level == State.BAD and before[one.name].level != State.BAD
        if now - told >= (SOONEST if worse else repeat):
            yield Message(kind=Kind.AGAIN, about=one, told_before=told)
