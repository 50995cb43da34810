"""Bare ONNX Runtime in a loop, in this process: the ceiling of every server."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.bench import steps
from service.session import Session, SessionOptions


class Bare:
    """A session with the threads that a server would use, and rows to run it on."""

    def __init__(self, graph: Path, row: np.ndarray[Any, Any], *, batches: tuple[int, ...]) -> None:
        """Open the graph, and warm each batch size up."""
        self._session = Session(graph, SessionOptions())
        self._rows = {batch: np.repeat(row, batch, axis=0) for batch in batches}
        for rows in self._rows.values():
            self._session.run({"x": rows})

    def run_s(self, batch: int = 1) -> float:
        """Seconds of one run."""
        begun = time.perf_counter()
        self._session.run({"x": self._rows[batch]})
        return time.perf_counter() - begun

    def median_s(self, *, seconds: float, batch: int = 1) -> float:
        """The median of runs for about so many seconds, at least three."""
        steps.begun(f"bare ONNX Runtime, {batch} at a time, for {seconds:.1f} s")
        times, ends = list[float](), time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < ends:
            times.append(self.run_s(batch))
        return statistics.median(times)

    def best(self, *, seconds: float) -> tuple[int, float]:
        """The batch size with most rows per second, and those; so many seconds for all."""
        share = seconds / len(self._rows)
        rates = {b: b / self.median_s(seconds=share, batch=b) for b in self._rows}
        winner = max(rates, key=rates.__getitem__)
        return winner, rates[winner]
