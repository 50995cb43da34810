"""What a variant is worth: its decisions on held-out rows, and its speed beside fp32's.

Both are measured through ``service.session``: what is judged is what is served.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.samples import Samples
from service.errors import FarthingError
from service.manifest import Figures
from service.session import Session

CONFIDENCE = 0.95
SPEED_BATCHES = (1, 8)
# float32 through another kernel library: everything that was ever right has passed these.
RTOL, ATOL = 1e-3, 1e-5
_ROUNDS = 21
_ROUND_S = 0.02

Arrays = dict[str, np.ndarray[Any, Any]]


class NotJudged(FarthingError):
    """Outputs that decide nothing, so that no variant can be judged by them, with the reason."""


class LabelsDoNotFit(FarthingError):
    """Labels that say nothing about this model."""


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


def decisions(outputs: Arrays, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """What each output decides for each row.

    The index of the largest of several scores; for a single score from 0 to 1, whether it is above
    one half; for whole numbers, the numbers themselves. A row with NaN decides -1, which nothing
    agrees with.

    Args:
        outputs: output name -> array of shape [rows, ...].
        names: the outputs, in the order of the columns.

    Returns:
        An array of shape [rows, outputs].

    Raises:
        NotJudged: an output is neither.
    """
    return np.stack([_decided(outputs[name], name) for name in names], axis=1)


def _decided(scores: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    flat = scores[:, np.newaxis] if scores.ndim == 1 else scores
    if flat.ndim != 2 or flat.dtype.kind not in "fiub":
        raise NotJudged(f"output '{name}' of shape {list(scores.shape)} is no class scores")
    if flat.dtype.kind != "f":
        if flat.shape[1] != 1:
            raise NotJudged(f"output '{name}' holds {flat.shape[1]} whole numbers a row")
        return flat[:, 0].astype(np.int64)
    broken = np.isnan(flat).any(axis=1)
    if flat.shape[1] > 1:
        decided = flat.argmax(axis=1)
    elif ((flat >= 0) & (flat <= 1) | np.isnan(flat)).all():
        decided = (flat[:, 0] > 0.5).astype(np.int64)
    else:
        raise NotJudged(f"output '{name}' is a number that is no probability")
    return np.where(broken, -1, decided)


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
    outputs: Arrays,
    reference: Arrays,
    labels: np.ndarray[Any, Any] | None,
    *,
    max_drop: float,
) -> Verdict:
    """Compare a candidate's decisions with the trained model's own.

    A row is newly wrong where the trained model's first output is right and the candidate's is not,
    or where any further output decides differently.

    Args:
        outputs: the candidate's answers for the held-out rows, each row once.
        reference: the framework's answers for the same rows, in the framework's order of outputs.
        labels: shape [rows], for the first output; without them the reference's decisions count as
            right.
        max_drop: points of accuracy that may be lost, at 95 % confidence.

    Returns:
        Holds only if the bound of the newly wrong rows is within ``max_drop``; too few rows can
        leave a good candidate unproven.

    Raises:
        NotJudged: the outputs decide nothing.
    """
    mine, theirs = (decisions(answers, list(reference)) for answers in (outputs, reference))
    truth = theirs[:, 0] if labels is None else labels
    rows = len(truth)
    right, was_right = mine[:, 0] == truth, theirs[:, 0] == truth
    differs = (mine[:, 1:] != theirs[:, 1:]).any(axis=1)
    newly_wrong = int(np.sum(was_right & (~right | differs)))
    newly_right = int(np.sum(~was_right & right))
    bound = 100 * upper_bound(newly_wrong, rows)
    figures = {
        "rows": float(rows),
        "agreement": float(np.mean((mine == theirs).all(axis=1))),
        "newly_wrong": float(newly_wrong),
        "newly_right": float(newly_right),
        "drop_points": 100 * (newly_wrong - newly_right) / rows,
        "drop_bound_points": bound,
        "largest_difference": largest_difference(outputs, reference),
    }
    if labels is not None:
        figures["accuracy"] = float(np.mean(right))
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


def check_labels(reference: Arrays, labels: np.ndarray[Any, Any]) -> None:
    """Refuse labels that say nothing about this model.

    Where the reference is hardly ever right, nothing can be newly wrong, and any candidate would
    hold.

    Raises:
        LabelsDoNotFit: they are no numbers, or the reference is not better than always naming the
            most frequent one.
        NotJudged: the outputs decide nothing.
    """
    if labels.dtype.kind not in "iufb":
        raise LabelsDoNotFit(
            "the labels under 'y' are text; give the indices of the classes, from 0"
        )
    decided = decisions(reference, list(reference)[:1])[:, 0]
    accuracy = float(np.mean(decided == labels))
    _, counts = np.unique(labels, return_counts=True)
    commonest = counts.max() / len(labels)
    if accuracy < commonest or accuracy == 0:
        raise LabelsDoNotFit(
            f"the trained model is right on {accuracy:.1%} of the held-out rows, where always "
            f"naming the commonest label is right on {commonest:.1%}: the labels do not fit it; "
            "they are the indices of the classes, from 0, in the order of the rows"
        )


def _rows_to_prove(events: int, max_drop: float) -> str:
    """How many rows would hold if no more of them were newly wrong."""
    low, high = events, events + 1
    while 100 * upper_bound(events, high) > max_drop:
        low, high = high, 2 * high
        if high > 10**7:
            return "no number of"
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if 100 * upper_bound(events, middle) > max_drop else (low, middle)
        )
    return str(high)


def largest_difference(outputs: Arrays, reference: Arrays) -> float:
    """The largest absolute difference of any number in any output; NaN counts as float32's end."""
    largest = 0.0
    for name, wanted in reference.items():
        if wanted.dtype.kind in "fiu" and wanted.size:
            difference = np.abs(outputs[name].astype(float) - wanted.astype(float))
            end = float(np.finfo(np.float32).max)
            largest = max(largest, float(np.nan_to_num(difference, nan=end, posinf=end).max()))
    return largest


