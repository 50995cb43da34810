"""What a variant is worth: its decisions on held-out rows, and its speed beside fp32's.

Both are measured through ``service.session``: what is judged is what is served.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.samples import Samples
from service.session import Session

CONFIDENCE = 0.95
SPEED_BATCHES = (1, 8)
# float32 through another kernel library: everything that was ever right has passed these.
RTOL, ATOL = 1e-3, 1e-5
_ROUNDS = 21
_ROUND_S = 0.02

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate holds its bounds; ``reason`` is one sentence, ``figures`` the proof."""

    holds: bool
    reason: str
    figures: dict[str, float]


def predict(session: Session, rows: Samples, batch: int = 32) -> Arrays:
    """Answers for all rows: output name -> array of shape [rows, ...]."""
    parts = [session.run(rows.slice(at, at + batch)) for at in range(0, len(rows), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def decisions(outputs: Arrays) -> np.ndarray[Any, Any]:
    """What the first output decides for each row.

    The index of the largest entry of the last axis; for a single number per row, whether it is
    above one half; for whole numbers, the numbers themselves.

    Returns:
        An array of shape [rows].
    """
    scores = next(iter(outputs.values()))
    flat = scores.reshape(len(scores), -1)
    if scores.dtype.kind != "f":
        return flat[:, 0]
    return flat.argmax(axis=1) if flat.shape[1] > 1 else (flat[:, 0] > 0.5).astype(np.int64)


def upper_bound(events: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """The exact one-sided upper bound of a proportion (Clopper and Pearson, 1934).

    The largest p for which seeing at most this many events still has probability 1 - confidence.
    A bootstrap returns 0 where no event was seen, which proves nothing; this gives 0.5 points for
    0 of 598.
    """
    if events >= trials:
        return 1.0
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(events, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(events: int, trials: int, p: float) -> float:
    """P(X <= events) for X ~ Binomial(trials, p), 0 < p < 1."""
    return math.fsum(
        math.exp(
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(p) + (trials - k) * math.log1p(-p)
        )
        for k in range(events + 1)
    )  # fmt: skip


def close(outputs: Arrays, reference: Arrays) -> bool:
    """Whether every output is the reference's, up to float32's noise in another library."""
    return all(
        outputs[name].shape == wanted.shape
        and (
            np.allclose(outputs[name], wanted, rtol=RTOL, atol=ATOL)
            if wanted.dtype.kind == "f"
            else np.array_equal(outputs[name], wanted)
        )
        for name, wanted in reference.items()
    )


def judge_accuracy(
    outputs: Arrays, reference: Arrays, labels: np.ndarray[Any, Any] | None, max_drop: float
) -> Verdict:
    """Compare a candidate's decisions with the trained model's own.

    Args:
        outputs: the candidate's answers for the held-out rows.
        reference: the framework's answers for the same rows.
        labels: shape [rows]; without them the reference's decisions count as right.
        max_drop: points of accuracy that may be lost, at 95 % confidence.

    Returns:
        Holds only if the bound of the newly wrong rows is within ``max_drop``; too few rows can
        leave a good candidate unproven.
    """
    mine, theirs = decisions(outputs), decisions(reference)
    truth = theirs if labels is None else labels
    rows = len(truth)
    broken = _not_a_number(outputs)
    newly_wrong = int(np.sum((theirs == truth) & ((mine != truth) | broken)))
    newly_right = int(np.sum((theirs != truth) & (mine == truth)))
    bound = 100 * upper_bound(newly_wrong, rows)
    figures = {
        "rows": float(rows),
        "agreement": float(np.mean(mine == theirs)),
        "newly_wrong": float(newly_wrong),
        "newly_right": float(newly_right),
        "drop_points": 100 * (newly_wrong - newly_right) / rows,
        "drop_bound_points": bound,
        "largest_difference": largest_difference(outputs, reference),
    }
    if labels is not None:
        figures["accuracy"] = float(np.mean(mine == labels))
    said = (
        f"{newly_wrong} of {rows} held-out rows newly wrong, a drop of at most {bound:.2f} points"
    )
    if bound <= max_drop:
        return Verdict(True, said, figures)
    said += f", where {max_drop:g} is allowed"
    if 100 * newly_wrong / rows > max_drop:
        return Verdict(False, f"loses too much: {said}", figures)
    needed = _rows_to_prove(newly_wrong, max_drop)
    return Verdict(False, f"not proven: {said}; {needed} rows could prove it", figures)


def _not_a_number(outputs: Arrays) -> np.ndarray[Any, Any]:
    """Which rows have NaN in the output that decides; argmax and comparisons hide it."""
    scores = next(iter(outputs.values()))
    flat = scores.reshape(len(scores), -1)
    if flat.dtype.kind != "f":
        return np.zeros(len(flat), dtype=np.bool_)
    return np.asarray(np.isnan(flat).any(axis=1))


def _rows_to_prove(events: int, max_drop: float) -> str:
    """How many rows with this many newly wrong ones would hold, to two digits."""
    rows = events + 1
    while rows < 10**6 and 100 * upper_bound(events, rows) > max_drop:
        rows = math.ceil(rows * 1.02) + 1
    return f"about {rows}" if rows < 10**6 else "no number of"


def largest_difference(outputs: Arrays, reference: Arrays) -> float:
    """The largest absolute difference of any number in any output; NaN counts as float32's end."""
    largest = 0.0
    for name, wanted in reference.items():
        if wanted.dtype.kind in "fiu" and wanted.size:
            difference = np.abs(outputs[name].astype(float) - wanted.astype(float))
            end = float(np.finfo(np.float32).max)
            largest = max(largest, float(np.nan_to_num(difference, nan=end, posinf=end).max()))
    return largest


def speed_up(reference: Session, candidate: Session, rows: Samples) -> dict[str, float]:
    """How many times faster the candidate runs than fp32, at batch 1 and 8.

    Interleaved, so that both see the same machine; the medians of 21 rounds of some 20 ms.

    Returns:
        ``speedup_batch_N`` and ``ms_batch_N`` for each N.
    """
    figures: dict[str, float] = {}
    for batch in SPEED_BATCHES:
        feeds = {
            name: np.resize(array, (batch, *array.shape[1:])) for name, array in rows.feeds.items()
        }
        runs = max(1, math.ceil(_ROUND_S / _seconds(reference, feeds, 3)))
        _seconds(candidate, feeds, 3)
        rounds = [
            (_seconds(reference, feeds, runs), _seconds(candidate, feeds, runs))
            for _ in range(_ROUNDS)
        ]
        slow, fast = (statistics.median(column) for column in zip(*rounds, strict=True))
        figures[f"speedup_batch_{batch}"] = slow / fast
        figures[f"ms_batch_{batch}"] = fast * 1e3
    return figures


def _seconds(session: Session, feeds: Arrays, runs: int) -> float:
    """Mean seconds of one run."""
    started = time.perf_counter()
    for _ in range(runs):
        session.run(feeds)
    return (time.perf_counter() - started) / runs
