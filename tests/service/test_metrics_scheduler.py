"""What Prometheus sees of deadlines, and of how well the scheduler guesses."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import statistics
from service.figures import Histogram
from service.repository import Repository
from service.settings import Settings
from tests.service.scraped import LABELS, ONE, Server

CALLS, LATE = "farthing_calls_total", "farthing_late_answers_total"
RATIO = "farthing_run_estimate_ratio"
OTHER = ("letters", "1", "fp32")


def test_share_of_calls_without_a_deadline_can_be_read(server: Server) -> None:
    record = server.book.tally(LABELS)
    assert server.value(CALLS, deadline="given") == server.value(CALLS, deadline="none") == 0
    for has_deadline in (True, False, True, True):
        record.called(has_deadline)
    assert server.value(CALLS, deadline="given") == 3
    assert server.value(CALLS, deadline="none") == 1


def test_good_and_bad_are_all_but_what_callers_did_to_themselves(server: Server) -> None:
    record, name = server.book.tally(LABELS), "farthing_goodput_requests_total"
    assert server.value(name, good="true") == server.value(name, good="false") == 0
    for late in (False, False, False, True):
        record.succeeded(ONE, late=late)
    for status, reason in (
        ("CANCELLED", "cancelled"), ("INVALID_ARGUMENT", "invalid_input"),
        ("UNIMPLEMENTED", "unsupported"),
    ):  # fmt: skip
        record.failed(status, reason, 0.1)
    assert (server.value(name, good="true"), server.value(name, good="false")) == (3, 1)
    for status, reason in (
        ("RESOURCE_EXHAUSTED", "queue_time"), ("DEADLINE_EXCEEDED", "deadline_exceeded"),
        ("UNAVAILABLE", "draining"), ("INTERNAL", "internal"), ("INTERNAL", "inference_failed"),
    ):  # fmt: skip
        record.failed(status, reason, 0.1)
    assert (server.value(name, good="true"), server.value(name, good="false")) == (3, 6)


def test_refusals_for_load_are_shown_before_the_first(server: Server) -> None:
    server.book.tally(LABELS)
    for reason in ("calls", "queue_rows", "queue_time", "deadline_exceeded", "draining"):
        assert server.value("farthing_refused_total", reason=reason) == 0, reason
    server.book.tally(LABELS).failed("RESOURCE_EXHAUSTED", "queue_rows", 0.1)
    assert server.value("farthing_refused_total", reason="queue_rows") == 1


def test_predicted_wait_is_asked_of_the_model_and_the_target_shown_where_there_is_one(
    server: Server,
) -> None:
    model = server.load()
    assert server.value("farthing_predicted_wait_seconds") == 0.125
    assert server.value("farthing_latency_target_seconds") is None
    model.target_s = 0.25
    assert server.value("farthing_latency_target_seconds") == 0.25


def test_call_is_counted_however_it_ends(server: Server) -> None:
    record = server.book.tally(LABELS)
    record.called(True)
    record.succeeded(ONE)
    record.called(True)
    record.failed("CANCELLED", "cancelled", 0.001)
    assert server.value(CALLS, deadline="given") == 2, "once each"
    assert server.value("farthing_requests_total", status="OK", reason="") == 1


def test_answers_after_their_deadline_are_counted_as_answers_and_as_late(server: Server) -> None:
    record = server.book.tally(LABELS)
    assert server.value(LATE) == 0
    record.succeeded(ONE)
    record.succeeded(ONE, late=True)
    record.failed("DEADLINE_EXCEEDED", "deadline_exceeded", 0.2)
    assert server.value(LATE) == 1, "what was refused or dropped is no answer"
    assert server.value("farthing_requests_total", status="OK", reason="") == 2


def test_estimates_error_is_what_runs_took_over_what_was_expected(server: Server) -> None:
    tally = server.book.tally(LABELS)
    for actual_s in (0.05, 0.1, 0.100001, 0.3, 9.0):
        tally.executed(4, 0.0, 0.04, 0.1, actual_s)
    assert server.value(f"{RATIO}_bucket", le="0.25") == 0
    assert server.value(f"{RATIO}_bucket", le="0.5") == 1
    assert server.value(f"{RATIO}_bucket", le="0.9") == 1
    assert server.value(f"{RATIO}_bucket", le="1.0") == 2, "what was met exactly was met"
    assert server.value(f"{RATIO}_bucket", le="1.1") == 3
    assert server.value(f"{RATIO}_bucket", le="4.0") == 4
    assert server.value(f"{RATIO}_bucket", le="+Inf") == server.value(f"{RATIO}_count") == 5
    assert server.value(f"{RATIO}_sum") == pytest.approx(95.50001)


def test_run_that_nothing_was_expected_of_is_counted_without_an_error(server: Server) -> None:
    tally = server.book.tally(LABELS)
    tally.executed(4, 0.0, 0.1)
    tally.executed(4, 0.0, 0.1, 0.0, 0.1)
    assert server.value(f"{RATIO}_count") == 0
    assert server.value("farthing_batch_rows_count") == 2


def test_one_models_figures_are_not_anothers(server: Server) -> None:
    server.book.tally(OTHER).called(False)
    server.book.tally(OTHER).executed(1, 0.0, 0.1, 0.1, 0.1)
    server.book.tally(OTHER).succeeded(ONE, late=True)
    server.book.tally(LABELS)
    for name in (LATE, f"{RATIO}_count", "farthing_request_seconds_count"):
        assert (server.value(name), server.value(name, model="letters")) == (0, 1)
    assert server.value(CALLS, deadline="none") == 0
    assert server.value(CALLS, deadline="none", model="letters") == 1


def test_servers_latency_target_is_an_edge_of_the_phases_and_of_nothing_else(
    tmp_path: Path,
) -> None:
    settings = Settings(repository=tmp_path, latency_target_ms=70)
    figures = Repository(settings).book.tally(LABELS).figures()
    assert {0.07 in histogram.edges for histogram in figures.seconds.values()} == {True}
    assert 0.07 not in figures.estimates.edges
    without = Repository(Settings(repository=tmp_path)).book.tally(LABELS).figures()
    assert 0.07 not in without.seconds["request"].edges


def test_variants_deadlines_histograms_and_errors_add_up(server: Server) -> None:
    for variant in ("fp32", "int8"):
        record = server.book.tally(("digits", "1", variant))
        record.called(True)
        record.called(False)
        record.executed(8, 0.0, 0.1, 0.1, 0.2)
        record.succeeded(ONE, late=True)
    total = statistics.by_version(server.book.figures())["digits", "1"]
    assert (total.with_deadline, total.without_deadline, total.late) == (2, 2, 2)
    assert (sum(total.estimates.counts), total.estimates.total) == (2, pytest.approx(4.0))
    request = total.seconds["request"]
    assert (sum(request.counts), request.total) == (2, pytest.approx(1.52))


def test_histograms_add_up_edge_by_edge_and_with_nothing() -> None:
    one = Histogram.of((1.0, 2.0), [(1.0, 2), (1.5, 1), (7.0, 1)])
    assert one == Histogram((1.0, 2.0), (2, 1, 1), 10.5)
    assert one + one == Histogram((1.0, 2.0), (4, 2, 2), 21.0)
    assert one + Histogram() == Histogram() + one == one
    assert Histogram() + Histogram() == Histogram()


def test_histograms_with_other_edges_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="edges"):
        Histogram.of((1.0, 2.0), []) + Histogram.of((1.0, 3.0), [])
