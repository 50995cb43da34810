"""Pure: what ModelStatistics tells of a stretch of time; farthing and Triton have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.proto import inference_pb2 as pb

_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


def sizes(
    before: Sequence[pb.ModelStatistics], after: Sequence[pb.ModelStatistics]
) -> dict[int, tuple[int, float]]:
    """Rows of a run -> how many there were in that time, and their mean seconds.

    Args:
        before: of each replica; empty where the server tells nothing.
        after: of the same, later.
    """
    counts, seconds = Counter[int](), Counter[int]()
    for sign, replicas in ((-1, before), (1, after)):
        for replica in replicas:
            for size in replica.batch_stats:
                whole = (size.compute_input.ns, size.compute_infer.ns, size.compute_output.ns)
                counts[size.batch_size] += sign * size.compute_infer.count
                seconds[size.batch_size] += sign * sum(whole)
    return {
        rows: (count, seconds[rows] / 1e9 / count) for rows, count in counts.items() if count > 0
    }


def phases(
    before: Sequence[pb.ModelStatistics], after: Sequence[pb.ModelStatistics]
) -> dict[str, float] | None:
    """Phase, as the protocol names it -> mean seconds of what was answered in that time."""
    counts, seconds = Counter[str](), Counter[str]()
    for sign, replicas in ((-1, before), (1, after)):
        for replica in replicas:
            for phase in _PHASES:
                duration = getattr(replica.inference_stats, phase)
                counts[phase] += sign * duration.count
                seconds[phase] += sign * duration.ns
    found = {phase: seconds[phase] / 1e9 / counts[phase] for phase in _PHASES if counts[phase] > 0}
    return found or None
