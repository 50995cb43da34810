"""Pure: the figures of two profiles that are compared, and which of them changed beyond noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.observed import Observed
from loadtests.profile import Level, Profile
from loadtests.reports import resolution
from loadtests.reports.resampling import Draws, Interval, Resampler

BETTER, WORSE, WITHIN, UNKNOWN = "better", "worse", "within noise", "cannot tell"

Pair = tuple[Profile, Profile]


@dataclass(frozen=True)
class Change:
    """One figure of one pair.

    Attributes:
        name: of the pair.
        figure: which, with its unit.
        before: its value; None where it is not known.
        after: as above.
        more_is_better: whether it is one of those.
        interval: of the change; None where it cannot be told.
        why: it cannot be told; empty where it can.
    """

    name: str
    figure: str
    before: float | None
    after: float | None
    more_is_better: bool
    interval: Interval | None
    why: str = ""

    @property
    def change(self) -> float | None:
        """As a share of what was before."""
        if self.before is None or self.after is None or not self.before:
            return None
        return self.after / self.before - 1

    @property
    def verdict(self) -> str:
        """Whether it is better, worse, or neither beyond noise."""
        if self.interval is None or self.change is None:
            return UNKNOWN
        if not self.interval.is_beyond_noise:
            return WITHIN
        return BETTER if (self.interval.low > 0) == self.more_is_better else WORSE

    def is_regression(self, threshold: float) -> bool:
        """Whether it is worse beyond noise, and by more than a share of what it was."""
        return self.verdict == WORSE and abs(self.change or 0.0) > threshold

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an interval without an end has None there."""
        ends = (self.interval.low, self.interval.high) if self.interval else (None, None)
        low, high = (end if end is not None and math.isfinite(end) else None for end in ends)
        return {
            "name": self.name, "figure": self.figure, "before": self.before, "after": self.after,
            "change": self.change, "low": low, "high": high, "verdict": self.verdict,
            "why": self.why,
        }  # fmt: skip


@dataclass(frozen=True)
class _Drawn:
    """A figure whose noise is that of the calls it was counted from."""

    figure: str
    more_is_better: bool
    seen: Callable[[Pair], tuple[Observed | None, Observed | None]]
    value: Callable[[Observed], float | None]
    draws: Callable[[Resampler, Observed], Draws]


@dataclass(frozen=True)
class _Searched:
    """A figure whose noise is the step of the search that found it."""

    figure: str
    more_is_better: bool
    value: Callable[[Profile], float | None]
    ends: Callable[[Profile], tuple[float, float]]


def of(pair: Pair, resampler: Resampler) -> list[Change]:
    """All figures of a pair; those of latency with one caller, whose calls do not queue.

    Latencies at the SLO's rate are what the search made them, and those of a queue depend on each
    other, so that their noise could not be told from a histogram.
    """
    one, other = pair
    name = one.name if one.name == other.name else f"{one.name} -> {other.name}"
    return [_drawn(name, pair, each, resampler) for each in _DRAWN] + [
        _searched(name, pair, each) for each in _SEARCHED
    ]


def _drawn(name: str, pair: Pair, what: _Drawn, resampler: Resampler) -> Change:
    seen = what.seen(pair)
    before, after = (what.value(each) if each and not each.void else None for each in seen)
    interval, why = None, _why(seen, (before, after))
    if not why:
        drawn = [what.draws(resampler, each) for each in seen if each]
        interval = resampler.change(*drawn)
    return Change(name, what.figure, before, after, what.more_is_better, interval, why)


def _why(seen: tuple[Observed | None, Observed | None], values: tuple[float | None, ...]) -> str:
    """Why a change cannot be told; empty where it can."""
    for each, value in zip(seen, values, strict=True):
        if each is None:
            return "not measured on both sides"
        if each.void:
            return f"void: {each.void}"
        if value is None:
            return "too few answers"
        if not value:
            return "there was none"
    return ""


def _searched(name: str, pair: Pair, what: _Searched) -> Change:
    before, after = (what.value(each) for each in pair)
    ends = tuple(what.ends(each) for each in pair)
    interval = None if (0.0, math.inf) in ends else _span(*ends)
    why = "" if interval else "no search tells how exact it is"
    return Change(name, what.figure, before, after, what.more_is_better, interval, why)


def _span(before: tuple[float, float], after: tuple[float, float]) -> Interval:
    """The change between two values of which only the ends are known."""
    return Interval(after[0] / before[1] - 1, after[1] / before[0] - 1 if before[0] else math.inf)


def _alone(pair: Pair) -> tuple[Observed | None, Observed | None]:
    return pair[0].alone, pair[1].alone


def _at_slo(pair: Pair) -> tuple[Observed | None, Observed | None]:
    before, after = (each.at_slo for each in pair)
    return before.seen if before else None, after.seen if after else None


def _overloaded(pair: Pair) -> tuple[Observed | None, Observed | None]:
    """The runs at the highest multiple of its own rate that both were run at."""
    before, after = (_multiples(each) for each in pair)
    both = max(set(before) & set(after), default=None)
    return (None, None) if both is None else (before[both].seen, after[both].seen)


def _multiples(profile: Profile) -> dict[float, Level]:
    rate = profile.rate
    if not rate:
        return {}
    return {round(level.rate / rate, 1): level for level in profile.levels if level.rate > rate}


_DRAWN = (
    _Drawn("p50 ms, one caller", False, _alone, lambda seen: seen.percentile_ms(50),
           lambda draw, seen: draw.percentile(seen.latency, 50)),
    _Drawn("p99 ms, one caller", False, _alone, lambda seen: seen.percentile_ms(99),
           lambda draw, seen: draw.percentile(seen.latency, 99)),
    _Drawn("good answers/s, overload", True, _overloaded, lambda seen: seen.good_per_s,
           lambda draw, seen: draw.goodput(seen)),
    _Drawn("answered at the SLO", True, _at_slo, lambda seen: seen.success,
           lambda draw, seen: draw.success(seen)),
)  # fmt: skip
_SEARCHED = (
    _Searched("calls/s at the SLO", True, lambda profile: profile.rate, resolution.rates),
    _Searched("$ per million", False, lambda profile: profile.usd_per_million,
              resolution.usd_per_million),
)  # fmt: skip
# How many figures of a pair are judged by draws, and so share the error that may be made.
DRAWN = len(_DRAWN)
