"""Every metric, declared once, on a registry that is passed in.

Nothing is counted here but the histograms' edges: requests and times are the book's
(statistics.py), and what a model is doing now is asked of it when someone scrapes. So unloaded
models are not held, and ModelStatistics and Prometheus agree.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.utils import floatToGoString

from service import statistics
from service.statistics import Book, Figures, Labels, Phases, Tally

if TYPE_CHECKING:
    from service.model import Model

_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MODEL = ("model", "version", "variant")
_PHASES = {
    "decode": "From the message to arrays.",
    "queue": "From arrival to the start of the run.",
    "assembly": "Stacking the rows of the run that a request shared.",
    "run": "The run that a request shared.",
    "encode": "From arrays to the answer.",
    "request": "The whole of an answered inference.",
}
# Reasons for which the server refused nothing: the caller left, or the model was tried.
_NOT_REFUSED = ("cancelled", "inference_failed", "internal")
# Triton's reasons of nv_inference_request_failure; what is not here is OTHER.
_REJECTED = (
    "deadline_exceeded", "draining", "overloaded", "queue_bytes", "queue_requests", "queue_rows",
    "queue_time",
)  # fmt: skip
_TRITON_REASONS = {
    "cancelled": "CANCELED", "inference_failed": "BACKEND", **dict.fromkeys(_REJECTED, "REJECTED"),
}  # fmt: skip
# Names and units are Triton's, and so is the missing _total: dashboards ask for them.
_TRITON: dict[str, tuple[str, Callable[[Figures], float]]] = {
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


# live models with the same labels: there are two while one replaces the other
Same = list["Model"]
_GAUGES: dict[str, tuple[str, Callable[[Same], float]]] = {
    "farthing_waiting_rows": (
        "Rows in the queue now.", lambda same: sum(m.batcher.waiting_rows for m in same),
    ),
    "farthing_waiting_bytes": (
        "Bytes in the queue now.", lambda same: sum(m.batcher.waiting_bytes for m in same),
    ),
    "farthing_running": (
        "Instances that are busy now.", lambda same: sum(m.batcher.running for m in same),
    ),
    "farthing_instances": ("Runs at the same time.", lambda same: sum(m.instances for m in same)),
    "farthing_busy_ratio": (
        "Share of the last 10 s that the instances were busy, 0 to 1.",
        lambda same: same[-1].tally.busy_ratio(sum(m.instances for m in same)),
    ),
    "farthing_model_load_seconds": ("What loading took.", lambda same: same[-1].load_s),
}  # fmt: skip


class _Histogram:
    """How many values lie below each edge; far cheaper than the client library's."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges, self._counts, self._sum = edges, [0] * (len(edges) + 1), 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._edges, value)] += times
        self._sum += value * times

    def write(self, family: HistogramMetricFamily, labels: Labels) -> None:
        names = [*map(floatToGoString, self._edges), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, sum_value=self._sum)


class Record:
    """Where the inferences of one model, version and variant are written down, each once."""

    def __init__(self, tally: Tally, edges_s: tuple[float, ...]) -> None:
        """Write to this tally, and to histograms with these edges."""
        self._tally, self._lock = tally, Lock()
        self._seconds = {phase: _Histogram(edges_s) for phase in _PHASES}

    def succeeded(self, phases: Phases) -> None:
        """Write down one answered inference."""
        seconds = self._seconds
        with self._lock:
            seconds["decode"].add(phases.decode_s)
            seconds["queue"].add(phases.queued_s)
            seconds["assembly"].add(phases.assembly_s)
            seconds["run"].add(phases.run_s)
            seconds["encode"].add(phases.encode_s)
            seconds["request"].add(phases.whole_s)
        self._tally.succeeded(phases)

    def failed(self, status: str, reason: str, whole_s: float) -> None:
        """Write down one that was not answered; for status and reason see ``ending``.

        No histogram shows it: a fast refusal is no good answer.
        """
        self._tally.failed(status, reason, whole_s)

    def write(self, families: Mapping[str, HistogramMetricFamily], labels: Labels) -> None:
        """Add the histograms of all phases to their families."""
        with self._lock:
            for phase, family in families.items():
                self._seconds[phase].write(family, labels)


