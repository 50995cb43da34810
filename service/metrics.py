"""Every metric, declared once, on a registry that is passed in.

Nothing is counted here but the calls for no model: all else is the book's (statistics.py), and
what a model is doing now is asked of it when someone scrapes. So unloaded models are not held, and
ModelStatistics and Prometheus agree.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from service import costs, gpumetrics, statistics, tritonmetrics
from service.figures import Ending, Figures, Histogram, Labels
from service.statistics import Book

if TYPE_CHECKING:
    from service.model import Model

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
# Reasons for which the server refused nothing: the caller left early, or the model failed.
_NOT_REFUSED = ("cancelled", "inference_failed", "internal")
# What is no fault of the server, so that goodput leaves it out: the caller left before his time was
# up, or asked for what nobody can answer.
_CALLERS_FAULT = ("cancelled", "invalid_input", "unsupported")
# live models with the same labels: there are two while one replaces the other
Same = list["Model"]
_COUNTERS: dict[str, tuple[str, Callable[[Figures], float]]] = {
    "farthing_rows": ("Rows of answered inferences.", lambda f: f.rows),
    "farthing_busy_seconds": ("Seconds that instances were busy.", lambda f: f.busy_s),
    "farthing_late_answers": (
        "Answered inferences that were finished after their deadline.", lambda f: f.late,
    ),
}  # fmt: skip
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
    "farthing_predicted_wait_seconds": (
        "Until a call of one row would be run that came now, behind all that waits, by the "
        "scheduler's estimates.",
        lambda same: same[-1].batcher.wait_s,
    ),
}  # fmt: skip


class Metrics:
    """What Prometheus sees; labels are model, version and variant, never a caller's own text."""

    def __init__(
        self,
        registry: CollectorRegistry,
        book: Book,
        *,
        models: Callable[[], Iterable[Model]],
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Register all metrics.

        Args:
            registry: where.
            book: what was counted.
            models: the live models. It is called from the metrics port's thread while models come
                and go, so it must hand out a snapshot.
            ready: whether the server takes calls: what health says of it; called likewise.
        """
        self.registry = registry
        self._book, self._models, self._ready = book, models, ready
        self._stray: dict[Ending, int] = {}
        ProcessCollector(registry=registry)
        registry.register(self)

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
        by_version: dict[tuple[str, str], Same] = defaultdict(list)
        for model in self._models():
            models[model.labels].append(model)
            by_version[model.labels[:2]].append(model)
        yield GaugeMetricFamily(
            "farthing_ready",
            "1 while the server takes calls, as its health says; 0 before that and once it leaves.",
            value=float(self._ready()),
        )
        yield from _counters(figures)
        yield from costs.metrics(self._book.ledger.read(), self._book.ledger.price)
        yield from gpumetrics.metrics(self._book.gpus())
        yield from _histograms(figures)
        yield from _gauges(models)
        yield from tritonmetrics.counters(statistics.by_version(figures))
        yield from tritonmetrics.gauges(by_version)
        stray = CounterMetricFamily(
            "farthing_stray_requests", "Refused for no model.", labels=("status", "reason")
        )
        for ending, count in list(self._stray.items()):
            stray.add_metric(ending, count)
        yield stray


def _counters(figures: Mapping[Labels, Figures]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "farthing_requests", "Inferences, by how they ended.", labels=(*_MODEL, "status", "reason")
    )
    refused = CounterMetricFamily(
        "farthing_refused",
        "Inferences that were refused, or whose time was up first (deadline_exceeded): those may "
        "have waited or run by then, and their callers may have left.",
        labels=(*_MODEL, "reason"),
    )
    calls = CounterMetricFamily(
        "farthing_calls",
        "Inferences that came for a known model, by whether they had a deadline: gRPC's, the "
        "parameter timeout's or the latency target's. Those without wait behind those with one.",
        labels=(*_MODEL, "deadline"),
    )
    judged = CounterMetricFamily(
        "farthing_goodput_requests",
        "Inferences by whether they were good: answered in time. Those that ended by the caller's "
        f"own fault count as neither: {', '.join(_CALLERS_FAULT)}.",
        labels=(*_MODEL, "good"),
    )
    simple = [
        CounterMetricFamily(name, text, labels=_MODEL) for name, (text, _) in _COUNTERS.items()
    ]
    for labels, of in figures.items():
        requests.add_metric((*labels, "OK", ""), of.success.count)
        # From zero on: a rate does not see how a series begins.
        refusals = dict.fromkeys(tritonmetrics.REJECTED, 0)
        bad = of.late
        for (status, reason), total in of.failures.items():
            requests.add_metric((*labels, status, reason), total.count)
            if reason not in _NOT_REFUSED:
                refusals[reason] = refusals.get(reason, 0) + total.count
            if reason not in _CALLERS_FAULT:
                bad += total.count
        for reason, count in refusals.items():
            refused.add_metric((*labels, reason), count)
        judged.add_metric((*labels, "true"), of.success.count - of.late)
        judged.add_metric((*labels, "false"), bad)
        calls.add_metric((*labels, "given"), of.with_deadline)
        calls.add_metric((*labels, "none"), of.without_deadline)
        for counter, (_, value) in zip(simple, _COUNTERS.values(), strict=True):
            counter.add_metric(labels, value(of))
    yield from (requests, refused, judged, calls, *simple)


def _histograms(figures: Mapping[Labels, Figures]) -> Iterator[Metric]:
    for phase, text in _PHASES.items():
        family = HistogramMetricFamily(f"farthing_{phase}_seconds", text, labels=_MODEL)
        for labels, of in figures.items():
            _write(family, labels, of.seconds[phase])
        yield family
    rows = HistogramMetricFamily("farthing_batch_rows", "Rows of each run.", labels=_MODEL)
    ratios = HistogramMetricFamily(
        "farthing_run_estimate_ratio",
        "Seconds of each run over what the scheduler expected at most: above 1 it admits calls "
        "that will be late, far below 1 it refuses calls that would be in time.",
        labels=_MODEL,
    )
    for labels, of in figures.items():
        sizes = ((size, compute.infer.count) for size, compute in of.batches.items())
        _write(rows, labels, Histogram.of(_ROWS, sizes))
        _write(ratios, labels, of.estimates)
    yield from (rows, ratios)


def _write(family: HistogramMetricFamily, labels: Labels, histogram: Histogram) -> None:
    names = [*map(floatToGoString, histogram.edges), "+Inf"]
    buckets = list(zip(names, accumulate(histogram.counts), strict=True))
    family.add_metric(labels, buckets, sum_value=histogram.total)


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
        "farthing_variant_figure",
        "What convert or tune measured of it.",
        labels=(*_MODEL, "figure"),
    )
    target = GaugeMetricFamily(
        "farthing_latency_target_seconds",
        "After which an answer is worthless, of models that have such a target.",
        labels=_MODEL,
    )
    for labels, same in models.items():
        if same[-1].target_s is not None:
            target.add_metric(labels, same[-1].target_s)
        chosen.add_metric((*labels, same[-1].chosen.how), 1)
        for figure, number in {**same[-1].variant.figures, **same[-1].chosen.figures}.items():
            measured.add_metric((*labels, figure), number)
    yield from (chosen, measured, target)
