"""How many times faster than fp32 a candidate runs, on this machine's CPU or GPU."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.manifest import Figures
from service.session import Session

BATCHES = (1, 8)
# A GPU is hardly busy with eight rows.
GPU_BATCHES = (1, 8, 32)
ROUNDS = 21
# A few rounds tell what is hopeless.
FEW_ROUNDS = 5
_ROUND_S = 0.02
# For each batch, of large nets: rounds are saved then, down to a few.
_MOST_S = 8.0

_TIMED = re.compile(r"speedup_batch_(\d+)_low")

Arrays = dict[str, np.ndarray[Any, Any]]


def speed_up(
    reference: Session,
    candidate: Session,
    feeds: Arrays,
    *,
    rounds: int = ROUNDS,
    batches: Sequence[int] = BATCHES,
    warm: int = 0,
) -> dict[str, float]:
    """How many times faster the candidate runs than fp32, at each batch.

    Interleaved, so that both see the same machine: each round some 20 ms of each.

    Args:
        reference: fp32.
        candidate: what is compared with it, under the same session options.
        feeds: some rows; repeated or cut to each batch.
        rounds: how often each is timed.
        batches: rows of a run.
        warm: runs of each that are not timed; a GPU's first ones search for algorithms.

    Returns:
        For each batch N ``speedup_batch_N`` (the median ratio), ``speedup_batch_N_low`` (the lower
        quartile, which is what is gated) and ``ms_batch_N`` (the candidate's median).
    """
    figures: dict[str, float] = {}
    for batch in batches:
        rows = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in feeds.items()}
        for _ in range(warm):
            reference.run(rows)
            candidate.run(rows)
        once = _seconds(reference, rows, 2) + _seconds(candidate, rows, 2)
        runs = max(1, math.ceil(2 * _ROUND_S / once))
        affordable = max(FEW_ROUNDS, int(_MOST_S / (once * runs)))
        pairs = [
            (_seconds(reference, rows, runs), _seconds(candidate, rows, runs))
            for _ in range(min(rounds, affordable))
        ]
        low, middle, _ = statistics.quantiles([slow / fast for slow, fast in pairs], n=4)
        figures[f"speedup_batch_{batch}"] = middle
        figures[f"speedup_batch_{batch}_low"] = low
        figures[f"ms_batch_{batch}"] = statistics.median(fast for _, fast in pairs) * 1e3
    return figures


def least(figures: Figures) -> float:
    """The smallest of the gated ratios of ``speed_up``."""
    return min(figures[f"speedup_batch_{batch}_low"] for batch in batches_in(figures))


def batches_in(figures: Figures) -> tuple[int, ...]:
    """The batches at which something was timed, the smallest first."""
    found = (_TIMED.fullmatch(name) for name in figures)
    return tuple(sorted(int(match[1]) for match in found if match))


def said(figures: Figures) -> str:
    """The median ratios in words, e.g. ``1.20x at batch 1 and 2.10x at batch 8``."""
    *first, last = (
        f"{figures[f'speedup_batch_{batch}']:.2f}x at batch {batch}"
        for batch in batches_in(figures)
    )
    return f"{', '.join(first)} and {last}" if first else last


def _seconds(session: Session, feeds: Arrays, runs: int) -> float:
    """Mean seconds of one run."""
    started = time.perf_counter()
    for _ in range(runs):
        session.run(feeds)
    return (time.perf_counter() - started) / runs