class Metrics:
    """What Prometheus sees; labels are model, version and variant, never a caller's own text."""

    def __init__(
        self,
        registry: CollectorRegistry,
        book: Book,
        *,
        models: Callable[[], Iterable[Model]],
        target_ms: float = 0.0,
    ) -> None:
        """Register all metrics.

        Args:
            registry: where.
            book: what was counted.
            models: the live models. It is called from the metrics port's thread while models come
                and go, so it must hand out a snapshot.
            target_ms: the latency target, which becomes an edge of the histograms; 0 is none.
        """
        self.registry = registry
        self._book, self._models = book, models
        self._edges_s = tuple(sorted({*_SECONDS, target_ms / 1000} - {0.0}))
        self._records: dict[Labels, Record] = {}
        self._stray: dict[statistics.Ending, int] = {}
        ProcessCollector(registry=registry)
        registry.register(self)

    def record(self, labels: Labels) -> Record:
        """Where to write down the inferences of these labels."""
        if labels not in self._records:
            self._records[labels] = Record(self._book.tally(labels), self._edges_s)
        return self._records[labels]

    def stray(self, error: BaseException) -> None:
        """Count an inference that was refused before its model was known."""
        ending = statistics.ending(error)
        self._stray[ending] = self._stray.get(ending, 0) + 1

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, 0.0.4."""
        # The client library writes no counter without _total.
        untyped = rb"(?m)^(# TYPE nv_\w+) untyped$"
        return re.sub(untyped, rb"\1 counter", generate_latest(self.registry))

    def collect(self) -> Iterator[Metric]:
        """All metrics but the process's; called by the registry."""
        figures = self._book.figures()
        models: dict[Labels, Same] = defaultdict(list)
        for model in self._models():
            models[model.labels].append(model)
        yield from _counters(figures)
        yield from self._histograms(figures)
        yield from _gauges(models)
        yield from _triton(statistics.by_version(figures), models)
        stray = CounterMetricFamily(
            "farthing_stray_requests", "Refused for no model.", labels=("status", "reason")
        )
        for ending, count in list(self._stray.items()):
            stray.add_metric(ending, count)
        yield stray

    def _histograms(self, figures: Mapping[Labels, Figures]) -> Iterator[Metric]:
        families = {
            phase: HistogramMetricFamily(f"farthing_{phase}_seconds", text, labels=_MODEL)
            for phase, text in _PHASES.items()
        }
        for labels, record in list(self._records.items()):
            record.write(families, labels)
        yield from families.values()
        rows = HistogramMetricFamily("farthing_batch_rows", "Rows of each run.", labels=_MODEL)
        for labels, of in figures.items():
            histogram = _Histogram(_ROWS)
            for size, compute in of.batches.items():
                histogram.add(size, compute.infer.count)
            histogram.write(rows, labels)
        yield rows


def _counters(figures: Mapping[Labels, Figures]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "farthing_requests", "Inferences, by how they ended.", labels=(*_MODEL, "status", "reason")
    )
    refused = CounterMetricFamily(
        "farthing_refused", "Inferences that no model was tried for.", labels=(*_MODEL, "reason")
    )
    rows = CounterMetricFamily("farthing_rows", "Rows of answered inferences.", labels=_MODEL)
    busy = CounterMetricFamily(
        "farthing_busy_seconds", "Seconds that instances were busy.", labels=_MODEL
    )
    for labels, of in figures.items():
        requests.add_metric((*labels, "OK", ""), of.success.count)
        for (status, reason), total in of.failures.items():
            requests.add_metric((*labels, status, reason), total.count)
            if reason not in _NOT_REFUSED:
                refused.add_metric((*labels, reason), total.count)
        rows.add_metric(labels, of.rows)
        busy.add_metric(labels, of.busy_s)
    yield from (requests, refused, rows, busy)


def _gauges(models: Mapping[Labels, Same]) -> Iterator[Metric]:
    for name, (text, value) in _GAUGES.items():
        family = GaugeMetricFamily(name, text, labels=_MODEL)
        for labels, same in models.items():
            family.add_metric(labels, value(same))
        yield family
    chosen = GaugeMetricFamily(
        "farthing_variant_chosen", "1 for the variant served.", labels=(*_MODEL, "how")
    )
    measured = GaugeMetricFamily(
        "farthing_variant_figure", "What the converter measured of it.", labels=(*_MODEL, "figure")
    )
    for labels, same in models.items():
        chosen.add_metric((*labels, same[-1].chosen.how), 1)
        for figure, number in {**same[-1].variant.figures, **same[-1].chosen.figures}.items():
            measured.add_metric((*labels, figure), number)
    yield from (chosen, measured)


def _triton(
    totals: Mapping[tuple[str, str], Figures], models: Mapping[Labels, Same]
) -> Iterator[Metric]:
    of_two = _MODEL[:2]
    for name, (text, value) in _TRITON.items():
        counter = UnknownMetricFamily(name, text, labels=of_two)
        for labels, of in totals.items():
            counter.add_metric(labels, value(of))
        yield counter
    failures = UnknownMetricFamily(
        "nv_inference_request_failure", "Requests that failed.", labels=(*of_two, "reason")
    )
    for labels, of in totals.items():
        reasons = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
        for (_, reason), total in of.failures.items():
            reasons[_TRITON_REASONS.get(reason, "OTHER")] += total.count
        for reason, count in reasons.items():
            failures.add_metric((*labels, reason), count)
    yield failures
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "In the queue.", labels=of_two
    )
    load = GaugeMetricFamily("nv_model_load_duration_secs", "Loading took.", labels=of_two)
    by_version: dict[tuple[str, str], Same] = defaultdict(list)
    for (name, version, _), same in models.items():
        by_version[name, version] += same
    for labels, same in by_version.items():
        pending.add_metric(labels, sum(m.batcher.waiting_requests for m in same))
        load.add_metric(labels, same[-1].load_s)
    yield from (pending, load)
