"""Answers beside answers: what they decide, how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.errors import FarthingError

# float32 through another kernel library: everything that was ever right has passed these.
RTOL, ATOL = 1e-3, 1e-5

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


class NotJudged(FarthingError):
    """Outputs that decide nothing, so that no variant can be judged by them, with the reason."""


def decisions(outputs: Arrays, names: Sequence[str], like: Arrays | None = None) -> Array:
    """What each output decides for each row.

    The index of the largest of several scores; for a single score from 0 to 1, whether it is above
    one half; for whole numbers, the numbers themselves. A row with NaN decides -1, which nothing
    agrees with.

    Args:
        outputs: output name -> array of shape [rows, ...].
        names: the outputs, in the order of the columns.
        like: answers of which kind they are, where a candidate may round a little past 1.

    Returns:
        An array of shape [rows, outputs].

    Raises:
        NotJudged: an output is neither.
    """
    # Of the best few classes the indices decide, and the first of them.
    best = {name for name in names if name.endswith("_indices")}
    telling = [
        name
        for name in names
        if not name.endswith("_values") or f"{name.removesuffix('_values')}_indices" not in best
    ]
    kinds = outputs if like is None else like
    return np.stack([_decided(outputs[name], kinds[name], name) for name in telling], axis=1)


def look_like_scores(outputs: Arrays) -> bool:
    """Whether numbers without labels are decisions all the same: probabilities, whole numbers."""
    for array in outputs.values():
        if array.dtype.kind != "f":
            continue
        flat = array.reshape(len(array), -1).astype(np.float64)
        sums = flat.sum(axis=1)
        one = flat.shape[1] == 1
        if not ((flat >= 0) & (flat <= 1)).all() or not (one or np.allclose(sums, 1, atol=1e-2)):
            return False
    return True


def _decided(
    scores: np.ndarray[Any, Any], like: np.ndarray[Any, Any], name: str
) -> np.ndarray[Any, Any]:
    flat = scores[:, np.newaxis] if scores.ndim == 1 else scores
    if flat.ndim != 2 or flat.dtype.kind not in "fiub":
        raise NotJudged(f"output '{name}' of shape {list(scores.shape)} is no class scores")
    if name.endswith("_indices") and flat.dtype.kind == "i":
        return flat[:, 0].astype(np.int64)
    if flat.dtype.kind != "f":
        if flat.shape[1] != 1:
            raise NotJudged(f"output '{name}' holds {flat.shape[1]} whole numbers a row")
        return flat[:, 0].astype(np.int64)
    broken = np.isnan(flat).any(axis=1)
    if flat.shape[1] > 1:
        decided = flat.argmax(axis=1)
    elif ((like >= 0) & (like <= 1) | np.isnan(like)).all():
        decided = (flat[:, 0] > 0.5).astype(np.int64)
    else:
        raise NotJudged(f"output '{name}' is a number that is no probability")
    return np.where(broken, -1, decided)


def close(outputs: Arrays, reference: Arrays, tolerated: float = 0.0) -> bool:
    """Whether every output is the reference's, up to float32's noise in another library.

    Args:
        outputs: name -> array of shape [rows, ...].
        reference: the same, in the order that counts.
        tolerated: share of the rows that may differ all the same: trees compare in float32 where
            their framework did in float64, so that a row on a threshold goes the other way.
    """
    apart = [rows_apart(outputs[name], wanted) for name, wanted in reference.items()]
    return all(float(np.mean(rows)) <= tolerated for rows in apart if rows.size)


def rows_apart(given: Array, wanted: Array) -> Array:
    """Which rows differ by more than float32's noise: an array of shape [rows], boolean."""
    if given.shape != wanted.shape:
        return np.ones(1, dtype=bool)
    if not wanted.ndim:
        given, wanted = given.reshape(1), wanted.reshape(1)
    if wanted.dtype.kind == "f":
        same = np.isclose(given, wanted, rtol=RTOL, atol=ATOL)
    else:
        same = np.equal(given, wanted)
    return np.asarray(~same.astype(bool).reshape(len(wanted), -1).all(axis=1))


def distances(outputs: Arrays, reference: Arrays) -> Array:
    """How far each row's answer moved, in units of the output's spread; the worst output's.

    Of each output the Euclidean distance over the root mean square distance of the reference's
    finite rows from their mean. NaN, another shape or other whole numbers count as infinitely far.

    Returns:
        An array of shape [rows], float64.
    """
    worst = np.zeros(len(next(iter(reference.values()))))
    for name, wanted in reference.items():
        given = outputs[name]
        if given.shape != wanted.shape:
            return np.full_like(worst, np.inf)
        if wanted.dtype.kind != "f":
            differs = (given != wanted).reshape(len(wanted), -1).any(axis=1)
            worst = np.maximum(worst, np.where(differs, np.inf, 0.0))
            continue
        rows = wanted.reshape(len(wanted), -1).astype(np.float64)
        mine = given.reshape(rows.shape).astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            moved = np.linalg.norm(np.where(mine == rows, 0.0, mine - rows), axis=1)
        finite = rows[np.isfinite(rows).all(axis=1)]
        middle = finite.mean(axis=0) if len(finite) else 0.0
        spread = np.sqrt(np.sum((finite - middle) ** 2) / max(len(finite), 1))
        floor = float(np.finfo(np.float32).tiny)
        worst = np.maximum(worst, np.where(np.isnan(moved), np.inf, moved) / max(spread, floor))
    return worst


def largest_difference(outputs: Arrays, reference: Arrays) -> float:
    """The largest absolute difference of any number in any output; NaN counts as float32's end."""
    largest = 0.0
    for name, wanted in reference.items():
        if outputs[name].shape != wanted.shape:
            return float(np.finfo(np.float32).max)
        if wanted.dtype.kind in "fiu" and wanted.size:
            difference = np.abs(outputs[name].astype(float) - wanted.astype(float))
            end = float(np.finfo(np.float32).max)
            largest = max(largest, float(np.nan_to_num(difference, nan=end, posinf=end).max()))
    return largest
