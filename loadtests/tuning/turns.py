"""Runs side by side, as the instances of a server make them, and the clocks they are timed by."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass


@dataclass(frozen=True)
class Clocks:
    """Where time comes from.

    Attributes:
        now: seconds, monotonic.
        cpu: CPU seconds of this process, all threads.
        sleep: lets seconds pass.
    """

    now: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


def side_by_side(
    run: Callable[[], None], instances: int, runs: int, now: Callable[[], float]
) -> tuple[list[float], float]:
    """So many runs for each instance, always one of each under way.

    Args:
        run: one run.
        instances: threads.
        runs: of each.
        now: seconds.

    Returns:
        Seconds of each run, and of all of it.
    """
    seconds: list[float] = []
    left = instances * runs
    with ThreadPoolExecutor(instances) as pool:
        list(pool.map(time.sleep, [0.0] * instances))  # its threads have begun
        begun: dict[Future[None], float] = {}
        whole = now()
        while left or begun:
            while left and len(begun) < instances:
                begun[pool.submit(run)] = now()
                left -= 1
            for done in wait(begun, return_when=FIRST_COMPLETED).done:
                done.result()
                seconds.append(now() - begun.pop(done))
        return seconds, now() - whole
