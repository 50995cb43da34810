"""Pure: what a batch may hold, several callers' rows through one run, and each caller's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.errors import InferenceFailed

Arrays = dict[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Answer:
    """What one caller gets.

    Attributes:
        outputs: output name -> array with this caller's rows.
        queued_s: seconds from arrival until an instance took it.
        assembly_s: seconds of stacking the callers' rows.
        run_s: seconds of the run it shared.
        batch_rows: rows in that run.
    """

    outputs: Arrays
    queued_s: float
    assembly_s: float
    run_s: float
    batch_rows: int


@dataclass(frozen=True)
class QueuePolicy:
    """What may wait on one priority level.

    Attributes:
        timeout_s: how long a request may wait for its run; None for as long as its caller does.
        max_requests: how many may wait; 0 for no bound of its own.
    """

    timeout_s: float | None = None
    max_requests: int = 0


@dataclass(frozen=True)
class Limits:
    """How much a batcher takes on.

    Attributes:
        max_rows: rows in one run.
        max_queue_rows: rows that may wait.
        max_queue_bytes: bytes of tensors that may wait.
        instances: runs at the same time.
        batched: False for a model without a batch dimension: each request runs alone.
        priority_levels: 0 for none; otherwise callers may ask for 1 (first) to this.
        default_priority: of callers who ask for none.
        default_policy: of the levels that are not in ``policies``.
        policies: priority level -> what may wait there.
    """

    max_rows: int
    max_queue_rows: int
    max_queue_bytes: int = 2**40
    instances: int = 1
    batched: bool = True
    priority_levels: int = 0
    default_priority: int = 0
    default_policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)

    def policy(self, priority: int) -> QueuePolicy:
        """The queue policy of one priority level."""
        return self.policies.get(priority, self.default_policy)


@dataclass(frozen=True)
class Ran:
    """One run, taken apart again.

    Attributes:
        parts: the outputs of each caller.
        assembly_s: seconds of stacking the callers' rows.
        run_s: seconds of the model's run.
    """

    parts: list[Arrays]
    assembly_s: float
    run_s: float


def shapes(feeds: Arrays) -> tuple[Any, ...]:
    """What rows must have in common to share a run: everything but their number."""
    return tuple((name, array.shape[1:]) for name, array in sorted(feeds.items()))


def run_together(
    run: Run, parts: Sequence[Arrays], counts: Sequence[int], clock: Callable[[], float]
) -> Ran:
    """Stack, run and split; no copy for a single part, one gather for more.

    Args:
        run: arrays in, arrays out.
        parts: feeds of each caller, equal in ``shapes``.
        counts: rows of each caller.
        clock: monotonic seconds.

    Returns:
        The outputs of each caller, as views of the run's.

    Raises:
        InferenceFailed: the outputs do not have one row for each row.
    """
    started = clock()
    feeds = parts[0]
    if len(parts) > 1:
        feeds = {name: np.concatenate([part[name] for part in parts]) for name in feeds}
    assembled = clock()
    outputs = run(feeds)
    ended = clock()
    total = sum(counts)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise InferenceFailed(
                f"the model answered {total} rows with an output '{name}' of shape "
                f"{list(array.shape)}; it cannot be served in batches"
            )
    stops = np.cumsum(counts)
    split = [
        {name: array[stop - count : stop] for name, array in outputs.items()}
        for count, stop in zip(counts, stops, strict=True)
    ]
    return Ran(split, assembled - started, ended - assembled)


def run_alone(run: Run, feeds: Arrays, clock: Callable[[], float]) -> Ran:
    """Run one caller's feeds as they are, for a model without a batch dimension."""
    started = clock()
    outputs = run(feeds)
    return Ran([outputs], 0.0, clock() - started)
