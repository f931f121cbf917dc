"""When is a study complete: the table, and the laws that hold for every order of events."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.nouns import StudyActivity, StudyInstanceUID
from dicom_node.route.assembly import Completion, Ready, Waiting, ready

QUIET, OPEN, CAP = timedelta(seconds=10), timedelta(seconds=40), timedelta(seconds=100)
START = strategies.EPOCH


def after(seconds):
    return START + timedelta(seconds=seconds)


def activity(*, last=0, open_associations=0):
    return StudyActivity(
        study_instance_uid=StudyInstanceUID("1.2.3"),
        revision=1,
        first_received=START,
        last_received=after(last),
        open_associations=open_associations,
        new_instances=1,
    )


@pytest.mark.parametrize(
    ("last", "open_associations", "now", "expected"),
    [
        (0, 0, 9.9, after(10)),
        (0, 0, 10, Completion.QUIET),
        (5, 0, 12, after(15)),
        (5, 0, 15, Completion.QUIET),
        (0, 1, 12, after(40)),
        (0, 1, 39.9, after(40)),
        (0, 1, 40, Completion.QUIET),
        (70, 1, 90, after(100)),
        (70, 1, 100, Completion.CAP),
        (95, 0, 99, after(100)),
        (95, 0, 100, Completion.CAP),
        (95, 2, 120, Completion.CAP),
        (95, 2, 500, Completion.QUIET),
        (95, 0, 105, Completion.QUIET),
    ],
)
def test_table(last, open_associations, now, expected):
    decided = ready(activity(last=last, open_associations=open_associations), after(now), QUIET, OPEN, CAP)
    if isinstance(expected, Completion):
        assert decided == Ready(study_instance_uid="1.2.3", revision=1, because=expected)
    else:
        assert decided == Waiting(study_instance_uid="1.2.3", until=expected)


def test_naive_time_is_refused():
    with pytest.raises(ValueError, match="aware"):
        ready(activity(), datetime(2026, 3, 1), QUIET, OPEN, CAP)  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="aware"):
        ready(replace(activity(), last_received=datetime(2026, 3, 1)), START, QUIET, OPEN, CAP)  # noqa: DTZ001


seconds = st.integers(min_value=1, max_value=500).map(lambda s: timedelta(seconds=s))


@given(strategies.activities(), strategies.moments, seconds, seconds, seconds)
def test_a_waiting_study_is_ready_at_the_time_it_waits_for(one, now, quiet, longer, cap):
    decided = ready(one, now, quiet, longer, cap)
    if isinstance(decided, Waiting):
        assert decided.until > now
        assert isinstance(ready(one, decided.until, quiet, longer, cap), Ready)
        just_before = decided.until - timedelta(microseconds=1)
        if just_before >= now:
            assert isinstance(ready(one, just_before, quiet, longer, cap), Waiting)


@given(strategies.activities(), strategies.moments, seconds, seconds, seconds, seconds)
def test_once_ready_stays_ready_while_nothing_happens(one, now, quiet, longer, cap, later):
    if isinstance(ready(one, now, quiet, longer, cap), Ready):
        assert isinstance(ready(one, now + later, quiet, longer, cap), Ready)


events = st.lists(
    st.tuples(st.integers(min_value=0, max_value=40), st.sampled_from(["image", "open", "close", "tick"])),
    min_size=1,
    max_size=40,
)


@given(events)
def test_replayed_events_agree_with_the_plain_reading(happenings):
    """A twin that follows the sentences of the module's table, second by second."""
    now, opened, images, revision, assembled = 0, 0, [], 1, 0
    for gap, event in happenings:
        now += gap
        opened += {"open": 1, "close": -1 if opened else 0}.get(event, 0)
        if event == "image":
            images.append(now)
        if not images:
            continue
        quiet_over = now - images[-1] >= (OPEN if opened else QUIET).total_seconds()
        cap_over = now - images[0] >= CAP.total_seconds()
        expected = cap_over or quiet_over
        decided = ready(
            StudyActivity(
                study_instance_uid=StudyInstanceUID("1.2.3"),
                revision=revision,
                first_received=after(images[0]),
                last_received=after(images[-1]),
                open_associations=opened,
                new_instances=len(images),
            ),
            after(now),
            QUIET,
            OPEN,
            CAP,
        )
        assert isinstance(decided, Ready) == expected
        if isinstance(decided, Ready):
            assert decided.revision == revision
            assembled += len(images)
            images, revision = [], revision + 1
    assert assembled + len(images) == sum(event == "image" for _, event in happenings)
