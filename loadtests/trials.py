"""What is tried of a version, what was measured of it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median, quantiles

_PERCENTILE = 0.95


@dataclass(frozen=True)
class Setting:
    """One way to run a version.

    Attributes:
        variant: its name.
        max_batch: rows of a full run; 0 for a model without a batch dimension.
        instances: runs at the same time.
        threads: of one run.
        spin: whether idle threads wait in a busy loop.
    """

    variant: str
    max_batch: int
    instances: int
    threads: int
    spin: bool = False

    @property
    def rows(self) -> int:
        """Rows of a full run; a run without a batch dimension counts as one."""
        return self.max_batch or 1


@dataclass(frozen=True)
class Measured:
    """What was measured of one setting, every instance running full batches.

    Attributes:
        rates: rows per second, round by round; rounds of one group lie side by side.
        run_s: seconds of each run.
        sparse_cpu_s: CPU seconds of one request that comes alone, idle threads included; None where
            that was not measured.
    """

    rates: tuple[float, ...]
    run_s: tuple[float, ...]
    sparse_cpu_s: float | None = None

    @property
    def rate(self) -> float:
        """Rows per second, the median."""
        return median(self.rates)

    @property
    def spread(self) -> float:
        """Between the quartiles of the rates, as a share of their median."""
        low, middle, high = quantiles(self.rates, n=4)
        return (high - low) / middle

    @property
    def run_s_median(self) -> float:
        """Seconds of a run, the median."""
        return median(self.run_s)

    @property
    def worst_s(self) -> float:
        """The latency of the unluckiest caller while all instances are busy.

        It has just missed a run, waits for that one, then for its own: two runs, each taken as the
        95th percentile. Our own reasoning; what waits longer than that is refused by its deadline.
        """
        ordered = sorted(self.run_s)
        return 2 * ordered[ceil(_PERCENTILE * len(ordered)) - 1]


Results = Mapping[Setting, Measured]


@dataclass(frozen=True)
class Group:
    """Settings to be measured side by side.

    Attributes:
        knob: in which they differ.
        settings: in order of preference.
        target_s: that ``Measured.worst_s`` has to meet; None for none.
        growing: whether the later ones are only worth a look as long as ``go_on`` says so.
    """

    knob: str
    settings: tuple[Setting, ...]
    target_s: float | None = None
    growing: bool = False


@dataclass(frozen=True)
class Tried:
    """One setting in one group.

    Attributes:
        knob: of the group.
        setting: what was run.
        measured: what came of it.
        verdict: in a few words.
        stays: whether the search went on with it.
    """

    knob: str
    setting: Setting
    measured: Measured
    verdict: str
    stays: bool


@dataclass(frozen=True)
class Outcome:
    """The end of a search.

    Attributes:
        winner: None if nothing meets the target.
        measured: of the winner, beside the defaults.
        over_defaults: its rows per second over the defaults'.
        tried: everything, in order.
    """

    winner: Setting | None
    measured: Measured | None
    over_defaults: float
    tried: tuple[Tried, ...]

    @property
    def nearest(self) -> Tried:
        """What came nearest to the target."""
        return min(self.tried, key=lambda each: each.measured.worst_s)
