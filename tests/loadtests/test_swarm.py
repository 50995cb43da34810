"""Locust's users against a real v2 server: what they hide, what they show, and who adds it up."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests import arrivals, load, openloop
from loadtests.histogram import Histogram
from loadtests.load import Plan
from loadtests.observed import UNANSWERED, Observed
from loadtests.openloop import Stream
from loadtests.processes import ChildFailed
from tests.loadtests.swarming import (
    HEADLESS,
    distributed,
    fetched,
    free_port,
    observed,
    results_of,
    swarm,
)
from tests.loadtests.v2server import answering

RATE, SECONDS = 100, 3.0
# Beside other tests on a few cores; what the server takes is known, and further apart.
NOISE_S = 0.025


@pytest.fixture(scope="module")
def known() -> Iterator[str]:
    """A server that takes 30 ms for four of five calls, and 150 ms for the fifth."""
    with answering("--quick-s", "0.03", "--slow-s", "0.15") as target:
        yield target


@pytest.fixture(scope="module")
def alone(known: str, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """What one process saw of the schedule."""
    return load.run(_plan(known), log=tmp_path_factory.mktemp("alone") / "log")


def _plan(target: str, *, processes: int = 1) -> Plan:
    return Plan(
        target, "m", arrivals="poisson", rate=RATE, seconds=SECONDS, warmup_s=0.5, limit_ms=400,
        seed=7, users=2, processes=processes,
    )  # fmt: skip


def _options(target: str, results: Path) -> list[str]:
    """Those of the same schedule, for Locust itself."""
    return [
        "--host", target, "--model", "m", "--arrivals", "poisson", "--rate", str(RATE),
        "--seconds", str(SECONDS), "--warmup-s", "0.5", "--limit-ms", "400", "--seed", "7",
        "--users", "2", "--spawn-rate", "2", "--results", str(results),
    ]  # fmt: skip


def _assert_same(one: Observed, other: Observed) -> None:
    """The same schedule, answered by the same server, within noise."""
    for seen in (one, other):
        assert seen.offered == sum(seen.endings.values()) == RATE * SECONDS
        assert len(seen.latency) == len(seen.lag) == seen.offered
    for percent in (25, 50, 75, 90):
        assert _at(one.latency, percent) == pytest.approx(
            _at(other.latency, percent), abs=NOISE_S
        ), percent


def _at(latency: Histogram, percent: float) -> float:
    value = latency.at(percent)
    assert value is not None
    return value


def test_closed_users_hide_a_stall_that_an_open_loop_shows(tmp_path: Path) -> None:
    with answering("--period-s", "2", "--stall-s", "0.5") as target:
        closed = load.run(Plan(target, "m", users=2, seconds=4, warmup_s=0), log=tmp_path / "log")
        plan = Plan(target, "m", arrivals="poisson", rate=100, seconds=4, warmup_s=0)
        opened = load.run(plan, log=tmp_path / "log")
    assert _at(closed.latency, 99) < 0.1
    assert _at(opened.latency, 99) > 0.3
    # A quarter of all who would have called met it.
    assert opened.latency.above(0.02) / opened.offered > 0.15


def test_locust_and_asyncio_agree_on_the_same_schedule(known: str, alone: Observed) -> None:
    times = arrivals.schedule("poisson", rate=RATE, seconds=SECONDS, seed=7)
    stream = Stream((known,), [b""], times, SECONDS, deadline_s=10, limit_s=0.4)
    _assert_same(alone, openloop.run(stream))


def test_two_processes_see_what_one_sees(known: str, alone: Observed, tmp_path: Path) -> None:
    _assert_same(alone, load.run(_plan(known, processes=2), log=tmp_path / "log"))


def test_a_master_and_two_workers_see_what_one_process_sees(
    known: str, alone: Observed, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    with distributed([*HEADLESS, *_options(known, results)], workers=2) as (master, _):
        figures = results_of(master, results)
    assert (figures["processes"], figures["users"]) == (2, 2)
    _assert_same(alone, observed(figures))


@pytest.mark.slow
def test_a_worker_that_is_lost_makes_the_run_void(known: str) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    options = ["--web-host", "127.0.0.1", "--web-port", port, "--model", "m", "--stop-timeout", "1"]
    form = {
        "user_count": 2, "spawn_rate": 2, "host": known, "arrivals": "constant", "rate": 40,
        "seconds": 4, "warmup_s": 0,
    }  # fmt: skip
    with distributed(options, workers=2) as (_, workers):
        while len(json.loads(fetched(f"{page}/stats/requests"))["workers"]) < 2:
            time.sleep(0.1)
        fetched(f"{page}/swarm", form)
        figures = _until(page, lambda found: found["observed"]["offered"] > 0)
        assert figures["processes"] == 2
        workers[0].kill()
        seen = observed(_until(page, lambda found: bool(found["ended"])))
    assert seen.unsent > 0
    assert seen.offered + seen.unsent == 160
    assert "calls were never sent" in seen.void
    assert sum(seen.endings.values()) == seen.offered


def _until(page: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The figures that a page shows when they are as they should be."""
    for _ in range(300):
        figures: dict[str, Any] = json.loads(fetched(f"{page}/farthing.json"))
        if done(figures):
            return figures
        time.sleep(0.1)
    raise AssertionError(figures)


