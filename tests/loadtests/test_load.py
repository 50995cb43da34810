"""The arithmetic of one run, and that Locust stays out of this process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from loadtests.load import Measured, Plan

RUN = Measured(
    users=4, seconds=2.5, latencies_ms=np.arange(1.0, 101.0), failures={"UNAVAILABLE": 3, "X": 1}
)
NOTHING = Measured(users=4, seconds=0.0, latencies_ms=np.array([]), failures={"UNAVAILABLE": 7})


def test_the_rate_counts_successful_calls_only() -> None:
    assert RUN.rate == pytest.approx(40.0)


def test_what_was_offered_includes_the_failed_calls() -> None:
    assert RUN.offered == 104
    assert NOTHING.offered == 7


def test_percentiles_are_those_of_the_successful_calls() -> None:
    assert RUN.percentile_ms(50) == pytest.approx(50.5)
    assert RUN.percentile_ms(100) == 100.0


def test_a_run_without_success_has_rate_zero_and_no_percentiles() -> None:
    assert NOTHING.rate == 0.0
    assert NOTHING.percentile_ms(50) is None
    assert NOTHING.summary()["p99_ms"] is None


def test_the_summary_adds_up() -> None:
    summary = RUN.summary()
    assert summary["offered"] == summary["succeeded"] + sum(summary["failures"].values()) == 104
    assert summary["requests_per_s"] == pytest.approx(40.0)
    assert (summary["p50_ms"], summary["p99.9_ms"]) == pytest.approx((50.5, 99.901))


@pytest.mark.parametrize(("calls", "enough"), [(458, False), (459, True)])
def test_the_summary_says_whether_p99_has_enough_calls(calls: int, enough: bool) -> None:
    summary = Measured(1, 1.0, np.ones(calls)).summary()
    assert summary["p99_has_enough_samples"] is enough


def test_a_plan_is_one_caller_with_one_row_unless_told() -> None:
    plan = Plan("host:1", "m")
    assert (plan.users, plan.rows, plan.rows_file, plan.cpus) == (1, 1, None, None)


def test_neither_locust_nor_gevent_is_imported_by_what_runs_them() -> None:
    code = (
        "import sys, loadtests.load, loadtests.demo, loadtests.cli;"
        "sys.exit(any(name in sys.modules for name in ('locust', 'gevent')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
