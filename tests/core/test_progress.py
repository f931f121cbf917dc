"""How far a long computation is, as whoever listens hears it."""

import pytest

from explain_core import progress


def test_what_is_told_in_a_step_is_a_part_of_that_step():
    told = []
    with progress.listening(told.append):
        for image in range(2):
            with progress.step(image, 2):
                for method in range(2):
                    with progress.step(method, 2):
                        progress.tell(0.5)
    assert told == pytest.approx([1 / 8, 1 / 4, 3 / 8, 1 / 2, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1, 1])


def test_where_nobody_listens_nothing_happens_and_a_listener_hears_only_its_block():
    told = []
    progress.tell(0.1)
    with progress.step(0, 2):
        progress.tell(0.2)
    with progress.listening(told.append):
        progress.tell(0.3)
    progress.tell(0.4)
    assert told == [0.3]


def test_a_step_that_fails_is_not_told_as_done_and_its_listener_goes():
    told = []
    with progress.listening(told.append):
        with pytest.raises(ZeroDivisionError), progress.step(0, 2):
            raise ZeroDivisionError
        progress.tell(0.7)
    assert told == [0.7]