def test_a_generator_that_is_starved_of_cpu_makes_the_run_void(known: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    with swarm(*HEADLESS, *_options(known, results)) as process:
        while process.poll() is None:  # it has the CPU for nine tenths of the time
            time.sleep(0.45)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGCONT)
        seen = observed(results_of(process, results))
    assert "of the calls more than 20 ms late" in seen.void
    assert seen.offered == sum(seen.endings.values()) == RATE * SECONDS


def test_an_event_loop_that_is_blocked_makes_the_run_void(known: str) -> None:
    times = arrivals.schedule("poisson", rate=RATE, seconds=1.5, seed=1)
    stream = Stream((known,), [b""], times, 1.5, deadline_s=10, limit_s=0.4)
    seen = openloop.run(stream, lambda _: time.sleep(0.1))
    assert "of the calls more than 20 ms late" in seen.void


def test_calls_that_hang_end_with_the_run_and_stay_in_what_was_offered(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    with answering("--hangs", "4") as target:
        options = [*_options(target, results), "--stop-timeout", "1"]
        with swarm(*HEADLESS, *options) as process:
            seen = observed(results_of(process, results))
    assert seen.offered == sum(seen.endings.values()) == RATE * SECONDS
    assert seen.endings[UNANSWERED] == pytest.approx(seen.offered / 4, abs=15)
    assert seen.success == pytest.approx(0.75, abs=0.05)


def test_calls_that_wait_hold_up_no_others_however_many_they_are(tmp_path: Path) -> None:
    with answering("--hangs", "2") as target:
        plan = Plan(
            target, "m", arrivals="constant", rate=100, seconds=2, warmup_s=0, deadline_ms=1500
        )
        seen = load.run(plan, log=tmp_path / "log")
    assert seen.endings["good"] == seen.endings["DEADLINE_EXCEEDED"] == 100
    assert _at(seen.latency, 90) < 0.5


def test_closed_callers_who_think_send_no_more_than_that_allows(known: str, tmp_path: Path) -> None:
    plan = Plan(known, "m", users=4, seconds=2, warmup_s=0, think_ms=200, thinking="fixed")
    seen = load.run(plan, log=tmp_path / "log")
    # 30 or 150 ms, and 200 ms more.
    assert 4 * 2 / 0.5 < seen.offered <= 4 * (2 / 0.23 + 1)
    assert (len(seen.lag), seen.void) == (0, "")


def test_a_deadline_runs_from_the_schedule_and_is_told_by_its_code(
    known: str, tmp_path: Path
) -> None:
    plan = Plan(
        known, "m", arrivals="constant", rate=50, seconds=1, warmup_s=0, deadline_ms=100, users=1
    )
    seen = load.run(plan, log=tmp_path / "log")
    assert 5 <= seen.endings["DEADLINE_EXCEEDED"] <= 25
    assert sum(seen.endings.values()) == seen.offered == 50


def test_a_target_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"nothing answers at 127\.0\.0\.1:1; is it up"):
        load.run(Plan("127.0.0.1:1", "m", seconds=1), log=tmp_path / "log")


def test_locusts_page_starts_a_run_by_its_form_and_shows_its_figures(known: str) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    with swarm("--web-host", "127.0.0.1", "--web-port", port, "--model", "m"):
        form = {
            "user_count": 2, "spawn_rate": 2, "host": known, "arrivals": "constant", "rate": 40,
            "seconds": 1, "warmup_s": 0,
        }  # fmt: skip
        assert json.loads(fetched(f"{page}/farthing.json"))["observed"]["offered"] == 0
        for _ in range(2):  # the second begins anew
            assert json.loads(fetched(f"{page}/swarm", form))["success"]
            figures = _until(page, lambda found: bool(found["ended"]))
            assert observed(figures).offered == observed(figures).answers == 40
            assert figures["arrivals"] == "constant"
            while json.loads(fetched(f"{page}/stats/requests"))["state"] != "stopped":
                time.sleep(0.1)
        assert "open loop, constant" in fetched(f"{page}/farthing")
