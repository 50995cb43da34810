"""What Prometheus sees: each inference once, under its ending, and Triton's names beside ours."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families as parsed

from service import statistics
from service.errors import InvalidInput, ModelNotFound
from service.phases import Phases
from tests.service.scraped import LABELS, ONE, Server

TRITON = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count",
    "nv_inference_exec_count", "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
}  # fmt: skip


def test_answered_inference_is_counted_once_as_ok(server: Server) -> None:
    server.book.tally(LABELS).succeeded(ONE)
    assert server.value("farthing_requests_total", status="OK", reason="") == 1
    assert server.value("farthing_rows_total") == 3


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [("decode", 0.001), ("queue", 0.25), ("assembly", 0.003), ("run", 0.5), ("encode", 0.004),
     ("request", 0.76)],
)  # fmt: skip
def test_each_phase_has_its_histogram(server: Server, phase: str, seconds: float) -> None:
    server.book.tally(LABELS).succeeded(ONE)
    server.book.tally(LABELS).succeeded(ONE)
    name = f"farthing_{phase}_seconds"
    assert server.value(f"{name}_count") == 2
    assert server.value(f"{name}_sum") == pytest.approx(2 * seconds)
    assert server.value(f"{name}_bucket", le="+Inf") == 2
    for edge in (0.0005, 0.001, 0.002, 0.005, 0.1, 0.2, 0.5, 1.0, 10.0):
        assert server.value(f"{name}_bucket", le=str(edge)) == (2 if seconds <= edge else 0)


def test_edge_stands_exactly_at_the_latency_target() -> None:
    server = Server(target_ms=70)
    for whole_s in (0.07, math.nextafter(0.07, 1.0)):
        phases = Phases(0.0, 0.0, 0.0, 0.0, 0.0, whole_s, rows=1, batch_rows=1)
        server.book.tally(LABELS).succeeded(phases)
    for phase in ("decode", "queue", "assembly", "run", "encode"):
        assert server.value(f"farthing_{phase}_seconds_bucket", le="0.07") == 2
    assert server.value("farthing_request_seconds_bucket", le="0.07") == 1, "0.07 s is in time"
    assert server.value("farthing_request_seconds_bucket", le="+Inf") == 2


def test_target_that_is_an_edge_already_adds_none() -> None:
    with_target, without = Server(target_ms=50), Server()
    for server in (with_target, without):
        server.book.tally(LABELS).succeeded(ONE)
    texts = [
        [line for line in server.metrics.text().decode().splitlines() if "_bucket" in line]
        for server in (with_target, without)
    ]
    assert texts[0] == texts[1] and texts[0]


def test_failure_is_counted_by_status_and_reason_and_is_no_good_answer(server: Server) -> None:
    record = server.book.tally(LABELS)
    record.failed(*statistics.ending(InvalidInput("bad")), 0.001)
    record.failed("CANCELLED", "cancelled", 0.001)
    requests = "farthing_requests_total"
    assert server.value(requests, status="INVALID_ARGUMENT", reason="invalid_input") == 1
    assert server.value(requests, status="CANCELLED", reason="cancelled") == 1
    assert server.value(requests, status="OK", reason="") == 0
    assert server.value("farthing_request_seconds_count") == 0


def test_refused_are_neither_those_who_left_early_nor_those_for_whom_the_model_failed(
    server: Server,
) -> None:
    record = server.book.tally(LABELS)
    for reason in ("overloaded", "overloaded", "invalid_input", "cancelled", "inference_failed"):
        record.failed("ANY", reason, 0.001)
    assert server.value("farthing_refused_total", reason="overloaded") == 2
    assert server.value("farthing_refused_total", reason="invalid_input") == 1
    for reason in ("cancelled", "inference_failed"):
        assert server.value("farthing_refused_total", reason=reason) is None


def test_inference_for_no_model_is_counted_without_the_callers_words(server: Server) -> None:
    server.metrics.stray(ModelNotFound("this server has no model 'callers-own-text'"))
    server.metrics.stray(ModelNotFound("this server has no model 'callers-own-text'"))
    labels = {"status": "NOT_FOUND", "reason": "model_not_found"}
    registry = server.metrics.registry
    assert registry.get_sample_value("farthing_stray_requests_total", labels) == 2
    assert b"callers-own-text" not in server.metrics.text()


def test_batch_sizes_are_those_of_the_runs(server: Server) -> None:
    server.load().tally.executed(8, 0.0, 0.1)
    server.models[0].tally.executed(3, 0.0, 0.1)
    server.book.tally(LABELS).succeeded(ONE)
    assert server.value("farthing_batch_rows_bucket", le="2.0") == 0
    assert server.value("farthing_batch_rows_bucket", le="4.0") == 1
    assert server.value("farthing_batch_rows_bucket", le="8.0") == 2
    assert server.value("farthing_batch_rows_sum") == 11
    assert server.value("farthing_busy_seconds_total") == pytest.approx(0.2)


def test_gauges_are_asked_of_the_live_models_at_each_scrape(server: Server) -> None:
    model = server.load()
    assert server.value("farthing_waiting_rows") == 7
    assert server.value("farthing_waiting_bytes") == 700
    assert server.value("farthing_running") == 1
    assert server.value("farthing_instances") == 2
    assert server.value("farthing_model_load_seconds") == 1.5
    assert server.value("farthing_variant_chosen", how="timed") == 1
    assert server.value("farthing_variant_figure", figure="agreement") == 0.99
    model.batcher.waiting_rows = 0
    assert server.value("farthing_waiting_rows") == 0


def test_readiness_is_asked_at_each_scrape(server: Server) -> None:
    ready = server.metrics.registry.get_sample_value
    assert ready("farthing_ready") == 1
    server.ready = False
    assert ready("farthing_ready") == 0


def test_busy_ratio_is_the_share_of_all_instances(server: Server) -> None:
    server.load()
    server.clock.advance(20)
    server.models[0].tally.executed(1, 1.0, 4.0)
    assert server.value("farthing_busy_ratio") == pytest.approx(0.25)
    assert server.value("farthing_busy_ratio") == pytest.approx(0.25), "a scrape changes nothing"


def test_unloaded_model_keeps_its_counts_and_nothing_else(server: Server) -> None:
    server.load()
    server.book.tally(LABELS).succeeded(ONE)
    server.metrics.text()
    gone = weakref.ref(server.models.pop())
    gc.collect()
    assert gone() is None
    assert server.value("farthing_waiting_rows") is None
    assert server.value("farthing_requests_total", status="OK", reason="") == 1


def test_two_models_with_the_same_labels_are_one_series(server: Server) -> None:
    server.load()
    server.load().load_s = 9.0
    assert server.value("farthing_waiting_rows") == 14
    assert server.value("farthing_model_load_seconds") == 9.0
    lines = server.metrics.text().decode().splitlines()
    series = [line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_tritons_counters_have_tritons_names_labels_and_units(server: Server) -> None:
    server.load().tally.executed(8, 0.003, 0.5)
    server.book.tally(LABELS).succeeded(ONE)
    text = server.metrics.text().decode()
    assert 'nv_inference_request_success{model="digits",version="1"} 1.0' in text
    assert 'nv_inference_count{model="digits",version="1"} 8.0' in text
    assert 'nv_inference_exec_count{model="digits",version="1"} 1.0' in text
    assert 'nv_inference_request_duration_us{model="digits",version="1"} 760000.0' in text
    assert 'nv_inference_queue_duration_us{model="digits",version="1"} 250000.0' in text
    assert 'nv_inference_compute_input_duration_us{model="digits",version="1"} 4000.0' in text
    assert 'nv_inference_compute_infer_duration_us{model="digits",version="1"} 500000.0' in text
    assert 'nv_inference_compute_output_duration_us{model="digits",version="1"} 4000.0' in text
    assert 'nv_inference_pending_request_count{model="digits",version="1"} 3.0' in text
    assert 'nv_model_load_duration_secs{model="digits",version="1"} 1.5' in text


def test_tritons_failures_have_tritons_four_reasons(server: Server) -> None:
    endings = [
        ("RESOURCE_EXHAUSTED", "overloaded"), ("DEADLINE_EXCEEDED", "deadline_exceeded"),
        ("RESOURCE_EXHAUSTED", "calls"), ("RESOURCE_EXHAUSTED", "queue_rows"),
        ("RESOURCE_EXHAUSTED", "queue_bytes"), ("RESOURCE_EXHAUSTED", "queue_requests"),
        ("RESOURCE_EXHAUSTED", "queue_time"),
        ("UNAVAILABLE", "draining"), ("CANCELLED", "cancelled"), ("INTERNAL", "inference_failed"),
        ("INTERNAL", "internal"), ("INVALID_ARGUMENT", "invalid_input"),
    ]  # fmt: skip
    for status, reason in endings:
        server.book.tally(LABELS).failed(status, reason, 0.1)
    expected = {"REJECTED": 8, "CANCELED": 1, "BACKEND": 1, "OTHER": 2}
    name = "nv_inference_request_failure"
    assert {reason: server.triton(name, reason=reason) for reason in expected} == expected


def test_tritons_counters_sum_over_variants(server: Server) -> None:
    for variant in ("fp32", "int8"):
        labels = ("digits", "1", variant)
        server.load(labels)
        server.book.tally(labels).succeeded(ONE)
    assert server.triton("nv_inference_request_success") == 2
    assert server.triton("nv_inference_pending_request_count") == 6
    assert server.value("farthing_requests_total", status="OK", reason="") == 1


def test_model_statistics_agrees_with_the_metrics(server: Server) -> None:
    server.load().tally.executed(8, 0.003, 0.5)
    record = server.book.tally(LABELS)
    record.succeeded(ONE)
    record.failed("INTERNAL", "internal", 0.2)
    total = statistics.by_version(server.book.figures())["digits", "1"]
    stats = statistics.to_proto("digits", "1", total)
    assert stats.inference_count == server.triton("nv_inference_count") == 8
    assert stats.execution_count == server.triton("nv_inference_exec_count") == 1
    inference = stats.inference_stats
    assert inference.success.count == server.triton("nv_inference_request_success") == 1
    assert inference.success.count == server.value("farthing_request_seconds_count")
    assert inference.fail.count == server.triton("nv_inference_request_failure", reason="OTHER")
    assert inference.queue.ns == server.value("farthing_queue_seconds_sum") * 1e9
    assert inference.queue.ns == server.triton("nv_inference_queue_duration_us") * 1000


def test_scrapers_are_told_that_tritons_counters_count(server: Server) -> None:
    server.book.tally(LABELS).succeeded(ONE)
    families = {family.name: family.type for family in parsed(server.metrics.text().decode())}
    assert {name: families[name] for name in TRITON} == dict.fromkeys(TRITON, "counter")
    lines = server.metrics.text().decode().splitlines()
    kinds = [line.split() for line in lines if line.startswith("# TYPE ")]
    assert {name: kind for _, _, name, kind in kinds if name in TRITON} == dict.fromkeys(
        TRITON, "counter"
    )
    assert not [line for line in lines if line.startswith("nv_") and "_total" in line]


def test_strict_parser_takes_the_openmetrics_form_too(server: Server) -> None:
    server.load()
    server.book.tally(LABELS).succeeded(ONE)
    names = {family.name for family in strict(openmetrics(server.metrics.registry).decode())}
    assert names >= TRITON


def test_two_servers_in_one_process_count_apart(server: Server) -> None:
    other = Server()
    other.book.tally(LABELS).succeeded(ONE)
    assert server.value("farthing_request_seconds_count") is None


def test_every_metric_is_farthings_tritons_or_the_processs_and_is_explained(server: Server) -> None:
    server.load()
    families = list(server.metrics.registry.collect())
    assert {family.name.split("_")[0] for family in families} == {"farthing", "nv", "process"}
    assert all(family.documentation for family in families)
    assert len({family.name for family in families}) == len(families)
    assert "process_resident_memory_bytes" in {family.name for family in families}
