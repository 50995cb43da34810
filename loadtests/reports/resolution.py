"""Pure: how exactly a search tells the highest rate at which the SLO holds.

Two searches on one server do not find the same rate: whether a trial holds is partly luck, and the
more so, the flatter the latency rises over the rate, which it does far below the capacity, where
one answer takes much of the limit. Of 40 to 150 simulated searches each, on servers with limits of
5 to 25 answers' time (``tests/loadtests/simulated.py``), the logarithms of the rates had standard
deviations of 0.023 to 0.16; the rule below covers all of them.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from loadtests.profile import Profile
from loadtests.reports.resampling import CONFIDENCE, Interval

# Standard deviation of the logarithm of the rate: this at least, or so much of one answer's share
# of the limit; and more in proportion, where the next rate that failed is further off than this.
_LEAST_SD, _OF_SHARE, _USUAL_STEP = 0.025, 0.7, 0.04


def rate_change(
    before: Profile, after: Profile, tail: float = (1 - CONFIDENCE) / 2
) -> Interval | None:
    """Where the change of the highest rate lies; None where nothing tells how exact it is.

    Where nothing failed above a rate, it has no upper end; where only the generator did, nothing
    is told.

    Args:
        before: one profile.
        after: another.
        tail: the chance that the change is beyond an end.
    """
    noise, later = _noise(before), _noise(after)
    if noise is None or later is None or not before.rate or not after.rate:
        return None
    ratio, wide = after.rate / before.rate, NormalDist().inv_cdf(1 - tail)
    down, up = math.hypot(later[0], noise[1]), math.hypot(later[1], noise[0])
    return Interval(ratio * math.exp(-wide * down) - 1, ratio * math.exp(wide * up) - 1)


def usd_change(
    before: Profile, after: Profile, tail: float = (1 - CONFIDENCE) / 2
) -> Interval | None:
    """As above, of the dollars for a million good answers: of the rate, but for the price."""
    rate = rate_change(after, before, tail)
    if rate is None or not before.usd_per_million or after.usd_per_million is None:
        return None
    prices = after.usd_per_million * (after.rate or 0.0)
    prices /= before.usd_per_million * (before.rate or 1.0)
    return Interval(prices * (1 + rate.low) - 1, prices * (1 + rate.high) - 1)


def apart(one: Profile, other: Profile) -> bool:
    """Whether the searches can tell what two of them cost apart."""
    change = usd_change(one, other)
    return change is not None and change.is_beyond_noise


def _noise(profile: Profile) -> tuple[float, float] | None:
    """Of the rate's logarithm, downwards and upwards; None where nothing tells it."""
    usual_s = profile.alone.latency.at(50) if profile.alone else None
    if profile.generator_bound:
        return None
    if not profile.rate or not profile.searched or usual_s is None:
        return None
    failed = [
        level.rate
        for level, failure in profile.searched
        if failure and not level.seen.void and level.rate > profile.rate
    ]
    least = max(_LEAST_SD, _OF_SHARE * usual_s / profile.slo.limit_s)
    if not failed:
        return least, math.inf
    noise = least * max(1.0, math.log(min(failed) / profile.rate) / _USUAL_STEP)
    return noise, noise
