"""Latencies without rounding to milliseconds: HdrHistogram, which adds up across processes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable
from functools import cache
from math import exp, lgamma, log, log1p
from typing import Any

from hdrh.histogram import HdrHistogram

# Of what may be said of a percentile: in at most one of so many runs is it wrong.
CONFIDENCE = 0.99
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
# Of HdrHistogram's form, after three numbers that it checks: digits, lowest and highest value.
_HEAD = struct.Struct(">12xIQQ")


@cache
def samples_for(percent: float, violations: int = 0) -> int:
    """How few values may show that a percentile lies below a limit, with so many above that limit.

    Binomial: were the share above the limit just what the percentile allows, then so few violations
    would be seen in at most one of a hundred runs. It gives MLPerf's figures (its inference rules,
    early stopping): for a p99 459 values with none above, 662 with one, 2010 with ten.

    Args:
        percent: of the percentile, above 0 and below 100.
        violations: values above the limit.
    """
    share = 1 - percent / 100
    low, high = violations + 1, 2 * (violations + 1)
    while _chance(high, violations, share) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if _chance(middle, violations, share) > 1 - CONFIDENCE:
            low = middle + 1
        else:
            high = middle
    return low


def _chance(values: int, most: int, share: float) -> float:
    """That at most so many of these values are violations, each with this chance."""
    if values * share <= most:  # the median is not above it: more than the sum can be wrong about
        return 0.5
    # From the last term down, each by the one above it: of a run under overload the binomial
    # coefficients are too large for a float.
    first = lgamma(values + 1) - lgamma(most + 1) - lgamma(values - most + 1)
    term = exp(first + most * log(share) + (values - most) * log1p(-share))
    total = term
    for k in range(most, 0, -1):
        term *= k / (values - k + 1) * (1 - share) / share
        total += term
        if term < 1e-12 * total:
            break
    return total


class Histogram:
    """Seconds, from a microsecond to an hour, to three significant digits."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        """Hold these values."""
        self._counts: Any = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        for value in seconds:
            self.add(value)

    def __len__(self) -> int:
        """How many values there are."""
        return int(self._counts.get_total_count())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_text() == other.to_text()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, seconds: float) -> None:
        """Count one value; what is out of range counts as the nearest that is in it."""
        self._counts.record_value(min(max(round(seconds * 1e6), _LOWEST_US), _HIGHEST_US))

    def merge(self, other: Histogram) -> None:
        """Add the values of another, of this or another process."""
        self._counts.add(other._counts)

    def at(self, percent: float) -> float | None:
        """A percentile in seconds, whatever the number of values; None without any."""
        return self._counts.get_value_at_percentile(percent) / 1e6 if len(self) else None

    def judged(self, percent: float) -> float | None:
        """A percentile in seconds, where there are values enough to speak of it; else None."""
        return self.at(percent) if len(self) >= samples_for(percent) else None

    def above(self, limit_s: float) -> int:
        """How many values are above a limit, to the histogram's resolution."""
        at_most = round(limit_s * 1e6)
        return sum(
            item.count_added_in_this_iter_step
            for item in self._counts.get_recorded_iterator()
            if item.value_iterated_to > self._counts.get_highest_equivalent_value(at_most)
        )

    def values(self) -> list[tuple[float, int]]:
        """Each seconds that were seen, and how often, ascending."""
        return [
            (item.value_iterated_to / 1e6, item.count_added_in_this_iter_step)
            for item in self._counts.get_recorded_iterator()
        ]

    @property
    def mean(self) -> float | None:
        """In seconds; None without values."""
        return self._counts.get_mean_value() / 1e6 if len(self) else None

    def to_text(self) -> str:
        """HdrHistogram's own compressed form, which its tools in other languages read."""
        return str(self._counts.encode().decode("ascii"))

    @classmethod
    def from_text(cls, text: Any) -> Histogram:
        """What ``to_text`` gave.

        Raises:
            ValueError: it is something else, or of another range.
        """
        made = cls()
        try:
            # HdrHistogram makes room for whatever range a text claims, and its counts, which is
            # why that is looked at before.
            head = zlib.decompressobj().decompress(base64.b64decode(text)[8:], _HEAD.size)
            if _HEAD.unpack(head) == (_DIGITS, _LOWEST_US, _HIGHEST_US):
                made._counts.decode_and_add(text.encode("ascii"))
                return made
        except Exception:  # it has eight kinds of errors, and no base of them
            pass
        raise ValueError("a histogram of a run cannot be read")
