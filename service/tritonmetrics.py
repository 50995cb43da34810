"""Triton's own metrics, under Triton's names, for dashboards that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

from service.figures import Figures

if TYPE_CHECKING:
    from service.model import Model

# Model and version: Triton knows no variants.
Version = tuple[str, str]
_LABELS = ("model", "version")
# Refused for load, time, or a drain: Triton's reason REJECTED of nv_inference_request_failure.
REJECTED = (
    "calls", "deadline_exceeded", "draining", "overloaded", "queue_bytes", "queue_requests",
    "queue_rows", "queue_time",
)  # fmt: skip
# What is not here is OTHER.
_REASONS = {
    "cancelled": "CANCELED", "inference_failed": "BACKEND", **dict.fromkeys(REJECTED, "REJECTED"),
}  # fmt: skip
# Names and units are Triton's, and so is the missing _total.
_COUNTERS: dict[str, tuple[str, Callable[[Figures], float]]] = {
    "nv_inference_request_success": ("Answered requests.", lambda f: f.success.count),
    "nv_inference_count": ("Rows of all runs.", lambda f: f.inference_count),
    "nv_inference_exec_count": ("Runs.", lambda f: f.execution_count),
    "nv_inference_request_duration_us": (
        "Whole time of answered requests.", lambda f: f.success.ns // 1000,
    ),
    "nv_inference_queue_duration_us": ("Their time in the queue.", lambda f: f.queue.ns // 1000),
    "nv_inference_compute_input_duration_us": (
        "Their time of decoding and assembly.", lambda f: f.compute.input.ns // 1000,
    ),
    "nv_inference_compute_infer_duration_us": (
        "The time of the runs that they shared.", lambda f: f.compute.infer.ns // 1000,
    ),
    "nv_inference_compute_output_duration_us": (
        "Their time of encoding.", lambda f: f.compute.output.ns // 1000,
    ),
}  # fmt: skip


def counters(totals: Mapping[Version, Figures]) -> Iterator[Metric]:
    """What was done, by model and version; the library writes them as of no type."""
    for name, (text, value) in _COUNTERS.items():
        counter = UnknownMetricFamily(name, text, labels=_LABELS)
        for labels, of in totals.items():
            counter.add_metric(labels, value(of))
        yield counter
    failures = UnknownMetricFamily(
        "nv_inference_request_failure", "Requests that failed.", labels=(*_LABELS, "reason")
    )
    for labels, of in totals.items():
        reasons = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
        for (_, reason), total in of.failures.items():
            reasons[_REASONS.get(reason, "OTHER")] += total.count
        for reason, count in reasons.items():
            failures.add_metric((*labels, reason), count)
    yield failures


def gauges(live: Mapping[Version, Sequence[Model]]) -> Iterator[Metric]:
    """What the live models are doing now, by model and version."""
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "In the queue.", labels=_LABELS
    )
    load = GaugeMetricFamily("nv_model_load_duration_secs", "Loading took.", labels=_LABELS)
    for labels, same in live.items():
        pending.add_metric(labels, sum(m.batcher.waiting_requests for m in same))
        load.add_metric(labels, same[-1].load_s)
    yield from (pending, load)
