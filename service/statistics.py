"""What each model has done since the server started: the one book that every figure comes from.

Prometheus and ModelStatistics are two ways to read it, so they cannot disagree. It is written on
the event loop and read from the metrics port's thread too: each tally has a lock of its own.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from threading import Lock

from service.errors import ServingError
from service.figures import Compute, Duration, Ending, Figures, Histogram, Labels
from service.gpuwatch import Seen
from service.ledger import Ledger
from service.phases import SECONDS, Answered, Phases
from service.proto import inference_pb2 as pb

Clock = Callable[[], float]
Epoch = Callable[[], int]

# Of what a run took, over what was expected of it: fine around 1, where estimates ought to be.
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
# The busy share is that of the last full seconds; as many are kept as one run may reach back.
_BUSY_S = 10
_KEPT_S = 16


def epoch_ms() -> int:
    """Now, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


_snake = cache(lambda name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())


def ending(error: BaseException) -> Ending:
    """The gRPC status and the reason to count an inference under that ended with this.

    A reason is the error class's name, or what was full, so there are few.
    """
    if isinstance(error, ServingError):
        return error.status, getattr(error, "reason", "") or _snake(type(error).__name__)
    # What is no Exception is a cancellation: the caller left.
    return ("INTERNAL", "internal") if isinstance(error, Exception) else ("CANCELLED", "cancelled")


class _Busy:
    """Seconds of work in each of the last seconds; who reads it, and when, changes nothing."""

    def __init__(self) -> None:
        self._seconds = [(0, 0.0)] * _KEPT_S

    def add(self, ended_s: float, worked_s: float) -> None:
        """Spread work that ended now over the seconds in which it was done."""
        start = max(ended_s - worked_s, ended_s - _BUSY_S - 1)
        while start < ended_s:
            second = int(start)
            stop = min(second + 1, ended_s)
            of, before = self._seconds[second % _KEPT_S]
            worked = stop - start + (before if of == second else 0.0)
            self._seconds[second % _KEPT_S] = (second, worked)
            start = stop

    def average(self, now_s: float) -> float:
        """Work done per second in the last full seconds: 1.0 is one instance, always busy."""
        first = int(now_s) - _BUSY_S
        return sum(work for of, work in self._seconds if first <= of < first + _BUSY_S) / _BUSY_S


class Tally:
    """The figures of one model's version in one variant."""

    def __init__(
        self,
        clock: Clock = time.monotonic,
        today_ms: Epoch = epoch_ms,
        *,
        edges_s: tuple[float, ...] = SECONDS,
    ) -> None:
        """Start at zero.

        Args:
            clock: monotonic seconds.
            today_ms: milliseconds since the epoch.
            edges_s: of the histograms of the phases.
        """
        self._clock, self._today_ms = clock, today_ms
        self._lock = Lock()
        # All but the answered requests, and the ratios.
        self._figures, self._busy, self._answered = Figures(), _Busy(), Answered(edges_s)
        self._ratios, self._ratio_sum = [0] * (len(RATIOS) + 1), 0.0

    def called(self, has_deadline: bool) -> None:
        """Count one call, whatever becomes of it; by one thread only, so that it needs no lock."""
        if has_deadline:
            self._figures.with_deadline += 1
        else:
            self._figures.without_deadline += 1

    def executed(
        self,
        rows: int,
        assembly_s: float,
        run_s: float,
        expected_s: float = 0.0,
        actual_s: float = 0.0,
    ) -> None:
        """Count one run that just ended, whoever still waits for it.

        Args:
            rows: it had.
            assembly_s: stacking them.
            run_s: running the model.
            expected_s: what the scheduler thought that it would take; 0 if it had no idea.
            actual_s: what it took, of which that was thought: from when an instance took the rows
                until they were answered.
        """
        figures, ended_s, worked_s = self._figures, self._clock(), assembly_s + run_s
        with self._lock:
            figures.inference_count += rows
            figures.execution_count += 1
            size = figures.batches.get(rows)
            if size is None:
                size = figures.batches[rows] = Compute()
            size.input.add(assembly_s)
            size.infer.add(run_s)
            size.output.count += 1
            figures.busy_s += worked_s
            self._busy.add(ended_s, worked_s)
            if expected_s > 0.0:
                ratio = actual_s / expected_s
                self._ratios[bisect_left(RATIOS, ratio)] += 1
                self._ratio_sum += ratio

    def succeeded(self, phases: Phases, late: bool = False) -> None:
        """Count one answered request, and whether its answer came after its deadline."""
        figures = self._figures
        with self._lock:
            encode_ns = self._answered.add(phases)
            size = figures.batches.get(phases.batch_rows)
            if size is None:
                size = figures.batches[phases.batch_rows] = Compute()
            size.output.ns += encode_ns
            figures.last_inference_ms = self._today_ms()
            if late:
                figures.late += 1

    def failed(self, status: str, reason: str, whole_s: float) -> None:
        """Count one request that was not answered; ``ending`` gives its status and reason.

        No histogram shows it: a fast refusal is no good answer.
        """
        with self._lock:
            failure = self._figures.failures.get((status, reason))
            if failure is None:
                failure = self._figures.failures[status, reason] = Duration()
            failure.add(whole_s)
            self._figures.last_inference_ms = self._today_ms()

    def busy_ratio(self, instances: int) -> float:
        """The share of the last ten seconds that these instances were busy, 0 to 1."""
        with self._lock:
            return min(1.0, self._busy.average(self._clock()) / instances)

    def figures(self) -> Figures:
        """A copy of all figures, as of one moment."""
        with self._lock:
            copy = self._figures + self._answered.figures()
            copy.estimates = Histogram(RATIOS, tuple(self._ratios), self._ratio_sum)
            return copy


