"""What each model has done since the server started: the one book that every figure comes from.

Prometheus and ModelStatistics are two ways to read it, so they cannot disagree. It is written on
the event loop and read from the metrics port's thread too: each tally has a lock of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import Any

from service.errors import ServingError
from service.proto import inference_pb2 as pb

# model, version and variant
Labels = tuple[str, str, str]
Clock = Callable[[], float]
Epoch = Callable[[], int]
# status and reason
Ending = tuple[str, str]

# The busy share is that of the last full seconds; as many are kept as one run may reach back.
_BUSY_S = 10
_KEPT_S = 16


@dataclass(frozen=True)
class Phases:
    """Where one successful inference spent its time.

    Attributes:
        decode_s: from the message to arrays.
        queued_s: from arrival at the queue until an instance took it.
        assembly_s: stacking the rows of the run that it shared.
        run_s: that run.
        encode_s: from arrays to the answer.
        whole_s: all of it, and what lies between.
        rows: of this request.
        batch_rows: of the run that it shared.
    """

    decode_s: float
    queued_s: float
    assembly_s: float
    run_s: float
    encode_s: float
    whole_s: float
    rows: int
    batch_rows: int


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> int:
        """Count one more; its nanoseconds."""
        ns = _ns(seconds)
        self.count += 1
        self.ns += ns
        return ns

    def __add__(self, other: Duration) -> Duration:
        return Duration(self.count + other.count, self.ns + other.ns)


@dataclass(slots=True)
class Compute:
    """What a model's work is made of: input (decoding and assembly), runs, output (encoding)."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def __add__(self, other: Compute) -> Compute:
        return Compute(
            self.input + other.input, self.infer + other.infer, self.output + other.output
        )


@dataclass(slots=True)
class Figures:
    """All that is counted of a model; two can be added up.

    Attributes:
        success: requests that were answered; their whole time.
        failures: status and reason -> requests that ended so.
        queue: of answered requests.
        compute: of answered requests; each bears the whole of the batch that it was in.
        batches: rows -> runs of that size.
        rows: of answered requests.
        inference_count: rows of all runs, also of those whose callers had left.
        execution_count: runs.
        last_inference_ms: since the epoch; 0 if there was none.
        busy_s: seconds that instances were busy, in all.
    """

    success: Duration = field(default_factory=Duration)
    failures: dict[Ending, Duration] = field(default_factory=dict)
    queue: Duration = field(default_factory=Duration)
    compute: Compute = field(default_factory=Compute)
    batches: dict[int, Compute] = field(default_factory=dict)
    rows: int = 0
    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    busy_s: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.success + other.success,
            _merged(self.failures, other.failures, Duration()),
            self.queue + other.queue,
            self.compute + other.compute,
            _merged(self.batches, other.batches, Compute()),
            self.rows + other.rows,
            self.inference_count + other.inference_count,
            self.execution_count + other.execution_count,
            max(self.last_inference_ms, other.last_inference_ms),
            self.busy_s + other.busy_s,
        )

    @property
    def fail(self) -> Duration:
        """All requests that were not answered."""
        return sum(self.failures.values(), Duration())


def epoch_ms() -> int:
    """Now, in milliseconds since the epoch."""
    return int(datetime.now(UTC).timestamp() * 1000)


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

    def __init__(self, clock: Clock = time.monotonic, today_ms: Epoch = epoch_ms) -> None:
        """Start at zero, on a monotonic clock and on one of milliseconds since the epoch."""
        self._clock, self._today_ms = clock, today_ms
        self._lock = Lock()
        self._figures, self._busy = Figures(), _Busy()

    def executed(self, rows: int, assembly_s: float, run_s: float) -> None:
        """Count one run that just ended, whoever still waits for it."""
        figures, ended_s, worked_s = self._figures, self._clock(), assembly_s + run_s
        with self._lock:
            figures.inference_count += rows
            figures.execution_count += 1
            size = figures.batches.setdefault(rows, Compute())
            size.input.add(assembly_s)
            size.infer.add(run_s)
            size.output.add(0.0)
            figures.busy_s += worked_s
            self._busy.add(ended_s, worked_s)

    def succeeded(self, phases: Phases) -> None:
        """Count one answered request."""
        figures = self._figures
        with self._lock:
            parts_ns = figures.queue.add(phases.queued_s)
            parts_ns += figures.compute.input.add(phases.decode_s + phases.assembly_s)
            parts_ns += figures.compute.infer.add(phases.run_s)
            parts_ns += (encode_ns := figures.compute.output.add(phases.encode_s))
            # Clients subtract the parts from the whole, as unsigned numbers.
            figures.success.count += 1
            figures.success.ns += max(_ns(phases.whole_s), parts_ns)
            figures.batches.setdefault(phases.batch_rows, Compute()).output.ns += encode_ns
            figures.rows += phases.rows
            figures.last_inference_ms = self._today_ms()

    def failed(self, status: str, reason: str, whole_s: float) -> None:
        """Count one request that was not answered; ``ending`` gives its status and reason."""
        with self._lock:
            self._figures.failures.setdefault((status, reason), Duration()).add(whole_s)
            self._figures.last_inference_ms = self._today_ms()

    def busy_ratio(self, instances: int) -> float:
        """The share of the last ten seconds that these instances were busy, 0 to 1."""
        with self._lock:
            return min(1.0, self._busy.average(self._clock()) / instances)

    def figures(self) -> Figures:
        """A copy of all figures, as of one moment."""
        with self._lock:
            return self._figures + Figures()


class Book:
    """The tallies of one server, by model, version and variant; those of unloaded models stay."""

    def __init__(self, clock: Clock = time.monotonic, today_ms: Epoch = epoch_ms) -> None:
        """Hold nothing yet; for the clocks see ``Tally``."""
        self._clock, self._today_ms = clock, today_ms
        self._tallies: dict[Labels, Tally] = {}

    def tally(self, labels: Labels) -> Tally:
        """The one tally of these labels; a model that is loaded again goes on with its own."""
        made = self._tallies.get(labels)
        return made or self._tallies.setdefault(labels, Tally(self._clock, self._today_ms))

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


def _ns(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def _merged(one: Mapping[Any, Any], two: Mapping[Any, Any], none: Any) -> dict[Any, Any]:
    return {key: one.get(key, none) + two.get(key, none) for key in (*one, *two)}
