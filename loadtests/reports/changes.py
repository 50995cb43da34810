"""Pure: the figures of two profiles that are compared, and which of them changed beyond noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.observed import Observed
from loadtests.profile import Level, Profile
from loadtests.reports import resolution
from loadtests.reports.columns import AT_LEAST, AT_MOST, signed
from loadtests.reports.resampling import Interval, Resampler

BETTER, WORSE, WITHIN, UNKNOWN = "better", "worse", "within noise", "cannot tell"
ALLOWED = "in bounds"

# Goodput under overload, and answers at the SLO, are those of calls that queue: one stall of the
# machine takes many at once. Of equal simulated servers that stall now and then it changed the
# goodput of 6 s by up to 29 %, so only a fall by more than a third is called one.
GOODPUT_MAY, ANSWERED_MAY = 1 / 3, 0.05
# Nobody has seen yet how well it repeats.
ENERGY_MAY = 0.1
# Of accuracy, on the same held-out rows; what more costs is a question of taste, so an option.
POINTS = 0.5
_BOUND = "the generator failed before the server did, so there are bounds only"

Pair = tuple[Profile, Profile]
Seen = tuple[Observed | None, Observed | None]


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
        may: how much it may change; of figures whose noise is not known. None for all others.
        in_points: whether the change is a difference, not a share of what was before.
        bounds: how before and after are written that are bounds only.
        is_told_only: whether it is no regression, however much worse it is.
    """

    name: str
    figure: str
    before: float | None
    after: float | None
    more_is_better: bool
    interval: Interval | None = None
    why: str = ""
    may: float | None = None
    in_points: bool = False
    bounds: tuple[str, str] = ("", "")
    is_told_only: bool = False

    @property
    def change(self) -> float | None:
        """As a share of what was before, or in points; of bounds none is known."""
        if self.before is None or self.after is None or any(self.bounds):
            return None
        if self.in_points:
            return round(self.after - self.before, 6)
        return self.after / self.before - 1 if self.before else None

    @property
    def said(self) -> str:
        """The change in words; empty where it is not known."""
        if self.change is None:
            return ""
        if self.in_points:
            return f"{signed(self.change, 2)} points"
        return f"{signed(100 * self.change, 1)} %"

    @property
    def verdict(self) -> str:
        """Whether it is better, worse, or neither beyond noise, or beyond what it may."""
        if self.why or self.change is None:
            return UNKNOWN
        if self.may is not None:
            if abs(self.change) <= self.may:
                return ALLOWED
            return BETTER if (self.change > 0) == self.more_is_better else WORSE
        if self.interval is None:
            return UNKNOWN
        if not self.interval.is_beyond_noise:
            return WITHIN
        return BETTER if (self.interval.low > 0) == self.more_is_better else WORSE

    def is_regression(self, threshold: float) -> bool:
        """Whether it is worse, and by more than a share of what it was, or than its points."""
        return not self.is_told_only and self.is_beyond(threshold)

    def is_beyond(self, threshold: float) -> bool:
        """As above, of what is told only, too."""
        most = 0.0 if self.in_points else threshold
        return self.verdict == WORSE and abs(self.change or 0.0) > most

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an interval without an end has None there."""
        low, high = self.interval.ends if self.interval else (None, None)
        return {
            "name": self.name, "figure": self.figure, "before": self.before, "after": self.after,
            "change": self.change, "in_points": self.in_points, "low": low, "high": high,
            "may": self.may, "verdict": self.verdict, "why": self.why,
            "told_only": self.is_told_only,
            "bounds": [each.strip() for each in self.bounds],
        }  # fmt: skip


@dataclass(frozen=True)
class _Drawn:
    """A percentile whose noise is that of the calls it was counted from."""

    figure: str
    percent: float
    is_told_only: bool = False


@dataclass(frozen=True)
class _Searched:
    """A figure whose noise is that of the search that found it."""

    figure: str
    more_is_better: bool
    value: Callable[[Profile], float | None]
    interval: Callable[[Profile, Profile, float], Interval | None]
    bound: str


@dataclass(frozen=True)
class _Bounded:
    """A figure whose noise is not known: it may change by so much."""

    figure: str
    seen: Callable[[Pair], Seen]
    value: Callable[[Observed], float | None]
    may: float


def of(pair: Pair, resampler: Resampler, *, points: float = POINTS) -> list[Change]:
    """All figures of a pair; those of latency with one caller, whose calls do not queue.

    Latencies at the SLO's rate are what the search made them, and those of a queue depend on each
    other, so that their noise could not be told from a histogram.

    Args:
        pair: before and after.
        resampler: for ``JUDGED`` figures of each pair.
        points: that the accuracy may fall.
    """
    one, other = pair
    name = one.name if one.name == other.name else f"{one.name} -> {other.name}"
    return [
        *(_drawn(name, pair, each, resampler) for each in _DRAWN),
        *(_bounded(name, pair, each) for each in _BOUNDED),
        *(_searched(name, pair, each, resampler.tail) for each in _SEARCHED),
        _accuracy(name, pair, points),
        *_energy(name, pair),
    ]


def _drawn(name: str, pair: Pair, what: _Drawn, resampler: Resampler) -> Change:
    seen = pair[0].alone, pair[1].alone
    values = _values(seen, lambda each: each.percentile_ms(what.percent))
    interval, why = None, _why(seen, values)
    if not why:
        drawn = [resampler.percentile(each.latency, what.percent) for each in seen if each]
        interval = resampler.change(*drawn)
    return Change(
        name, what.figure, *values, more_is_better=False, interval=interval, why=why,
        is_told_only=what.is_told_only,
    )  # fmt: skip


def _bounded(name: str, pair: Pair, what: _Bounded) -> Change:
    seen = what.seen(pair)
    values = _values(seen, what.value)
    why = _why(seen, values)
    if what.seen is _overloaded and any(each.generator_bound for each in pair):
        why = _BOUND
    return Change(name, what.figure, *values, more_is_better=True, why=why, may=what.may)


def _values(
    seen: Seen, value: Callable[[Observed], float | None]
) -> tuple[float | None, float | None]:
    before, after = (value(each) if each and not each.void else None for each in seen)
    return before, after


def _why(seen: Seen, values: tuple[float | None, float | None]) -> str:
    """Why a change cannot be told; empty where it can: a fall to nothing can."""
    for each, value in zip(seen, values, strict=True):
        if each is None:
            return "not measured on both sides"
        if each.void:
            return f"void: {each.void}"
        if value is None:
            return "too few answers"
    return "" if values[0] else "there was none before"


def _searched(name: str, pair: Pair, what: _Searched, tail: float) -> Change:
    before, after = (what.value(each) for each in pair)
    interval = what.interval(*pair, tail)
    why = "" if interval else "no search, or no caller alone, tells how exact it is"
    if interval and interval.shows_nothing:
        why = "nothing failed above a rate, so it may be any higher one"
    bounds = [what.bound if each.generator_bound else "" for each in pair]
    return Change(
        name, what.figure, before, after, what.more_is_better, interval,
        _BOUND if any(bounds) else why, bounds=(bounds[0], bounds[1]),
    )  # fmt: skip


def _accuracy(name: str, pair: Pair, points: float) -> Change:
    """Itself where both tell it, since the trained models may differ; else the change over them."""
    figure, (before, after) = "accuracy, %", (each.subject.accuracy for each in pair)
    if before is not None and after is not None:
        before, after = 100 * before, 100 * after
    else:
        figure = "accuracy change, points"
        before, after = (each.subject.accuracy_change for each in pair)
    why = "not told on both sides" if before is None or after is None else ""
    return Change(name, figure, before, after, more_is_better=True, why=why, may=points,
                  in_points=True)  # fmt: skip


def _energy(name: str, pair: Pair) -> list[Change]:
    """Told where both were measured; other rates draw otherwise, so it has no say in the end."""
    before, after = (each.energy.joules_per_1000 if each.energy else None for each in pair)
    if before is None or after is None:
        return []
    figure = "J per 1,000 answers"
    return [Change(name, figure, before, after, more_is_better=False, may=ENERGY_MAY,
                   is_told_only=True)]  # fmt: skip


def _at_slo(pair: Pair) -> Seen:
    before, after = (each.at_slo for each in pair)
    return before.seen if before else None, after.seen if after else None


def _overloaded(pair: Pair) -> Seen:
    """The runs at the highest multiple of its own rate that both were run at."""
    before, after = (_multiples(each) for each in pair)
    both = max(set(before) & set(after), default=None)
    return (None, None) if both is None else (before[both].seen, after[both].seen)


def _multiples(profile: Profile) -> dict[float, Level]:
    rate = profile.rate
    if not rate:
        return {}
    return {round(level.rate / rate, 1): level for level in profile.levels if level.rate > rate}


# One caller is looked at for seconds, once: a minute in which the machine does something else makes
# its p99 several times as much, and no draw of these calls shows that.
_DRAWN = (_Drawn("p50 ms, one caller", 50), _Drawn("p99 ms, one caller", 99, is_told_only=True))
_BOUNDED = (
    _Bounded("good answers/s, overload", _overloaded, lambda seen: seen.good_per_s, GOODPUT_MAY),
    _Bounded("answered at the SLO", _at_slo, lambda seen: seen.success, ANSWERED_MAY),
)
_SEARCHED = (
    _Searched("calls/s at the SLO", True, lambda profile: profile.rate, resolution.rate_change,
              AT_LEAST),
    _Searched("$ per million", False, lambda profile: profile.usd_per_million,
              resolution.usd_change, AT_MOST),
)  # fmt: skip
# How many figures of a pair share the error that may be made; both that were searched are one.
JUDGED = len(_DRAWN) + 1
