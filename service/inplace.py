"""Which runs are over before another thread would have begun them, so that they run where they are.

A run on a thread costs two switches of threads, a future, and a turn of the event loop; for the
smallest models that is several times the run. What runs in place holds up the event loop, so it is
only for models whose shapes are known beforehand, and only while the runs stay short (batcher).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from statistics import median

from service.latency import Latency

_TIMES = 21
# As many runs tell a model that is far too large; the first does what later ones need not.
_GLANCE = 3
# Runs that hold up the event loop for longer go to a thread, whatever the warm-up said.
_LONGEST_S = 0.005
# Of the others one of so many is learned from: learning takes a tenth of a small request.
_SAMPLED = 8


class InPlace:
    """Which runs of one model stay where they are."""

    def __init__(self, most: int, latency: Latency) -> None:
        """Start.

        Args:
            most: rows of the largest run that was found short enough, by ``rows``; 0 for none.
            latency: what runs take; it goes on learning here.
        """
        self._most, self._latency, self._runs = most, latency, 0

    def takes(self, rows: int) -> bool:
        """Whether a run of so many rows stays."""
        return rows <= self._most and self._latency(rows) < _LONGEST_S

    def learn(self, rows: int, took_s: float) -> None:
        """Learn from one that stayed, and took so long."""
        self._runs += 1
        if took_s >= _LONGEST_S or self._runs % _SAMPLED == 0:
            self._latency.observe(rows, took_s)


def hop_s(executor: Executor, clock: Callable[[], float]) -> float:
    """Seconds from an event loop to a thread of this executor and back, median."""

    async def measure() -> float:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(_TIMES):
            begun = clock()
            await loop.run_in_executor(executor, clock)
            times.append(clock() - begun)
        return median(times)

    with ThreadPoolExecutor(1) as aside:  # who calls this may have an event loop already
        return aside.submit(lambda: asyncio.run(measure())).result()


def rows(run: Callable[[int], None], most: int, limit_s: float, clock: Callable[[], float]) -> int:
    """Rows, a power of two, of the largest run that takes less than this; 0 if none does.

    Args:
        run: runs so many rows, once.
        most: rows of a full run.
        limit_s: seconds that a run may take, median.
        clock: seconds.
    """
    size, found = 1, 0
    while size <= most:
        times: list[float] = []
        while len(times) < _TIMES:
            begun = clock()
            run(size)
            times.append(clock() - begun)
            if len(times) >= _GLANCE and min(times) > limit_s:
                return found
        if median(times) > limit_s:
            return found
        size, found = 2 * size, size
    return found
