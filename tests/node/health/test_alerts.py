"""When somebody is told, by values in and values out; one world in which every case comes up."""

import dataclasses
from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from working import T0

from dicom_node.health.alerts import CALM, LASTS, Kind, decide
from dicom_node.health.parts import Part, State

REPEAT = timedelta(hours=24)
MINUTE = timedelta(minutes=1)
FULL = Part(name="disk", state=State.BAD, said="full", advice="make room")
LOW = Part(name="disk", state=State.WARNING, said="low", advice="make room")
FINE = Part(name="disk", state=State.GOOD, said="9 GB")


class World:
    """A clock, and what the ledger would keep."""

    def __init__(self):
        self.now, self.known, self.told = T0, {}, []

    def look(self, *found):
        decision = decide(found, list(self.known.values()), self.now, REPEAT)
        self.known |= {one.name: one for one in decision.wrong}
        for one in decision.forgotten:
            del self.known[one.name]
        for one in decision.messages:
            self.told.append((one.kind.value, one.about.level, self.now - T0))
            if one.kind is Kind.OVER:
                del self.known[one.about.name]
            else:
                self.known[one.about.name] = dataclasses.replace(self.known[one.about.name], told_at=self.now)
        self.now += MINUTE

    def kinds(self):
        return [kind for kind, _, _ in self.told]


def test_it_is_told_once_it_has_lasted_once_a_day_while_it_lasts_and_once_when_it_is_over():
    world = World()
    for _ in range(60 * 24 + 5):
        world.look(FULL)
    for _ in range(10):
        world.look(FINE)
    assert world.told == [
        ("firing", "bad", 2 * MINUTE),
        ("again", "bad", 2 * MINUTE + REPEAT),
        ("over", "bad", timedelta(minutes=60 * 24 + 4) + CALM),
    ]
    assert world.known == {}


def test_what_comes_and_goes_by_the_minute_is_told_once():
    world = World()
    for _ in range(120):
        world.look(FULL)
        world.look(FINE)
    assert world.kinds() == ["firing"]


def test_what_was_never_told_is_over_without_a_word():
    world = World()
    world.look(FULL)
    for _ in range(10):
        world.look(FINE)
    assert world.told == []
    assert world.known == {}


def test_what_gets_worse_is_told_again_but_not_by_the_minute():
    world = World()
    for _ in range(20):
        world.look(LOW)
    for _ in range(40):
        world.look(FULL)
        world.look(LOW)
    assert [(kind, level) for kind, level, _ in world.told] == [("firing", "warning")] + [("again", "bad")] * 8
    times = [when for _, _, when in world.told]
    assert all(later - sooner >= 10 * MINUTE for sooner, later in pairwise(times))


def test_several_things_are_told_apart():
    world = World()
    for _ in range(5):
        world.look(FULL, dataclasses.replace(LOW, name="queue"))
    assert sorted(world.told) == [("firing", "bad", 2 * MINUTE), ("firing", "warning", 2 * MINUTE)]


@given(st.lists(st.sampled_from([FULL, LOW, FINE]), max_size=80))
def test_whatever_happens_firing_and_over_take_turns(story):
    world = World()
    for part in [*story, *[FINE] * 10]:
        world.look(part)
    turns = [kind for kind in world.kinds() if kind != "again"]
    assert turns == ["firing", "over"] * (len(turns) // 2)
    assert world.known == {}
    assert all(when >= LASTS for _, _, when in world.told)
