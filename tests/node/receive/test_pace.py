"""The floor under a peer's pace, second by second."""

from hypothesis import given
from hypothesis import strategies as st

from dicom_node.receive.pace import Pace


def begun(floor=1000, window=60):
    pace = Pace(floor, window)
    pace.message(0, under_way=True)
    return pace


def test_a_peer_has_a_window_in_hand_and_not_more():
    assert begun().keeps_up(60, 0)
    assert not begun().keeps_up(60.1, 0)


def test_bytes_earn_time_and_never_more_than_a_window():
    pace = begun()
    assert pace.keeps_up(10, 10_000_000)
    assert pace.keeps_up(70, 0)
    assert not pace.keeps_up(70.1, 0)


def test_between_messages_nothing_runs():
    pace = begun()
    pace.message(1, under_way=False)
    assert pace.keeps_up(1000, 6)
    pace.message(1000, under_way=True)
    assert pace.keeps_up(1060, 0)


def test_another_fragment_of_the_same_message_gives_nothing():
    pace = begun()
    pace.message(59, under_way=True)
    assert not pace.keeps_up(61, 0)


def test_the_time_of_ours_is_given_back():
    pace = begun()
    pace.held_up(30)
    assert pace.keeps_up(90, 0)
    assert not pace.keeps_up(90.1, 0)


@given(
    rate=st.floats(1, 1e6),
    floor=st.floats(1, 1e6),
    gap=st.floats(0.01, 29),
)
def test_a_steady_peer_is_ended_when_it_is_slower_than_the_floor_and_only_then(rate, floor, gap):
    pace, count = begun(floor, 60), 0
    ended = False
    for count in range(1, 20_000 if rate < 0.9 * floor and gap < 0.1 else 3000):
        if not pace.keeps_up(count * gap, rate * gap):
            ended = True
            break
    if rate >= floor * 1.0001:
        assert not ended
    if rate < 0.9 * floor and count * gap > 60 / 0.1 + gap:
        assert ended
