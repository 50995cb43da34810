"""Bare ONNX Runtime in a loop, in this process: the ceiling of what is served, copies included."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First, since it turns telemetry off before ONNX Runtime is imported.
from service.session import SessionOptions as _SessionOptions  # noqa: F401  isort: skip
import onnxruntime

from loadtests.bench import steps
from loadtests.bench.gpu.places import Place, Way
from service.errors import FarthingError

Array = Any
_PLAIN = Way()


class ProviderLost(FarthingError):
    """ONNX Runtime took another provider than it was asked for, which it does without a word."""


@dataclass(frozen=True)
class Rate:
    """What a loop came to.

    Attributes:
        rows_per_s: rows whose answers were back in the host's memory.
        median_ms: of one run, with its copies.
        joules_per_row: of the whole GPU meanwhile; None where that is not measured.
    """

    rows_per_s: float
    median_ms: float
    joules_per_row: float | None


class Bare:
    """A session with the provider's options that a careful caller would give."""

    def __init__(self, graph: Path, place: Place, way: Way = _PLAIN) -> None:
        """Open the graph.

        Args:
            graph: with one input, ``x``.
            place: where it runs.
            way: what its provider is told.

        Raises:
            ProviderLost: ONNX Runtime took another provider.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        asked = place.providers(way)
        self._session = onnxruntime.InferenceSession(
            str(graph), options, providers=asked, enable_fallback=0
        )
        self._joules = place.joules
        wanted = asked[0] if isinstance(asked[0], str) else asked[0][0]
        if self._session.get_providers()[0] != wanted:
            raise ProviderLost(
                f"ONNX Runtime took {self._session.get_providers()[0]} in place of {wanted}"
            )

    def rate(self, *batches: Array, seconds: float, threads: int = 1) -> Rate:
        """Run these rows over and over for about so many seconds, after two runs uncounted.

        Args:
            batches: one batch, or several by turns.
            seconds: of the loop; three rounds of the batches at least.
            threads: callers at the same time; with two, one's copies may overlap another's run.
        """
        sizes = " and ".join(str(len(rows)) for rows in batches)
        steps.begun(f"bare ONNX Runtime, {sizes} at a time, {threads} callers")
        for rows in batches * 2:
            self._session.run(None, {"x": rows})
        times: list[list[float]] = [[] for _ in range(threads)]
        before, begun = self._joules(), time.perf_counter()
        ends = begun + seconds
        loops = [threading.Thread(target=self._loop, args=(batches, ends, each)) for each in times]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()
        taken, after = time.perf_counter() - begun, self._joules()
        count = sum(map(len, batches)) * sum(map(len, times)) // len(batches)
        joules = None if before is None or after is None else (after - before) / count
        every = [each for one in times for each in one]
        return Rate(count / taken, 1e3 * statistics.median(every), joules)

    def _loop(self, batches: tuple[Array, ...], ends: float, times: list[float]) -> None:
        while len(times) < 3 * len(batches) or time.perf_counter() < ends:
            for rows in batches:
                begun = time.perf_counter()
                self._session.run(None, {"x": rows})
                times.append(time.perf_counter() - begun)


def best(rates: dict[int, Rate]) -> int:
    """The batch size with most rows per second."""
    return max(rates, key=lambda batch: rates[batch].rows_per_s)
