"""What counts as shorter than the way to a thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import inplace
from tests.fakes import ManualClock


class Model:
    """Takes this long for a row, on a manual clock, and longer the first time."""

    def __init__(self, row_s: float, first_s: float = 0.0) -> None:
        self.clock, self.row_s, self.first_s = ManualClock(), row_s, first_s
        self.runs: list[int] = []

    def __call__(self, rows: int) -> None:
        self.clock.advance(rows * self.row_s + (0.0 if self.runs else self.first_s))
        self.runs.append(rows)

    def rows(self, most: int, limit_s: float) -> int:
        return inplace.rows(self, most, limit_s, self.clock)


@pytest.mark.parametrize(("limit_s", "rows"), [(0.5, 0), (1.5, 1), (4.5, 4), (100.0, 16)])
def test_largest_run_below_the_limit_is_found(limit_s: float, rows: int) -> None:
    assert Model(1.0).rows(16, limit_s) == rows


def test_never_more_rows_than_a_full_run_has() -> None:
    assert Model(0.0).rows(5, 1.0) == 4


def test_first_run_may_take_longer() -> None:
    assert Model(0.0, first_s=60.0).rows(1, 1.0) == 1


def test_slow_model_is_not_run_often() -> None:
    model = Model(1.0)
    model.rows(16, 0.5)
    assert len(model.runs) <= 3


def test_way_to_a_thread_is_timed_on_a_thread_of_the_executor() -> None:
    threads: list[int] = []

    def clock() -> float:
        threads.append(threading.get_ident())
        return time.perf_counter()

    with ThreadPoolExecutor(1) as executor:
        assert 0.0 < inplace.hop_s(executor, clock) < 10.0
    assert len(set(threads)) == 2  # the loop and the executor
