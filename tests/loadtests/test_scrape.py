"""The ledger and the phases of a stretch of time, from two scrapes."""

from __future__ import annotations

import pytest

from loadtests import scrape
from loadtests.scrape import Scrape, parsed
from service.errors import InvalidSetting

HEAD = "# TYPE farthing_core_seconds_total counter\n"


def text(busy: float, idle: float, run_s: float, runs: int) -> str:
    model = 'model="net",version="1",variant="fp32"'
    nobody = 'model="",version="",variant=""'
    return (
        f'farthing_core_seconds_total{{{model},kind="busy"}} {busy}\n'
        f'farthing_core_seconds_total{{model="b",version="1",variant="x",kind="busy"}} 1.0\n'
        f'farthing_core_seconds_total{{{nobody},kind="idle"}} {idle}\n'
        f"farthing_unsettled_core_seconds{{{model}}} 0.5\n"
        f"farthing_run_seconds_sum{{{model}}} {run_s}\n"
        f'farthing_run_seconds_bucket{{{model},le="+Inf"}} {runs}\n'
        f"farthing_run_seconds_count{{{model}}} {runs}\n"
        'farthing_run_seconds_sum{model="b",version="1",variant="x"} 99.0\n'
        'farthing_run_seconds_count{model="b",version="1",variant="x"} 1\n'
        "process_resident_memory_bytes 1e+08\n"
    )


BEFORE = parsed(text(1.0, 10.0, 0.5, 10), model="net")
AFTER = parsed(text(3.0, 14.0, 1.5, 30), model="net")


def test_the_bill_is_the_difference_by_line_over_all_models() -> None:
    assert AFTER.bill(BEFORE) == {"busy": 2.0, "idle": 4.0, "unsettled": 0.0}


def test_phases_are_those_of_the_model_and_of_the_time_between() -> None:
    assert AFTER.means(BEFORE) == {"run": pytest.approx(0.05)}


def test_memory_is_told() -> None:
    assert AFTER.memory_bytes == 100_000_000


def test_replicas_add_up() -> None:
    both = scrape.together([AFTER, AFTER])
    assert both.bill(scrape.together([BEFORE, BEFORE])) == {
        "busy": 4.0, "idle": 8.0, "unsettled": 0.0,
    }  # fmt: skip
    assert both.means(BEFORE) == {"run": pytest.approx((3.0 - 0.5) / 50)}
    assert both.memory_bytes == 200_000_000


def test_a_server_without_a_ledger_has_no_bill_and_none_without_answers_a_phase() -> None:
    foreign = parsed("nv_inference_count 7\n", model="net")
    assert foreign.bill(Scrape()) is None
    assert foreign.means(Scrape()) is None
    assert AFTER.means(AFTER) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "127.0.0.1:8002", "file:///x"])
def test_what_does_not_answer_with_metrics_is_refused_by_its_url(url: str) -> None:
    with pytest.raises(InvalidSetting, match="does not answer with metrics"):
        scrape.read([url], model="net")


def test_no_urls_tell_nothing() -> None:
    assert scrape.read([], model="net") == Scrape()
