"""What a run takes is learned from runs, and errs on the high side."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.latency import MARGIN, Latency


def learned(*runs: tuple[int, float]) -> Latency:
    latency = Latency(margin=1.0)
    for rows, seconds in runs:
        latency.observe(rows, seconds)
    return latency


def test_nothing_seen_is_expected_to_take_no_time() -> None:
    assert Latency()(5) == 0.0


@pytest.mark.parametrize(
    ("rows", "seconds"), [(1, 1.0), (2, 1.0), (3, 1.5), (4, 2.0), (8, 4.0)],
)  # fmt: skip
def test_sizes_between_and_beyond_are_on_the_line(rows: int, seconds: float) -> None:
    assert learned((2, 1.0), (4, 2.0))(rows) == pytest.approx(seconds)


def test_estimate_is_above_what_was_seen_by_the_margin() -> None:
    latency = Latency()
    latency.observe(4, 1.0)
    assert latency(4) == pytest.approx(MARGIN)


def test_one_stall_among_many_runs_is_no_rule() -> None:
    assert learned(*[(1, 1.0)] * 39, (1, 60.0))(1) == 1.0


def test_stall_among_few_runs_counts_until_it_is_forgotten() -> None:
    latency = learned((1, 60.0))
    for _ in range(19):
        assert latency(1) == 60.0
        latency.observe(1, 1.0)
    assert latency(1) == 1.0


def test_slower_runs_raise_the_estimate_at_once() -> None:
    latency = learned(*[(8, 1.0)] * 40)
    for _ in range(3):
        latency.observe(8, 2.0)
    assert latency(8) == 2.0


RUNS = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10.0)), min_size=1, max_size=80)


@given(RUNS)
def test_more_rows_never_take_less(runs: list[tuple[int, float]]) -> None:
    latency = learned(*runs)
    estimates = [latency(rows) for rows in range(1, 80)]
    assert all(a <= b + 1e-12 for a, b in pairwise(estimates))


def test_stall_of_a_size_that_never_runs_again_is_corrected_by_larger_ones() -> None:
    latency = learned((1, 1.0), (16, 2.0), (7, 60.0))
    assert latency(16) == 60.0  # nothing says yet which of the two is wrong
    for _ in range(8):
        latency.observe(16, 2.0)
    assert latency(7) == 2.0
    assert latency(16) == 2.0


def test_stalls_that_keep_their_own_sizes_from_running_are_forgotten() -> None:
    latency = learned((6, 1.0), (7, 60.0), (16, 2.0))
    for _ in range(50):
        latency.observe(6, 1.0)  # all that still runs
    assert latency(7) == pytest.approx(1.1)
    assert latency(16) == 2.0


def test_stall_of_the_largest_size_is_forgotten_too() -> None:
    latency = learned((8, 1.0), (16, 60.0))
    for _ in range(50):
        latency.observe(8, 1.0)
    assert latency(16) == 2.0


def test_large_size_that_has_not_run_lately_is_kept() -> None:
    latency = learned((16, 2.0))
    for _ in range(100):
        latency.observe(1, 1.0)
    assert latency(16) == 2.0


def test_machine_that_has_become_slower_is_believed_over_what_once_was() -> None:
    latency = learned(*[(16, 2.0)] * 40)
    for _ in range(50):
        latency.observe(1, 5.0)
    assert (latency(1), latency(16)) == (5.0, 5.0)
