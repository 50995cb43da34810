"""Pure: when an open loop sends, drawn before it begins, so that no answer can change it."""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from service.errors import InvalidSetting

# Kind -> the rate over the time of the run, as shares of the highest: (share of the time, of the
# rate), straight lines between. The day is one of an application that people use: least at night,
# most in the early evening.
SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "poisson": ((0, 1), (1, 1)),
    "constant": ((0, 1), (1, 1)),
    "ramp": ((0, 0.05), (1, 1)),
    "step": ((0, 0.25), (0.25, 0.25), (0.25, 0.5), (0.5, 0.5), (0.5, 0.75), (0.75, 0.75),
             (0.75, 1), (1, 1)),
    "spike": ((0, 0.2), (0.45, 0.2), (0.45, 1), (0.55, 1), (0.55, 0.2), (1, 0.2)),
    "day": ((0, 0.35), (4 / 24, 0.2), (8 / 24, 0.6), (12 / 24, 0.8), (15 / 24, 0.75),
            (19 / 24, 1), (22 / 24, 0.7), (1, 0.35)),
}  # fmt: skip
# Of a file with one arrival, or one rate, in each line.
_TIMES, _RATES = ["time_s"], ["time_s", "requests_per_s"]


@dataclass(frozen=True)
class Curve:
    """A rate over time: straight lines between points.

    Attributes:
        points: (seconds, sends per second), ascending in time; two at the same time make a step.
    """

    points: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.points[-1][0]

    @property
    def sends(self) -> float:
        """All sends, the integral."""
        return self._totals()[-1]

    def draw(self, *, seed: int, even: bool = False) -> list[float]:
        """Seconds at which to send, ascending: the same for equal seeds.

        Poisson arrivals, of those draws that hold just as many as the curve has sends (which are
        sorted uniform draws, moved to where the curve has its sends): what is answered can then not
        exceed what is said to be offered.

        Args:
            seed: of the draws.
            even: spread the sends evenly instead.
        """
        number = round(self.sends)
        if even:
            shares = [(k + 0.5) / number for k in range(number)]
        else:
            chance = random.Random(seed)
            shares = sorted(chance.random() for _ in range(number))
        totals = self._totals()
        return [self._when(share * totals[-1], totals) for share in shares]

    def _totals(self) -> list[float]:
        """Sends until each point."""
        pieces = ((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(self.points))
        return list(accumulate(pieces, initial=0.0))

    def _when(self, sends: float, totals: Sequence[float]) -> float:
        """Seconds until so many have been sent."""
        at = min(max(bisect_left(totals, sends), 1), len(totals) - 1)
        (begin, first), (end, last) = self.points[at - 1], self.points[at]
        left = sends - totals[at - 1]
        slope = (last - first) / (end - begin) if end > begin else 0.0
        if abs(slope) < 1e-12:
            return begin + left / first if first else end
        # left = first x + slope x^2 / 2
        return begin + (math.sqrt(max(0.0, first * first + 2 * slope * left)) - first) / slope


def schedule(
    kind: str, *, rate: float, seconds: float, seed: int, trace: Path | None = None
) -> list[float]:
    """Seconds after the start at which to send, ascending.

    Args:
        kind: one of ``SHAPES``, or ``replay``.
        rate: sends per second, at the shape's highest; of a replay nothing.
        seconds: how long; of a replay, where it is cut off.
        seed: of the draws.
        trace: the file of a replay, see ``replayed``.

    Raises:
        InvalidSetting: there is no such shape, or the trace cannot be read.
    """
    if kind == "replay":
        if trace is None:
            raise InvalidSetting("a replay needs a trace file")
        return [time for time in replayed(trace, seed=seed) if time < seconds]
    return curve(kind, rate=rate, seconds=seconds).draw(seed=seed, even=kind == "constant")


def curve(kind: str, *, rate: float, seconds: float) -> Curve:
    """The rate over time of one of ``SHAPES``.

    Raises:
        InvalidSetting: there is no such shape.
    """
    if kind not in SHAPES:
        raise InvalidSetting(
            f"there are no arrivals '{kind}'; there are {', '.join(SHAPES)}, and replay"
        )
    return Curve(tuple((seconds * x, rate * y) for x, y in SHAPES[kind]))


def replayed(trace: Path, *, seed: int) -> list[float]:
    """The arrivals of a trace, drawn from its rate where it has no arrivals of its own.

    It is a CSV file with the column time_s (one arrival in each line), or with the columns time_s
    and requests_per_s (a rate over time: Poisson arrivals are drawn). Its first time is the start
    of the replay, so that times of a day or of a clock do as well.

    Raises:
        InvalidSetting: it is no such file, or its times do not ascend.
    """
    found = read_trace(trace)
    return found.draw(seed=seed) if isinstance(found, Curve) else found


def read_trace(trace: Path) -> list[float] | Curve:
    """A trace as it stands in its file; see ``replayed``, also for what is raised."""
    try:
        with trace.open(encoding="utf-8", newline="") as file:
            head, *lines = [line for line in csv.reader(file) if line]
            rows = [tuple(float(cell) for cell in line) for line in lines]
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{trace} cannot be read as a trace: {error}") from None
    if head not in (_TIMES, _RATES) or not rows or any(len(row) != len(head) for row in rows):
        raise InvalidSetting(
            f"{trace} is no trace: its first line is time_s, with one arrival in each line after "
            "it, or time_s,requests_per_s, with the rate at that time and straight lines between"
        )
    times = [row[0] for row in rows]
    finite = all(math.isfinite(cell) for row in rows for cell in row)
    if not finite or times != sorted(times) or min(map(min, rows)) < 0:
        raise InvalidSetting(f"the times of {trace} must ascend from 0, and its rates not be < 0")
    if head == _TIMES:
        return [moment - times[0] for moment in times]
    return Curve(tuple((row[0] - times[0], row[1]) for row in rows))
