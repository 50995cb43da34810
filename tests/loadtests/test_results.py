"""The figures of a report, beside those computed by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest

from loadtests.results import PERCENTILES, Report, Row
from service.manifest import Variant
from tests.loadtests.conftest import REASON, measured

# $0.4 an hour over 3600 s and the rate, a million times.
DOLLARS = {"keras": 1.1111111, "fp32": 0.5555556, "int8-static": 0.2777778}


def alone(calls: int) -> Row:
    """A served row with so many successful calls."""
    return Row.served(Variant("fp32", True, "-"), 1.0, measured(10, calls=calls), measured(10))


def test_dollars_follow_from_the_price_the_share_and_the_rate(report: Report) -> None:
    for name, dollars in DOLLARS.items():
        assert report.usd_per_million(report.row(name)) == pytest.approx(dollars)


def test_ratios_are_to_the_baseline(report: Report) -> None:
    ratios = [report.ratio(report.row(name)) for name in DOLLARS]
    assert ratios == pytest.approx([1.0, 0.5, 0.25])


def test_a_row_that_was_not_loaded_has_no_dollars(report: Report) -> None:
    refused = report.row("int8-dynamic")
    assert report.usd_per_million(refused) is None
    assert report.ratio(refused) is None
    assert (refused.p50_ms, refused.p99_ms) == (None, None)
    assert (refused.refused, refused.accuracy, refused.bytes) == (REASON, 0.9, 1_500_000)


def test_without_a_rate_of_the_baseline_there_is_no_ratio(report: Report) -> None:
    rows = [dataclasses.replace(report.rows[0], requests_per_s=None), *report.rows[1:]]
    unknown = dataclasses.replace(report, rows=rows)
    assert unknown.ratio(unknown.row("fp32")) is None
    assert unknown.verdict() == "farthing would serve int8-static: it is the fastest that holds."


def test_latencies_are_those_of_one_caller_and_the_rate_is_that_of_many(report: Report) -> None:
    row = report.row("fp32")
    assert row.requests_per_s == pytest.approx(200)
    assert row.p50_ms == pytest.approx(250.5, rel=0.003)
    assert row.p99_ms == pytest.approx(495, rel=0.003)
    assert list(row.latency_ms or {}) == [at for at in PERCENTILES if at <= 99]


@pytest.mark.parametrize(("calls", "told"), [(458, False), (459, True)])
def test_p99_is_told_from_459_calls_on(calls: int, told: bool) -> None:
    row = alone(calls)
    assert row.calls == calls
    assert (row.p99_ms is not None) == told
    assert row.p50_ms == pytest.approx((calls + 1) / 2, rel=0.004)


def test_a_baseline_with_few_calls_has_no_p99(report: Report) -> None:
    baseline = report.row("keras")
    assert (baseline.calls, baseline.p99_ms) == (458, None)


def test_a_row_where_no_call_succeeded_has_no_latency() -> None:
    row = alone(0)
    assert (row.p50_ms, row.p99_ms, row.calls) == (None, None, 0)


def test_failures_of_both_runs_are_added_by_status() -> None:
    one = measured(5, calls=5, failures={"UNAVAILABLE": 2})
    many = measured(5, calls=5, failures={"UNAVAILABLE": 3, "INTERNAL": 1})
    row = Row.served(Variant("fp32", True, "-"), 1.0, one, many)
    assert row.failures == {"UNAVAILABLE": 5, "INTERNAL": 1}
    assert one.endings == {"good": 5, "UNAVAILABLE": 2}


def test_a_served_row_names_the_file_that_was_served(report: Report) -> None:
    row = report.row("int8-static")
    assert (row.sha256, row.bytes, row.refused) == ("b" * 64, 1_000_000, None)


def test_the_verdict_names_the_chosen_variant_and_what_it_saves(report: Report) -> None:
    assert report.verdict() == (
        "farthing would serve int8-static: it is the fastest that holds. "
        "It costs 75% less per request than Keras in process."
    )


def test_the_verdict_says_so_where_it_costs_more(report: Report) -> None:
    rows = [dataclasses.replace(report.rows[0], requests_per_s=500.0), *report.rows[1:]]
    dearer = dataclasses.replace(report, rows=rows, chosen="fp32")
    assert "It costs 150% more per request" in dearer.verdict()


def test_plain_figures_equal_the_rows(report: Report) -> None:
    plain = report.to_dict()
    assert (plain["chosen"], plain["verdict"]) == ("int8-static", report.verdict())
    for given, row in zip(plain["rows"], report.rows, strict=True):
        assert given["name"] == row.name
        assert given["usd_per_million"] == report.usd_per_million(row)
        assert given["usd_ratio_to_baseline"] == report.ratio(row)
        assert (given["p50_ms"], given["p99_ms"]) == (row.p50_ms, row.p99_ms)
    assert plain["conditions"]["usd_per_hour"] == pytest.approx(0.4)


def test_plain_figures_are_json_as_they_are(report: Report) -> None:
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["chosen"] == "int8-static"


@pytest.mark.parametrize(
    ("shared", "said"), [(True, "shared these CPUs"), (False, "had CPUs of its own")]
)
def test_the_conditions_say_what_the_figures_depend_on(
    report: Report, shared: bool, said: str
) -> None:
    sentences = " ".join(dataclasses.replace(report.conditions, shared=shared).sentences())
    for part in (said, "4 of the 8 CPUs of shop.large", "600 held out", "5 s each", "with 8"):
        assert part in sentences
