"""What is counted of one model, as values that can be added up and that nobody changes any more.

``statistics`` counts, and hands these out; Prometheus and ModelStatistics read them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# model, version and variant
Labels = tuple[str, str, str]
# status and reason
Ending = tuple[str, str]


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        if seconds > 0.0:  # a clock may go backwards
            self.ns += int(seconds * 1e9)

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


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie at each edge or below it, and above the one before.

    Attributes:
        edges: ascending.
        counts: one for each edge, and one for what lies above the last.
        total: of all values.
    """

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = (0,)
    total: float = 0.0

    @classmethod
    def of(cls, edges: tuple[float, ...], values: Iterable[tuple[float, int]]) -> Histogram:
        """The histogram of these values, each with how often it was seen."""
        counts, total = [0] * (len(edges) + 1), 0.0
        for value, times in values:
            counts[bisect_left(edges, value)] += times
            total += value * times
        return cls(edges, tuple(counts), total)

    def __add__(self, other: Histogram) -> Histogram:
        """The sum; one without edges, as by default, adds nothing.

        Raises:
            ValueError: the edges differ.
        """
        if not (self.edges and other.edges):
            return self if self.edges else other
        if self.edges != other.edges:
            raise ValueError("histograms with different edges have no sum")
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(self.edges, counts, self.total + other.total)


@dataclass(slots=True)
class Figures:
    """All that is counted of a model; two can be added up, if they have the same edges.

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
        with_deadline: calls that had one.
        without_deadline: calls that had none.
        late: requests that were answered after their deadline.
        seconds: phase -> of answered requests.
        estimates: what runs took, over what had been expected of them.
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
    with_deadline: int = 0
    without_deadline: int = 0
    late: int = 0
    seconds: dict[str, Histogram] = field(default_factory=dict)
    estimates: Histogram = Histogram()

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            success=self.success + other.success,
            failures=_merged(self.failures, other.failures, Duration()),
            queue=self.queue + other.queue,
            compute=self.compute + other.compute,
            batches=_merged(self.batches, other.batches, Compute()),
            rows=self.rows + other.rows,
            inference_count=self.inference_count + other.inference_count,
            execution_count=self.execution_count + other.execution_count,
            last_inference_ms=max(self.last_inference_ms, other.last_inference_ms),
            busy_s=self.busy_s + other.busy_s,
            with_deadline=self.with_deadline + other.with_deadline,
            without_deadline=self.without_deadline + other.without_deadline,
            late=self.late + other.late,
            seconds=_merged(self.seconds, other.seconds, Histogram()),
            estimates=self.estimates + other.estimates,
        )

    @property
    def fail(self) -> Duration:
        """All requests that were not answered."""
        return sum(self.failures.values(), Duration())


def _merged(one: Mapping[Any, Any], two: Mapping[Any, Any], none: Any) -> dict[Any, Any]:
    return {key: one.get(key, none) + two.get(key, none) for key in (*one, *two)}