def speed_up(reference: Session, candidate: Session, feeds: Arrays) -> dict[str, float]:
    """How many times faster the candidate runs than fp32, at batch 1 and 8.

    Interleaved, so that both see the same machine: 21 rounds of some 20 ms of each.

    Args:
        reference: fp32.
        candidate: what is compared with it, under the same session options.
        feeds: some rows; repeated or cut to each batch.

    Returns:
        For each batch N ``speedup_batch_N`` (the median ratio), ``speedup_batch_N_low`` (the lower
        quartile, which is what is gated) and ``ms_batch_N`` (the candidate's median).
    """
    figures: dict[str, float] = {}
    for batch in SPEED_BATCHES:
        rows = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in feeds.items()}
        runs = max(1, math.ceil(_ROUND_S / _seconds(reference, rows, 3)))
        _seconds(candidate, rows, 3)
        rounds = [
            (_seconds(reference, rows, runs), _seconds(candidate, rows, runs))
            for _ in range(_ROUNDS)
        ]
        low, middle, _ = statistics.quantiles([slow / fast for slow, fast in rounds], n=4)
        figures[f"speedup_batch_{batch}"] = middle
        figures[f"speedup_batch_{batch}_low"] = low
        figures[f"ms_batch_{batch}"] = statistics.median(fast for _, fast in rounds) * 1e3
    return figures


def least_speed_up(figures: Figures) -> float:
    """The smallest of the gated ratios of ``speed_up``."""
    return min(figures[f"speedup_batch_{batch}_low"] for batch in SPEED_BATCHES)


def _seconds(session: Session, feeds: Arrays, runs: int) -> float:
    """Mean seconds of one run."""
    started = time.perf_counter()
    for _ in range(runs):
        session.run(feeds)
    return (time.perf_counter() - started) / runs
