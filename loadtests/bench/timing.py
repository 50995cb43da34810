"""Graphs beside each other: interleaved, medians, on one thread."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from service.session import Session, SessionOptions

_ROUNDS = 15
_ROUND_S = 0.05


def ratio(reference: Path, candidate: Path, rows: dict[str, np.ndarray[Any, Any]]) -> float:
    """How many times faster the candidate answers these rows than the reference, on one thread."""
    slow, fast = (Session(path, SessionOptions(threads=1)) for path in (reference, candidate))
    if len(slow.inputs) == 1:  # as a file of rows may call it
        rows = {slow.inputs[0].name: next(iter(rows.values()))}
    for session in (slow, fast):
        _seconds(session, rows, 2)
    runs = max(1, round(_ROUND_S / _seconds(slow, rows, 1)))
    ratios = [_seconds(slow, rows, runs) / _seconds(fast, rows, runs) for _ in range(_ROUNDS)]
    return statistics.median(ratios)


def batch(path: Path, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """So many rows of an .npz file, without the labels."""
    with np.load(path) as archive:
        return {
            name: np.resize(archive[name], (rows, *archive[name].shape[1:]))
            for name in archive.files
            if name != "y"
        }


def _seconds(session: Session, rows: dict[str, np.ndarray[Any, Any]], runs: int) -> float:
    begun = time.perf_counter()
    for _ in range(runs):
        session.run(rows)
    return (time.perf_counter() - begun) / runs


class Peak:
    """The most resident memory of our child processes together, in bytes."""

    bytes = 0


@contextmanager
def watched() -> Iterator[Peak]:
    """Look at our children's memory ten times a second while the context lasts."""
    peak, stop = Peak(), threading.Event()

    def look() -> None:
        me = psutil.Process()
        while not stop.wait(0.1):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak.bytes = max(peak.bytes, total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
