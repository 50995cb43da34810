"""The verb `load`: what it refuses before it sends, what it tells; Locust stays outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests import loadverb
from loadtests.load import Plan
from loadtests.observed import Observed
from service.errors import InvalidSetting


def test_a_plan_is_one_closed_caller_with_one_row_unless_told() -> None:
    plan = Plan("host:1", "m")
    assert (plan.users, plan.rows, plan.rows_file, plan.cpus) == (1, 1, None, None)
    assert (plan.arrivals, plan.think_ms, plan.processes) == ("", 0.0, 1)


def test_every_process_has_a_connection_at_least() -> None:
    assert Plan("host:1", "m", users=2, processes=3).connections == 3
    assert Plan("host:1", "m", users=4, processes=3).connections == 4


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"target": "http://h:1"}, "takes HOST:PORT"),
        ({"target": "h:1,i:1"}, "takes HOST:PORT"),
        ({"rows_file": Path("/nowhere.npz")}, "/nowhere.npz does not exist"),
        ({"thinking": "deeply"}, "takes exponential or fixed"),
        ({"rate": 5.0, "think_ms": 3.0}, "an open loop has none"),
        ({"kind": "spike"}, "--arrivals spike needs --rate"),
        ({"kind": "sometimes", "rate": 5.0}, "there are no arrivals 'sometimes'"),
        ({"kind": "replay"}, "a replay needs a trace file"),
        ({"trace": Path("/nowhere.csv")}, "/nowhere.csv cannot be read as a trace"),
        ({"rate": 0.01, "seconds": 1.0}, "no call is due"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSetting, match=why):
        loadverb.load(**({"target": "127.0.0.1:1", "model": "m"} | options))


def test_a_rate_makes_it_an_open_loop_and_its_json_says_so() -> None:
    plan = Plan("127.0.0.1:1", "m", arrivals="poisson", rate=20, seed=3)
    told = loadverb.summary(plan, Observed(1.0))
    assert (told["loop"], told["arrivals"], told["rate"], told["seed"]) == (
        "open",
        "poisson",
        20,
        3,
    )
    assert "latency_histogram" in told


def test_of_a_closed_loop_no_rate_is_told() -> None:
    told = loadverb.summary(Plan("127.0.0.1:1", "m", rate=20), Observed(1.0))
    assert (told["loop"], told["arrivals"], told["rate"]) == ("closed", None, None)


def test_a_void_run_is_printed_as_void_and_not_as_figures() -> None:
    seen = Observed(10.0, limit_s=0.1)
    for _ in range(1000):
        seen.sent(0.5)
        seen.answered(0.01)
    plan = Plan("127.0.0.1:1", "m", arrivals="poisson", rate=100, limit_ms=100)
    cells = list(loadverb.table(plan, seen).columns[1].cells)
    assert cells.count("void") == 7
    assert not [cell for cell in cells if "10.0" in str(cell)]
    assert cells[-1] == f"{seen.lag_ms(99):.2f} ms"
    told = loadverb.summary(plan, seen)
    assert [told["good_per_s"], told["success"], *told["latency_ms"].values()] == [None] * 7


def test_neither_locust_nor_gevent_is_imported_by_what_runs_them() -> None:
    code = (
        "import sys, loadtests.load, loadtests.demo, loadtests.cli, loadtests.loadverb;"
        "sys.exit(any(name in sys.modules for name in ('locust', 'gevent')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
