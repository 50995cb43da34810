"""Each inference is counted once, under the status it ended with."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from service.batcher import Answer
from service.errors import InvalidInput, Overloaded
from service.metrics import Metrics

LABELS = ("digits", "1", "fp32")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    model, version, variant = LABELS
    given = {"model": model, "version": version, "variant": variant, **labels}
    return metrics.registry.get_sample_value(name, given)


def test_success_is_counted_as_ok_and_timed(metrics: Metrics) -> None:
    with metrics.request(LABELS):
        pass
    assert value(metrics, "farthing_requests_total", status="OK") == 1
    assert value(metrics, "farthing_request_seconds_count") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("bad"), "INVALID_ARGUMENT"),
        (Overloaded("full", retry_after_ms=1), "RESOURCE_EXHAUSTED"),
        (RuntimeError("a bug"), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
def test_failure_is_counted_once_by_its_status_and_passed_on(
    metrics: Metrics, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)) as passed_on, metrics.request(LABELS):
        raise error
    assert passed_on.value is error
    assert value(metrics, "farthing_requests_total", status=status) == 1
    assert value(metrics, "farthing_requests_total", status="OK") is None
    assert value(metrics, "farthing_request_seconds_count") == 1


def test_answer_records_where_its_time_went(metrics: Metrics) -> None:
    metrics.answered(LABELS, 3, Answer({}, queued_s=0.25, run_s=0.5, batch_rows=8))
    assert value(metrics, "farthing_rows_total") == 3
    assert value(metrics, "farthing_queue_seconds_sum") == 0.25
    assert value(metrics, "farthing_run_seconds_sum") == 0.5
    assert value(metrics, "farthing_batch_rows_sum") == 8
    assert value(metrics, "farthing_batch_rows_bucket", le="4.0") == 0
    assert value(metrics, "farthing_batch_rows_bucket", le="8.0") == 1


def test_gauges_are_read_when_they_are_scraped(metrics: Metrics) -> None:
    waiting = [1]
    metrics.waiting_rows.labels(*LABELS).set_function(lambda: waiting[0])
    assert value(metrics, "farthing_waiting_rows") == 1
    waiting[0] = 5
    assert value(metrics, "farthing_waiting_rows") == 5


def test_two_servers_in_one_process_count_apart(metrics: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    with other.request(LABELS):
        pass
    assert value(metrics, "farthing_request_seconds_count") is None


def test_every_metric_is_farthings_or_the_processs_and_is_explained(metrics: Metrics) -> None:
    families = list(metrics.registry.collect())
    assert {family.name.split("_")[0] for family in families} == {"farthing", "process"}
    assert all(family.documentation for family in families)
