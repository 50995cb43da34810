"""When rows are taken for a run that is to wait for its GPU."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.overlap import Overlap, UnderWay
from tests.fakes import ManualClock

MAX_ROWS = 8


def done(overlap: Overlap, clock: ManualClock, run: UnderWay, *, gather_s: float, run_s: float
         ) -> None:  # fmt: skip
    """A run is over that nobody waited behind, and that waited behind nobody."""
    clock.advance(gather_s + run_s)
    run.run_s = run_s
    overlap.end(run, clock())


def learned(clock: ManualClock, gpus: int = 1) -> Overlap:
    """Eight rows take a second to get there and ten to compute; one row an eighth of the second."""
    overlap = Overlap(gpus, MAX_ROWS)
    for rows, gather_s in ((8, 1.0), (1, 0.125)):
        done(overlap, clock, overlap.begin(rows, clock()), gather_s=gather_s, run_s=10.0)
    return overlap


@pytest.mark.parametrize("gpus", [1, 2])
def test_gpu_without_a_run_takes_what_waits_at_once(gpus: int) -> None:
    clock = ManualClock()
    overlap = learned(clock, gpus)
    for _ in range(gpus):
        assert overlap.opens(1, clock()) == clock()
        overlap.begin(1, clock())
    assert overlap.opens(1, clock()) > clock()


def test_rows_are_taken_behind_a_run_as_long_before_its_end_as_they_need_to_get_there() -> None:
    clock = ManualClock()
    overlap = learned(clock)
    overlap.begin(8, clock())  # over in eleven seconds
    assert overlap.opens(1, clock()) - clock() == pytest.approx(10.875 - 0.001)
    assert overlap.opens(7, clock()) - clock() == pytest.approx(10.125 - 0.001)
    clock.advance(10.5)
    assert overlap.opens(7, clock()) < clock() < overlap.opens(1, clock())


def test_full_run_is_taken_at_once_since_nothing_more_could_join_it() -> None:
    clock = ManualClock()
    overlap = learned(clock)
    overlap.begin(8, clock())
    assert overlap.opens(8, clock()) == clock()
    overlap.begin(8, clock())
    assert overlap.opens(9, clock()) == clock(), "and another, where there are instances for it"


def test_less_than_a_full_run_is_not_the_second_behind_the_same_run() -> None:
    clock = ManualClock()
    overlap = learned(clock)
    first = overlap.begin(8, clock())
    overlap.begin(8, clock())
    clock.advance(60.0)
    assert overlap.opens(7, clock()) == inf
    overlap.end(first, clock())
    assert overlap.opens(7, clock()) - clock() == pytest.approx(10.0 - 0.875 - 0.001)


def test_rows_wait_for_the_first_of_several_gpus_that_has_no_next_run() -> None:
    clock = ManualClock()
    overlap = learned(clock, gpus=2)
    overlap.begin(8, clock())
    clock.advance(3.0)
    overlap.begin(8, clock())
    assert overlap.opens(1, clock()) - clock() == pytest.approx(8.0 - 0.125 - 0.001)
    overlap.begin(8, clock())  # behind that one
    assert overlap.opens(1, clock()) - clock() == pytest.approx(11.0 - 0.125 - 0.001)


def test_run_that_takes_longer_than_expected_is_not_waited_for() -> None:
    clock = ManualClock()
    overlap = learned(clock)
    overlap.begin(8, clock())
    clock.advance(60.0)
    assert overlap.opens(1, clock()) < clock()


def test_waiting_behind_another_run_is_not_learned_as_computing() -> None:
    clock = ManualClock()
    overlap = learned(clock)
    for _ in range(40):
        first, behind = overlap.begin(8, clock()), overlap.begin(8, clock())
        done(overlap, clock, first, gather_s=1.0, run_s=10.0)
        clock.advance(10.0)
        behind.run_s = 20.0  # of which it waited for ten
        overlap.end(behind, clock())
    overlap.begin(8, clock())
    assert overlap.opens(1, clock()) - clock() == pytest.approx(10.875 - 0.001)


def test_one_stall_is_no_rule() -> None:
    clock = ManualClock()
    overlap = learned(clock)
    for run_s in (10.0, 60.0, 10.0):
        done(overlap, clock, overlap.begin(8, clock()), gather_s=1.0, run_s=run_s)
    overlap.begin(8, clock())
    assert overlap.opens(1, clock()) - clock() == pytest.approx(10.875 - 0.001)


def test_nothing_is_learned_of_a_run_that_failed() -> None:
    clock = ManualClock()
    overlap = Overlap(1, MAX_ROWS)
    run = overlap.begin(8, clock())
    clock.advance(60.0)
    overlap.end(run, clock())
    overlap.begin(8, clock())
    assert overlap.opens(1, clock()) <= clock()


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "fail"]), st.integers(1, MAX_ROWS),
              st.floats(0.0, 5.0)),
    max_size=60,
)  # fmt: skip


@given(STEPS, st.integers(1, 3))
def test_rows_only_ever_wait_for_runs_that_are_under_way(
    steps: list[tuple[str, int, float]], gpus: int
) -> None:
    clock, overlap = ManualClock(), Overlap(gpus, MAX_ROWS)
    under_way: list[UnderWay] = []
    for what, rows, passed_s in steps:
        clock.advance(passed_s)
        if what == "begin":
            under_way.append(overlap.begin(rows, clock()))
        elif under_way:
            run = under_way.pop(rows % len(under_way))
            if what == "end":
                run.run_s = (clock() - run.taken) / 2
            overlap.end(run, clock())
        opens = overlap.opens(rows, clock())
        if len(under_way) < gpus or rows == MAX_ROWS:
            assert opens == clock()
        if len(under_way) >= 2 * gpus and rows < MAX_ROWS:
            assert opens == inf
        computing = [run for run in under_way if run.began is not None]
        assert len(computing) == min(gpus, len(under_way))
