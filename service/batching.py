"""Pure: what a batch may hold, several callers' rows through one run, and each caller's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from service.errors import InferenceFailed

# Each of them is queued and forgotten by itself.
_MOST_PARTS = 1024

Arrays = dict[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays], Arrays]
# several callers' feeds, equal in ``shapes``, as one run takes them
Stack = Callable[[Sequence[Arrays]], Arrays]


@dataclass(slots=True)  # not frozen: that takes three times as long, for every request
class Answer:
    """What one caller gets.

    Attributes:
        outputs: output name -> array with this caller's rows.
        queued_s: seconds from arrival until an instance took it.
        assembly_s: seconds of stacking the callers' rows.
        run_s: seconds of the run it shared.
        batch_rows: rows in that run, or in the largest of several.
        core_s: core-seconds, its rows' share of that run or of all of them; 0 until it is settled.
    """

    outputs: Arrays
    queued_s: float
    assembly_s: float
    run_s: float
    batch_rows: int
    core_s: float = 0.0


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
        gpus: so many of the runs compute, the others are on their way there; 0 if all compute.
        priority_levels: 0 for none; otherwise callers may ask for 1 (first) to this.
        default_priority: of callers who ask for none.
        default_policy: of the levels that are not in ``policies``.
        policies: priority level -> what may wait there.
        in_place_rows: a run of up to so many rows takes less than the way to another thread.
        max_joined_bytes: of all outputs of a request that runs in parts.
    """

    max_rows: int
    max_queue_rows: int
    max_queue_bytes: int = 2**40
    instances: int = 1
    batched: bool = True
    gpus: int = 0
    priority_levels: int = 0
    default_priority: int = 0
    default_policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    in_place_rows: int = 0
    max_joined_bytes: int = 2**40

    @property
    def max_request_rows(self) -> int:
        """Rows of one request: one run's and what may wait behind it, but not endless parts."""
        if not self.batched:
            return 1
        return self.max_rows + min(self.max_queue_rows, _MOST_PARTS * self.max_rows)

    def policy(self, priority: int) -> QueuePolicy:
        """The queue policy of one priority level."""
        return self.policies.get(priority, self.default_policy)


@dataclass(frozen=True)
class Stacking:
    """A run that reads its rows in memory of its own, where they are gathered.

    Attributes:
        run: of what ``stack`` gave, or of any other feeds.
        stack: gathers.
    """

    run: Run
    stack: Stack

    def __call__(self, feeds: Arrays) -> Arrays:
        """Run."""
        return self.run(feeds)


@dataclass(slots=True)
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


def nbytes_of(arrays: Arrays) -> int:
    """What arrays hold, roughly for strings."""
    return sum(array.nbytes for array in arrays.values())


def cut(feeds: Arrays, rows: int, most: int) -> list[tuple[Arrays, int]]:
    """A request's feeds for as few runs as may be, each with its rows; views, no copies.

    Args:
        feeds: input name -> array, with ``rows`` rows each.
        rows: at least 1.
        most: rows of one run.
    """
    if rows <= most:
        return [(feeds, rows)]
    return [
        ({name: array[at : at + most] for name, array in feeds.items()}, min(most, rows - at))
        for at in range(0, rows, most)
    ]


def stacked(parts: Sequence[Arrays]) -> Arrays:
    """The rows of several callers, equal in ``shapes``, behind each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def joined(answers: Sequence[Answer], whole_s: float) -> Answer:
    """One answer of several, in the order of their rows.

    Args:
        answers: of the parts of one request.
        whole_s: from the request's arrival until now.

    Returns:
        Their outputs behind each other; all time that was no assembly and no run counts as waiting.

    Raises:
        InferenceFailed: the outputs have different inner shapes.
    """
    if len({shapes(answer.outputs) for answer in answers}) > 1:
        raise InferenceFailed(
            "the request was run in parts, and the outputs of those have different shapes; send "
            "fewer rows at a time"
        )
    outputs = {
        name: np.concatenate([answer.outputs[name] for answer in answers])
        for name in answers[0].outputs
    }
    assembly_s = sum(answer.assembly_s for answer in answers)
    run_s = sum(answer.run_s for answer in answers)
    most = max(answer.batch_rows for answer in answers)
    return Answer(outputs, max(0.0, whole_s - assembly_s - run_s), assembly_s, run_s, most)


def run(
    model: Run,
    feeds: Sequence[Arrays],
    counts: Sequence[int],
    *,
    batched: bool,
    clock: Callable[[], float],
    stack: Stack | None = None,
) -> Ran:
    """Run what these callers sent, several only where rows can be told apart; see below.

    Raises:
        InferenceFailed: for whatever the model raises. Translated here, since a StopIteration
            cannot pass through a future.
    """
    try:
        if not batched:
            return run_alone(model, feeds[0], clock)
        return run_together(model, feeds, counts, clock, stack=stack)
    except InferenceFailed:
        raise
    except Exception as error:
        raise InferenceFailed("the model failed on this input") from error


def run_together(
    run: Run,
    parts: Sequence[Arrays],
    counts: Sequence[int],
    clock: Callable[[], float],
    *,
    stack: Stack | None = None,
) -> Ran:
    """Stack, run and split; no copy for a single part, one gather for more.

    Args:
        run: arrays in, arrays out.
        parts: feeds of each caller, equal in ``shapes``.
        counts: rows of each caller.
        clock: monotonic seconds.
        stack: gathers the parts where the run reads them; None where any memory does.

    Returns:
        The outputs of each caller, as views of the run's.

    Raises:
        InferenceFailed: the outputs do not have one row for each row.
    """
    started = clock()
    feeds = parts[0]
    if stack is not None:
        feeds = stack(parts)
    elif len(parts) > 1:
        feeds = stacked(parts)
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
    split = [outputs]
    if len(parts) > 1:
        split = [
            {name: array[stop - count : stop] for name, array in outputs.items()}
            for count, stop in zip(counts, accumulate(counts), strict=True)
        ]
    return Ran(split, assembled - started, ended - assembled)


def run_alone(run: Run, feeds: Arrays, clock: Callable[[], float]) -> Ran:
    """Run one caller's feeds as they are, for a model without a batch dimension."""
    started = clock()
    outputs = run(feeds)
    return Ran([outputs], 0.0, clock() - started)
