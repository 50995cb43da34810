"""How much a number of rows proves: exact binomial bounds."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


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


def rows_to_prove(events: int, max_drop: float) -> int | None:
    """How many rows would hold if no more of them were newly wrong; None if no number would."""
    low, high = events, events + 1
    while 100 * upper_bound(events, high) > max_drop:
        low, high = high, 2 * high
        if high > 10**7:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if 100 * upper_bound(events, middle) > max_drop else (low, middle)
        )
    return high


def plausible(events: int, trials: int, rate: float) -> bool:
    """Whether so many events could come from something with this rate.

    The rule by which a search goes on: no, where at least as many would be seen in less than one of
    ten tries.
    """
    if events == 0:
        return True
    if not 0 < rate < 1:
        return rate >= 1
    return 1 - _at_most(events - 1, trials, rate) >= 0.1
