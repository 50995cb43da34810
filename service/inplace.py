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

_TIMES = 21
# As many runs tell a model that is far too large; the first does what later ones need not.
_GLANCE = 3


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
    """Rows of the largest run that takes less than this; 0 if none does.

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
