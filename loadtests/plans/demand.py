"""Pure: the calls that a fleet has to answer, and the share of them that one replica gets."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path

from loadtests import arrivals
from loadtests.arrivals import Curve
from loadtests.plans import curves
from loadtests.plans.curves import Fleet, Window
from service.errors import InvalidSetting

DAY_S = 86_400.0
# What is longer than can be simulated is looked at in so many windows, and where most comes.
_WINDOWS = 24
# Calls of one replica that are simulated where most come; and how finely that is looked for: in so
# many stretches, more if one would have a large share of the calls.
_HOT_CALLS, _CELLS, _CELL_SHARE = 20_000, 1200, 20
# A queue may last so long after most came, but not many such stretches.
_AFTER_S, _CELLS_AFTER = 15.0, 5
# Arrivals become a rate by counting them in so many seconds, longer ones in a trace of weeks.
_COUNTED_S, _MOST_COUNTS = 15.0, 100_000


@dataclass(frozen=True)
class Demand:
    """What comes.

    Attributes:
        said: in words.
        curve: its rate over time.
        times: of the arrivals themselves, where a trace has them.
        steady: whether it goes on like this for ever.
    """

    said: str
    curve: Curve
    times: tuple[float, ...] = ()
    steady: bool = False

    @property
    def peak(self) -> float:
        """The highest rate, per second."""
        return max(rate for _, rate in self.curve.points)

    @property
    def mean(self) -> float:
        """The mean rate, per second."""
        return self.curve.sends / self.curve.seconds

    def times_as_much(self, factor: float) -> Demand:
        """The same with more or fewer calls: of a trace's own arrivals, at the same moments."""
        points = tuple((moment, factor * rate) for moment, rate in self.curve.points)
        return replace(self, curve=Curve(points), times=tuple(_multiplied(self.times, factor)))

    def busiest_window(self, seconds: float) -> Window:
        """Where the stretch of this length lies in which most calls come."""
        if seconds >= self.curve.seconds:
            return 0.0, self.curve.seconds
        sends, each_s = curves.Sends(self.curve), seconds / 20
        starts = [k * each_s for k in range(int((self.curve.seconds - seconds) / each_s) + 1)]
        begin = max(starts, key=lambda start: sends.until(start + seconds) - sends.until(start))
        return begin, begin + seconds

    def during(self, window: Window) -> Demand:
        """A stretch of it, which begins at 0."""
        return replace(
            self, curve=curves.cut(self.curve, window), times=tuple(_kept(self.times, window))
        )

    def busiest(self, seconds: float) -> Demand:
        """The stretch of this length in which most calls come; all of it where it is shorter."""
        if self.steady or seconds >= self.curve.seconds:
            return self
        return self.during(self.busiest_window(seconds))


def steady(rate: float) -> Demand:
    """So many calls per second, for ever."""
    return Demand(f"{rate:g}/s", Curve(((0.0, rate), (1.0, rate))), steady=True)


def day(peak: float) -> Demand:
    """The day of an application that people use, with so many calls per second at its highest."""
    return Demand(
        f"a day of {peak:g}/s at its highest", arrivals.curve("day", rate=peak, seconds=DAY_S)
    )


def traced(path: Path) -> Demand:
    """What a trace file says; see ``arrivals.replayed``.

    Raises:
        InvalidSetting: it is none, or nothing comes in it.
    """
    found = arrivals.read_trace(path)
    times = () if isinstance(found, Curve) else tuple(found)
    curve = found if isinstance(found, Curve) else _counted(found)
    if curve.seconds <= 0 or curve.sends < 1:
        raise InvalidSetting(f"{path} has no calls over a time, so nothing can be planned for it")
    return Demand(path.name, curve, times)


