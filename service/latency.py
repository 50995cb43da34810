"""Pure: what a run of so many rows takes on one session, learned from the runs themselves.

The scheduler refuses by these numbers, and an estimate that is too low costs far more than one that
is too high (up to a fifth of all good answers, against a fiftieth), so they err on the high side:
the 95th percentile of the last runs of each size, and a margin. They never fall with more rows, and
they fall with time only because old runs are forgotten.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from itertools import accumulate
from math import ceil

MARGIN = 1.15
_QUANTILE = 0.95
_KEPT = 40


class Latency:
    """Seconds of a run by its rows, on one session; see the top of this file."""

    def __init__(self, *, margin: float = MARGIN) -> None:
        """Know nothing: every run is expected to take no time, until one has been seen.

        Args:
            margin: what estimates are multiplied by.
        """
        self._margin = margin
        self._runs: dict[int, deque[float]] = {}
        self._ordered: dict[int, list[float]] = {}
        self._highest: dict[int, float] = {}
        self._sizes: list[int] = []
        self._levels: list[float] = []

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one run.

        Args:
            rows: it had.
            seconds: from the moment an instance took them until they were answered.
        """
        if rows not in self._runs:
            self._runs[rows], self._ordered[rows] = deque(), []
            insort(self._sizes, rows)
        runs, ordered = self._runs[rows], self._ordered[rows]
        runs.append(seconds)
        insort(ordered, seconds)
        if len(runs) > _KEPT:
            del ordered[bisect_left(ordered, runs.popleft())]
        highest = ordered[ceil(_QUANTILE * len(ordered)) - 1]
        # The smallest models do this thousands of times a second.
        if highest != self._highest.get(rows):
            self._highest[rows] = highest
            self._levels = list(accumulate((self._highest[size] for size in self._sizes), max))

    def __call__(self, rows: int) -> float:
        """Seconds that a run of so many rows is expected to take, at most.

        Between two sizes that have been seen it is on the line between them, above the largest
        in proportion to the rows, below the smallest as long as that.
        """
        sizes, levels = self._sizes, self._levels
        if not sizes:
            return 0.0
        at = bisect_left(sizes, rows)
        if at == len(sizes):
            return self._margin * levels[-1] * rows / sizes[-1]
        if sizes[at] == rows or at == 0:
            return self._margin * levels[at]
        low, high = sizes[at - 1], sizes[at]
        share = (rows - low) / (high - low)
        return self._margin * (levels[at - 1] + share * (levels[at] - levels[at - 1]))
