"""Pure: stretches of a rate over time, what one of a fleet gets of it, and its sums."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import itemgetter

from loadtests.arrivals import Curve

# (from when on, how many replicas), ascending; the first is at 0
Fleet = Sequence[tuple[float, float]]
Window = tuple[float, float]
_MOMENT = itemgetter(0)


def shared(curve: Curve, fleet: Fleet) -> Curve:
    """The rate that one of so many replicas gets."""
    ends = [begin for begin, _ in fleet[1:]] + [curve.seconds]
    pieces = []
    for (begin, replicas), end in zip(fleet, ends, strict=True):
        if begin < min(end, curve.seconds):
            piece = cut(curve, (begin, min(end, curve.seconds)))
            pieces.append(Curve(tuple((moment, rate / replicas) for moment, rate in piece.points)))
    return joined(pieces)


def fleet_in(fleet: Fleet, window: Window) -> Fleet:
    """A stretch of a fleet, which begins at 0."""
    begin, end = window
    at = bisect_right(fleet, begin, key=_MOMENT) - 1
    later = [(moment - begin, replicas) for moment, replicas in fleet[at + 1 :] if moment < end]
    return [(0.0, fleet[at][1]), *later]


def cut(curve: Curve, window: Window) -> Curve:
    """A stretch of a curve, which begins at 0."""
    begin, end = window
    first = bisect_right(curve.points, begin, key=_MOMENT)
    inner = curve.points[first : bisect_left(curve.points, end, key=_MOMENT)]
    points = [(begin, _rate(curve, begin, after=True)), *inner,
              (end, _rate(curve, end, after=False))]  # fmt: skip
    return Curve(tuple((moment - begin, rate) for moment, rate in points))


def rate_at(curve: Curve, moment: float) -> float:
    """The rate from a moment on."""
    return _rate(curve, moment, after=True)


def _rate(curve: Curve, moment: float, *, after: bool) -> float:
    """The rate at a moment; of a step, what it is before or after it."""
    bisect = bisect_right if after else bisect_left
    at = min(max(bisect(curve.points, moment, key=_MOMENT), 1), len(curve.points) - 1)
    (begin, first), (end, last) = curve.points[at - 1], curve.points[at]
    if end <= begin:
        return last if after else first
    return first + (last - first) * min(1.0, max(0.0, (moment - begin) / (end - begin)))


def joined(curves: Sequence[Curve]) -> Curve:
    """One after the other."""
    points, passed = list[tuple[float, float]](), 0.0
    for curve in curves:
        points += [(passed + moment, rate) for moment, rate in curve.points]
        passed += curve.seconds
    return Curve(tuple(points))


class Sends:
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
