"""How much of a change may be chance: bootstrap intervals of percentiles that were counted once.

It is for calls that do not depend on each other, such as those of one caller; of calls that queue,
a single stall makes many late.

The bootstrap asks what a figure would have come to, had the same calls been drawn anew. Of the many
resamples only the figure is kept, and its distribution is known without making them: the k-th of n
values lies at a share of all values that is Beta(k, n - k + 1) distributed, which is just what
multinomial resampling of the histogram's counts gives (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, on order statistics).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtests.histogram import Histogram

Draws = npt.NDArray[np.float64]

# In at most one of a hundred comparisons of equal things is anything called changed.
CONFIDENCE = 0.99
# Draws beyond each end of an interval.
_IN_TAIL = 50
# A histogram keeps three digits, so that two equal values may lie a bucket apart.
_GRAIN = 0.002


@dataclass(frozen=True)
class Interval:
    """Where a change lies, as a share of what was before: 0.1 is ten percent more."""

    low: float
    high: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether it is a change at all."""
        return self.low > 0 or self.high < 0

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Both, None where there is none: nothing loses more than all of itself."""
        return self.low if self.low > -1 else None, self.high if self.high < math.inf else None

    @property
    def shows_nothing(self) -> bool:
        """Whether it may be no change, and one of any size."""
        return not self.is_beyond_noise and None in self.ends


class Resampler:
    """Draws for so many figures that are judged together.

    Attributes:
        tail: the chance that a figure's change is beyond an end of its interval.
    """

    def __init__(self, figures: int, *, seed: int = 1) -> None:
        """Give each its part of the error that all may make together (Bonferroni)."""
        self.tail = (1 - CONFIDENCE) / max(1, figures) / 2
        self._draws = math.ceil(_IN_TAIL / self.tail)
        self._random = np.random.default_rng(seed)

    def percentile(self, histogram: Histogram, percent: float) -> Draws:
        """Of a percentile, seconds."""
        values, counts = (np.array(each) for each in zip(*histogram.values(), strict=True))
        total = len(histogram)
        rank = min(total, max(1, math.ceil(total * percent / 100)))
        places = self._random.beta(rank, total - rank + 1, self._draws) * total
        found = np.searchsorted(np.cumsum(counts), places)
        return np.asarray(values[np.minimum(found, len(values) - 1)], np.float64)

    def change(self, before: Draws, after: Draws) -> Interval:
        """From one to the other, to the confidence that all figures have together."""
        ratios = after / before
        low, high = np.quantile(ratios, (self.tail, 1 - self.tail))
        return Interval(float(low) * (1 - _GRAIN) - 1, float(high) * (1 + _GRAIN) - 1)
