"""Pure: what a batch may hold, several callers' rows through one run, and each caller's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
class Limits:
    """How much a batcher takes on.

    Attributes:
        max_rows: rows in one run.
        max_queue_rows: rows that may wait.
        instances: runs at the same time.
        batched: False for a model without a batch dimension: each request runs alone.
    """

    max_rows: int
    max_queue_rows: int
    instances: int = 1
    batched: bool = True


def shapes(feeds: Arrays) -> tuple[Any, ...]:
    """What rows must have in common to share a run: everything but their number."""
    return tuple((name, array.shape[1:]) for name, array in sorted(feeds.items()))


def run_together(run: Run, parts: Sequence[Arrays], counts: Sequence[int]) -> list[Arrays]:
    """Stack, run and split; no copy for a single part, one gather for more.

    Args:
        run: arrays in, arrays out.
        parts: feeds of each caller, equal in ``shapes``.
        counts: rows of each caller.

    Returns:
        The outputs of each caller, as views of the run's.

    Raises:
        InferenceFailed: the outputs do not have one row for each row.
    """
    feeds = parts[0]
    if len(parts) > 1:
        feeds = {name: np.concatenate([part[name] for part in parts]) for name in feeds}
    outputs = run(feeds)
    total = sum(counts)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise InferenceFailed(
                f"the model answered {total} rows with an output '{name}' of shape "
                f"{list(array.shape)}; it cannot be served in batches"
            )
    stops = np.cumsum(counts)
    return [
        {name: array[stop - count : stop] for name, array in outputs.items()}
        for count, stop in zip(counts, stops, strict=True)
    ]
