"""Pure: the calls that a fleet has to answer, and the share of them that one replica gets."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from loadtests import arrivals
from loadtests.arrivals import Curve
from service.errors import InvalidSetting

DAY_S = 86_400.0
# What is longer than can be simulated is looked at in so many windows, and where it is highest.
_WINDOWS = 24
# Arrivals become a rate by counting them in so many seconds.
_COUNTED_S = 15.0

# (from when on, how many replicas), ascending; the first is at 0
Fleet = Sequence[tuple[float, float]]
Window = tuple[float, float]


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

    def busiest(self, seconds: float) -> Demand:
        """The stretch of this length in which most calls come; all of it where it is shorter."""
        if self.steady or seconds >= self.curve.seconds:
            return self
        sends, each_s = _Sends(self.curve), seconds / 20
        starts = [k * each_s for k in range(int((self.curve.seconds - seconds) / each_s) + 1)]
        begin = max(starts, key=lambda start: sends.until(start + seconds) - sends.until(start))
        window = (begin, begin + seconds)
        return replace(self, curve=cut(self.curve, window), times=tuple(_kept(self.times, window)))


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
    each_s = min(_COUNTED_S, max(times[-1], 1e-3))
    number = max(1, int(times[-1] / each_s) + 1)
    counts = Counter(int(moment / each_s) for moment in times)
    edges = [(k * each_s, counts[k] / each_s) for k in range(number)]
    return Curve(tuple(point for begin, rate in edges for point in
                       ((begin, rate), (begin + each_s, rate))))  # fmt: skip


def share(demand: Demand, fleet: Fleet, *, calls: int, seed: int) -> tuple[list[float], float]:
    """The calls that one replica gets if each goes to one that is drawn, about ``calls`` of them.

    Where more come, it is looked at in windows of the whole time, one of them where most come for
    each replica; inside a window nothing is changed, and they follow upon each other.

    Args:
        demand: what all replicas get.
        fleet: how many they are.
        calls: how many to simulate.
        seed: of the draws.

    Returns:
        Seconds at which calls are due, ascending; and of all of it.
    """
    if demand.steady:
        rate = demand.peak / fleet[0][1]
        seconds = calls / rate
        return Curve(((0.0, rate), (seconds, rate))).draw(seed=seed), seconds
    alone = shared(demand.curve, fleet)
    windows = _windows(alone, calls)
    total_s = sum(end - begin for begin, end in windows)
    if not demand.times:
        return _joined([cut(alone, window) for window in windows]).draw(seed=seed), total_s
    chance, starts = random.Random(seed), [begin for begin, _ in fleet]
    draws = ((due, chance.random()) for due in demand.times)
    mine = [due for due, drawn in draws
            if drawn * fleet[bisect_right(starts, due) - 1][1] < 1]  # fmt: skip
    times, passed = list[float](), 0.0
    for window in windows:
        times += [passed + due for due in _kept(mine, window)]
        passed += window[1] - window[0]
    return times, total_s


def shared(curve: Curve, fleet: Fleet) -> Curve:
    """The rate that one of so many replicas gets."""
    ends = [begin for begin, _ in fleet[1:]] + [curve.seconds]
    pieces = []
    for (begin, replicas), end in zip(fleet, ends, strict=True):
        if begin < min(end, curve.seconds):
            piece = cut(curve, (begin, min(end, curve.seconds)))
            pieces.append(Curve(tuple((moment, rate / replicas) for moment, rate in piece.points)))
    return _joined(pieces)


def cut(curve: Curve, window: Window) -> Curve:
    """A stretch of a curve, which begins at 0."""
    begin, end = window
    times = [moment for moment, _ in curve.points]
    inner = curve.points[bisect_right(times, begin) : bisect_left(times, end)]
    points = [(begin, _rate(curve, times, begin, after=True)), *inner,
              (end, _rate(curve, times, end, after=False))]  # fmt: skip
    return Curve(tuple((moment - begin, rate) for moment, rate in points))


def rate_at(curve: Curve, moment: float) -> float:
    """The rate from a moment on."""
    return _rate(curve, [begin for begin, _ in curve.points], moment, after=True)


def _rate(curve: Curve, times: Sequence[float], moment: float, *, after: bool) -> float:
    """The rate at a moment; of a step, what it is before or after it."""
    at = bisect_right(times, moment) if after else bisect_left(times, moment)
    at = min(max(at, 1), len(times) - 1)
    (begin, first), (end, last) = curve.points[at - 1], curve.points[at]
    if end <= begin:
        return last if after else first
    return first + (last - first) * min(1.0, max(0.0, (moment - begin) / (end - begin)))


class _Sends:
    """The calls of a curve, looked up often."""

    def __init__(self, curve: Curve) -> None:
        """Add them up."""
        self._points = curve.points
        self._times = [moment for moment, _ in curve.points]
        areas = ((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve.points))
        self._totals = list(accumulate(areas, initial=0.0))

    def until(self, moment: float) -> float:
        """How many there are before a moment."""
        at = min(max(bisect_right(self._times, moment), 1), len(self._times) - 1)
        (begin, first), (end, last) = self._points[at - 1], self._points[at]
        passed = min(max(0.0, moment - begin), end - begin)
        slope = (last - first) / (end - begin) if end > begin else 0.0
        return self._totals[at - 1] + passed * (first + slope * passed / 2)


def _joined(curves: Sequence[Curve]) -> Curve:
    """One after the other."""
    points, passed = list[tuple[float, float]](), 0.0
    for curve in curves:
        points += [(passed + moment, rate) for moment, rate in curve.points]
        passed += curve.seconds
    return Curve(tuple(points))


def _windows(curve: Curve, calls: int) -> list[Window]:
    """Where to look, if not at all of it."""
    each_s = curve.seconds * calls / max(curve.sends, 1e-9) / _WINDOWS
    every_s = curve.seconds / _WINDOWS
    if each_s >= every_s:
        return [(0.0, curve.seconds)]
    begins = [k * every_s + (every_s - each_s) / 2 for k in range(_WINDOWS)]
    sends = _Sends(curve)
    highest, _ = max(curve.points, key=lambda point: point[1])
    last = curve.seconds - each_s
    starts = [min(max(0.0, start), last) for start in (highest, highest - each_s)]
    peak = max(starts, key=lambda start: sends.until(start + each_s) - sends.until(start))
    nearest = min(range(_WINDOWS), key=lambda k: abs(begins[k] - peak))
    begins[nearest] = peak
    return [(begin, begin + each_s) for begin in begins]


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