class Book:
    """The tallies of one server, by model, version and variant; those of unloaded models stay.

    Attributes:
        ledger: where its core-seconds go.
        gpus: what is seen of its GPUs.
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        today_ms: Epoch = epoch_ms,
        *,
        target_s: float = 0.0,
        ledger: Ledger | None = None,
        gpus: Callable[[], Sequence[Seen]] = tuple,
    ) -> None:
        """Hold nothing yet; for the clocks see ``Tally``.

        Args:
            clock: monotonic seconds.
            today_ms: milliseconds since the epoch.
            target_s: the server's latency target, which becomes an edge of the histograms; 0 is
                none. A model's own does not: histograms with other edges cannot be added up.
            ledger: of the process; None for one of a single core.
            gpus: asked at each scrape, on any thread; it must not wait for a driver.
        """
        self.ledger, self.gpus = ledger or Ledger(cores=1.0, clock=clock), gpus
        self._clock, self._today_ms = clock, today_ms
        self._edges_s = tuple(sorted({*SECONDS, target_s} - {0.0}))
        self._tallies: dict[Labels, Tally] = {}

    def tally(self, labels: Labels) -> Tally:
        """The one tally of these labels; a model that is loaded again goes on with its own."""
        made = self._tallies.get(labels)
        if made is None:
            new = Tally(self._clock, self._today_ms, edges_s=self._edges_s)
            made = self._tallies.setdefault(labels, new)
        return made

    def figures(self) -> dict[Labels, Figures]:
        """The figures of every tally."""
        return {labels: tally.figures() for labels, tally in list(self._tallies.items())}


def by_version(figures: Mapping[Labels, Figures]) -> dict[tuple[str, str], Figures]:
    """Model and version -> the sum over its variants, as Triton counts."""
    totals: dict[tuple[str, str], Figures] = {}
    for (name, version, _), some in figures.items():
        totals[name, version] = totals.get((name, version), Figures()) + some
    return totals


def to_proto(name: str, version: str, figures: Figures) -> pb.ModelStatistics:
    """One model's part of the answer to ModelStatistics."""
    answer = pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=figures.last_inference_ms,
        inference_count=figures.inference_count,
        execution_count=figures.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(figures.success),
            fail=_duration(figures.fail),
            queue=_duration(figures.queue),
            **_compute(figures.compute),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, **_compute(compute))
            for rows, compute in sorted(figures.batches.items())
        ],
    )
    return answer


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)


def _compute(compute: Compute) -> dict[str, pb.StatisticDuration]:
    return {
        "compute_input": _duration(compute.input),
        "compute_infer": _duration(compute.infer),
        "compute_output": _duration(compute.output),
    }