def _counted(times: Sequence[float]) -> Curve:
    """The rate of arrivals, in steps."""
    each_s = max(min(_COUNTED_S, max(times[-1], 1e-3)), times[-1] / _MOST_COUNTS)
    number = max(1, int(times[-1] / each_s) + 1)
    counts = Counter(int(moment / each_s) for moment in times)
    edges = [(k * each_s, counts[k] / each_s) for k in range(number)]
    return Curve(tuple(point for begin, rate in edges for point in
                       ((begin, rate), (begin + each_s, rate))))  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Calls of one replica that are simulated.

    Attributes:
        times: seconds at which they are due, ascending.
        seconds: the length of it.
        weight: how much of the whole time each second of it stands for.
    """

    times: list[float]
    seconds: float
    weight: float = 1.0


def share(demand: Demand, fleet: Fleet, *, calls: int, seed: int) -> list[Part]:
    """The calls that one replica gets if each goes to one that is drawn.

    Where more come than can be simulated, the stretches in which most come are there in full, and
    of the rest windows, which stand for all of it. Inside a stretch or window nothing is changed,
    and they follow upon each other.

    Args:
        demand: what all replicas get.
        fleet: how many they are.
        calls: how many to simulate where most of them are much alike; and as many as ``_HOT_CALLS``
            in the stretches where most come.
        seed: of the draws.
    """
    if demand.steady:
        rate = demand.peak / fleet[0][1]
        seconds = calls / rate
        return [Part(Curve(((0.0, rate), (seconds, rate))).draw(seed=seed), seconds)]
    alone = curves.shared(demand.curve, fleet)
    mine = _drawn(demand.times, fleet, seed) if demand.times else None
    whole = [(0.0, alone.seconds)]
    if alone.sends <= calls + _HOT_CALLS:
        return [_part(alone, mine, whole, seed=seed)]
    weight = alone.sends / calls
    hot = _hot(alone, mine)
    calm = _between(hot, alone.seconds)
    seen = _windows(calm, sum(end - begin for begin, end in calm) / weight)
    parts = [_part(alone, mine, seen, seed=seed, weight=weight)]
    return [_part(alone, mine, hot, seed=seed + 1), *parts] if hot else parts


def _drawn(times: Sequence[float], fleet: Fleet, seed: int) -> list[float]:
    """Of a trace's own arrivals, those of one replica."""
    chance, starts = random.Random(seed), [begin for begin, _ in fleet]
    draws = ((due, chance.random()) for due in times)
    return [due for due, drawn in draws
            if drawn * fleet[bisect_right(starts, due) - 1][1] < 1]  # fmt: skip


def _part(
    curve: Curve, times: Sequence[float] | None, windows: Sequence[Window], *, seed: int,
    weight: float = 1.0,
) -> Part:  # fmt: skip
    """What comes in some windows, one after the other; drawn where there are no own arrivals."""
    seconds = sum(end - begin for begin, end in windows)
    if times is None:
        pieces = curves.joined([curves.cut(curve, window) for window in windows])
        return Part(pieces.draw(seed=seed), seconds, weight)
    found, passed = list[float](), 0.0
    for window in windows:
        found += [passed + due for due in _kept(times, window)]
        passed += window[1] - window[0]
    return Part(found, seconds, weight)


def _hot(curve: Curve, times: Sequence[float] | None) -> list[Window]:
    """The stretches in which most come, each with a while after it, in which a queue ends."""
    number = max(_CELLS, ceil(curve.sends * _CELL_SHARE / _HOT_CALLS))
    each_s, sends = curve.seconds / number, curves.Sends(curve)
    edges = [k * each_s for k in range(number)] + [curve.seconds]
    totals = [sends.until(edge) if times is None else bisect_left(times, edge) for edge in edges]
    counts = [b - a for a, b in pairwise(totals)]
    after, chosen, total = min(_CELLS_AFTER, ceil(_AFTER_S / each_s)), set[int](), 0.0
    for k in sorted(range(number), key=lambda k: -counts[k]):
        new = [near for near in range(k, min(number, k + after + 1)) if near not in chosen]
        total += sum(counts[near] for near in new)
        if total > _HOT_CALLS:
            break
        chosen.update(new)
    begins = [k for k in sorted(chosen) if k - 1 not in chosen]
    ends = [k + 1 for k in sorted(chosen) if k + 1 not in chosen]
    return [(edges[begin], edges[end]) for begin, end in zip(begins, ends, strict=True)]


def _between(windows: Sequence[Window], seconds: float) -> list[Window]:
    """The rest of the time."""
    edges = [0.0, *(edge for window in windows for edge in window), seconds]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _windows(stretches: Sequence[Window], seconds: float) -> list[Window]:
    """So much of some stretches, in windows that are spread evenly over their time."""
    lengths = [end - begin for begin, end in stretches]
    whole_s, found, passed = sum(lengths), list[Window](), 0.0
    wanted = [((k + 0.5) * whole_s / _WINDOWS - seconds / _WINDOWS / 2) for k in range(_WINDOWS)]
    for (begin, _), length in zip(stretches, lengths, strict=True):
        for start in wanted:
            first, last = max(start, passed), min(start + seconds / _WINDOWS, passed + length)
            if last > first:
                found.append((begin + first - passed, begin + last - passed))
        passed += length
    return found


def _kept(times: Sequence[float], window: Window) -> list[float]:
    begin, end = window
    return [due - begin for due in times[bisect_left(times, begin) : bisect_left(times, end)]]


def _multiplied(times: Sequence[float], factor: float) -> list[float]:
    """So many times as many arrivals in each stretch; bursts stay as dense as they are.

    Some are doubled, or left out, each as often. The second of two comes before the next arrival,
    and no later after the first than that came after the one before.
    """
    if factor == 1 or not times:
        return list(times)
    copies = [int((k + 1) * factor + 1e-9) - int(k * factor + 1e-9) for k in range(len(times))]
    befores = [0.0, *(b - a for a, b in pairwise(times))]
    gaps = [min(pair) for pair in zip(befores, [*befores[1:], 0.0], strict=True)]
    return [
        due + copy / number * gap
        for due, number, gap in zip(times, copies, gaps, strict=True)
        for copy in range(number)
    ]
