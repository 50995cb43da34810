"""Pure: what a run of so many rows takes on one session, learned from the runs themselves.

The scheduler refuses by these numbers, and an estimate that is too low costs far more than one that
is too high (up to a fifth of all good answers, against a fiftieth), so they err on the high side:
the 95th percentile of the last runs of each size, and a margin.

They never fall with more rows. Where a size was slower than a larger one, one of the two was seen
at a bad moment: the size that ran more often of late is believed. A size that has not run lately
may never run again, just because of what it was seen to take: it is forgotten if the others speak
against it, which they do where a run is expected to take no longer than two of half its rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, inf

MARGIN = 1.15
_QUANTILE = 0.95
_KEPT = 40
# As many runs, of whatever sizes, are "lately".
_LATELY = 50
# So often, where sizes contradict each other, it is looked again at which of them to believe.
_AGAIN = 8


class Latency:
    """Seconds of a run by its rows, on one session; see the top of this file."""

    def __init__(self, *, margin: float = MARGIN, quantile: float = _QUANTILE) -> None:
        """Know nothing: every run is expected to take no time, until one has been seen.

        Args:
            margin: what estimates are multiplied by.
            quantile: of the last runs of each size; lower where nothing is promised by it.
        """
        self._margin, self._quantile = margin, quantile
        self._runs: dict[int, deque[float]] = {}
        self._ordered: dict[int, list[float]] = {}
        self._highest: dict[int, float] = {}
        self._lately: deque[int] = deque()
        self._often: Counter[int] = Counter()
        self._doubt, self._since = False, 0
        self._sizes: list[int] = []
        # Replaced as a whole, since other threads ask too.
        self._curve: tuple[list[int], list[float]] = [], []

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
        highest = ordered[ceil(self._quantile * len(ordered)) - 1]
        changed = highest != self._highest.get(rows)
        self._highest[rows] = highest
        # The smallest models do this thousands of times a second.
        self._since += 1
        if self._remember(rows) or changed or (self._doubt and self._since >= _AGAIN):
            self._settle()

    def _remember(self, rows: int) -> bool:
        """Count this size among the last runs; whether another ceases to be among them."""
        self._lately.append(rows)
        self._often[rows] += 1
        if len(self._lately) <= _LATELY:
            return False
        oldest = self._lately.popleft()
        self._often[oldest] -= 1
        if self._often[oldest]:
            return False
        for size in [size for size in self._sizes if not self._often[size]]:
            self._doubt_old(size)
        return True

    def _doubt_old(self, size: int) -> None:
        """Forget a size if the others would expect less of it."""
        at = self._sizes.index(size)
        others = [(other, self._highest[other]) for other in self._sizes if other != size]
        if others and _on_the_line(others, size) < self._highest[size]:
            del self._sizes[at], self._runs[size], self._ordered[size], self._highest[size]

    def _settle(self) -> None:
        """Levels that never fall with more rows; see the top of this file."""
        self._since = 0
        levels = [self._highest[size] for size in self._sizes]
        self._doubt = any(less > more for less, more in pairwise(levels))
        most, trusted = 0, inf
        for at in reversed(range(len(levels))) if self._doubt else ():
            often = self._often[self._sizes[at]]
            if often < most:
                levels[at] = min(levels[at], trusted)
            else:
                most, trusted = often, levels[at]
        self._curve = self._sizes.copy(), list(accumulate(levels, max))

    def __call__(self, rows: int) -> float:
        """Seconds that a run of so many rows is expected to take, at most.

        Between two sizes that have been seen it is on the line between them, above the largest
        in proportion to the rows, below the smallest as long as that.
        """
        sizes, levels = self._curve
        if not sizes:
            return 0.0
        at = bisect_left(sizes, rows)
        if at < len(sizes) and sizes[at] == rows:
            return self._margin * levels[at]
        near = slice(max(0, at - 1), at + 1)
        seen = list(zip(sizes[near], levels[near], strict=True))
        return self._margin * _on_the_line(seen, rows)


def _on_the_line(seen: Sequence[tuple[int, float]], rows: int) -> float:
    """Seconds of so many rows by what other sizes take, each with its seconds, smallest first."""
    at = bisect_left(seen, rows, key=lambda one: one[0])
    if at == 0:
        return seen[0][1]
    low, low_s = seen[at - 1]
    if at == len(seen):
        return low_s * rows / low
    high, high_s = seen[at]
    return low_s + (rows - low) / (high - low) * (high_s - low_s)
