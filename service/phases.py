"""Where an inference spent its time, and the times of all that were answered."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from service.figures import Compute, Duration, Figures, Histogram

# The edges of the phases' histograms.
SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
# As metrics name them.
PHASES = ("decode", "queue", "assembly", "run", "encode", "request")


@dataclass(slots=True)  # not frozen: that would take three times as long, for every request
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


class Answered:
    """The times of answered requests; every request passes here, on the thread of all calls."""

    def __init__(self, edges_s: tuple[float, ...]) -> None:
        """Start at zero, with these edges for the histogram of each phase."""
        self._edges_s = edges_s
        self._counts = tuple([0] * (len(edges_s) + 1) for _ in PHASES)
        self._ns = [0] * len(PHASES)
        self._count = self._rows = self._told_ns = 0

    def add(self, phases: Phases) -> int:
        """Count one more; the nanoseconds of its encoding."""
        edges_s, ns, spent = self._edges_s, self._ns, []
        seconds = (
            phases.decode_s, phases.queued_s, phases.assembly_s, phases.run_s, phases.encode_s,
            phases.whole_s,
        )  # fmt: skip
        for counts, phase_s in zip(self._counts, seconds, strict=True):
            counts[bisect_left(edges_s, phase_s)] += 1
            spent.append(int(phase_s * 1e9) if phase_s > 0.0 else 0)  # a clock may go backwards
        decode_ns, queue_ns, assembly_ns, run_ns, encode_ns, whole_ns = spent
        ns[0] += decode_ns
        ns[1] += queue_ns
        ns[2] += assembly_ns
        ns[3] += run_ns
        ns[4] += encode_ns
        ns[5] += whole_ns
        # Clients subtract the parts from the whole, as unsigned numbers.
        parts_ns = decode_ns + queue_ns + assembly_ns + run_ns + encode_ns
        self._told_ns += whole_ns if whole_ns > parts_ns else parts_ns
        self._count += 1
        self._rows += phases.rows
        return encode_ns

    def figures(self) -> Figures:
        """A copy."""
        count, (decode_ns, queue_ns, assembly_ns, run_ns, encode_ns, _) = self._count, self._ns
        return Figures(
            success=Duration(count, self._told_ns),
            queue=Duration(count, queue_ns),
            compute=Compute(
                Duration(count, decode_ns + assembly_ns),
                Duration(count, run_ns),
                Duration(count, encode_ns),
            ),
            rows=self._rows,
            seconds={
                phase: Histogram(self._edges_s, tuple(counts), ns / 1e9)
                for phase, counts, ns in zip(PHASES, self._counts, self._ns, strict=True)
            },
        )
