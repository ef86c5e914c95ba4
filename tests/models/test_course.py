"""The course of a training, whose end may be moved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.training.course import Course, Move


def test_without_a_move_it_is_a_share_of_the_steps() -> None:
    course = Course(7)
    assert [course.progress(step) for step in range(8)] == [step / 7 for step in range(8)]


@given(st.integers(1, 500), st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), max_size=5))
def test_progress_never_jumps_nor_goes_back_and_ends_at_one(steps: int, wanted: list[Move]) -> None:
    course = Course(steps)
    for done, more in sorted(wanted):
        if course.moves[-1][0] <= done < course.end:
            before, rest = course.progress(done), [course.progress(step) for step in range(done)]
            course.move(done, done + more)
            assert course.progress(done) == pytest.approx(before)  # it stays where it is
            assert [course.progress(step) for step in range(done)] == rest  # nor does the past change
            assert course.progress(course.end) == pytest.approx(1)
    found = [course.progress(step) for step in range(course.end + 1)]
    assert found == sorted(found)
    assert Course(steps, course.moves[1:]).moves == course.moves


@pytest.mark.parametrize("move", [(5, 4), (1, 9)])
def test_a_move_into_the_past_is_an_error(move: Move) -> None:
    course = Course(10, [(3, 8)])
    with pytest.raises(ValueError, match="the end cannot become"):
        course.move(*move)
