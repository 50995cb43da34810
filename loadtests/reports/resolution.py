"""Pure: how exactly a search tells the highest rate at which the SLO holds."""

from __future__ import annotations

import math

from loadtests.profile import Profile


def rates(profile: Profile) -> tuple[float, float]:
    """Between which rates the highest one lies that holds the SLO.

    The step from the rate that held to the next that failed, to both sides of the former: that it
    held may have been luck, too. Without a failure above it there is no upper end; without a
    search, none at all.
    """
    rate = profile.rate
    if rate is None or not profile.searched:
        return 0.0, math.inf
    failed = [
        level.rate
        for level, failure in profile.searched
        if failure and not level.seen.void and level.rate > rate
    ]
    if not failed:
        return rate, math.inf
    step = min(failed) - rate
    return max(0.0, rate - step), rate + step


def usd_per_million(profile: Profile) -> tuple[float, float]:
    """Between which dollars for a million good answers its cost lies, for the same reason."""
    dollars, rate = profile.usd_per_million, profile.rate
    if dollars is None or not rate:
        return 0.0, math.inf
    slowest, fastest = rates(profile)
    return dollars * rate / fastest, dollars * rate / slowest if slowest else math.inf


def apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two intervals have nothing in common."""
    return one[1] < other[0] or other[1] < one[0]
