"""Small stand-ins for what tests must control: the clock, and the model's run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


class ManualClock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeRun:
    """A model that doubles ``x``; may be held, and fails on rows that are negative.

    Attributes:
        batches: rows of each run, in order.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        """Let runs that start from now on wait for ``release``."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def __call__(self, feeds: Arrays) -> Arrays:
        x = feeds["x"]
        self.batches.append(len(x))
        assert self._open.wait(20), "a test held a run and never released it"
        if (x < 0).any():
            raise ValueError("secret detail: negative row")
        return {"y": x * 2}
