"""What is tried of a version, what was measured of it, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median, quantiles

_PERCENTILE = 0.95
# Between quartiles; on a quiet shared machine it is some hundredths.
_NOISY = 0.2


@dataclass(frozen=True)
class Setting:
    """One way to run a version.

    Attributes:
        variant: its name.
        max_batch: rows of a full run; 0 for a model without a batch dimension.
        instances: runs at the same time.
        threads: of one run.
        spin: whether idle threads wait in a busy loop.
        cuda_graphs: whether a GPU's runs are recorded and replayed; None on a CPU.
    """

    variant: str
    max_batch: int
    instances: int
    threads: int
    spin: bool = False
    cuda_graphs: bool | None = None

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
    def noisy(self) -> bool:
        """Whether the rounds differ by more than a quiet machine makes them."""
        return self.spread > _NOISY

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
        ratio: the median of the rounds' ratios of its rows per second to those of the setting that
            stays, or to the first where none does.
        reason: why it does not stay; empty where it does.
    """

    knob: str
    setting: Setting
    measured: Measured
    ratio: float
    reason: str

    @property
    def stays(self) -> bool:
        """Whether the search went on with it."""
        return not self.reason

    @property
    def verdict(self) -> str:
        """What became of it, in a few words."""
        words = ["stays"] if self.stays else [f"{self.ratio:.2f}x", self.reason]
        if self.measured.sparse_cpu_s is not None:
            words.append(f"{1e3 * self.measured.sparse_cpu_s:.1f} ms CPU alone")
        return ", ".join(words)


@dataclass(frozen=True)
class Outcome:
    """The end of a search.

    Attributes:
        defaults: what a server would run with that was told nothing.
        winner: None if nothing meets the target.
        measured: of the winner, beside the defaults.
        over_defaults: its rows per second over the defaults'.
        tried: everything, in order.
    """

    defaults: Setting
    winner: Setting | None
    measured: Measured | None
    over_defaults: float
    tried: tuple[Tried, ...]

    @property
    def defaults_stay(self) -> bool:
        """Whether nothing beat the defaults."""
        return self.winner == self.defaults

    @property
    def defaults_worst_s(self) -> float:
        """``Measured.worst_s`` of the defaults, as measured last."""
        return next(
            each.measured.worst_s for each in reversed(self.tried) if each.setting == self.defaults
        )

    @property
    def noisiest(self) -> Tried:
        """What varied most from round to round."""
        return max(self.tried, key=lambda each: each.measured.spread)

    @property
    def sparse_cpu_s(self) -> dict[bool, float]:
        """Spinning or not -> CPU seconds of a request that comes alone, where that was measured."""
        return {
            each.setting.spin: each.measured.sparse_cpu_s
            for each in self.tried
            if each.measured.sparse_cpu_s is not None
        }

    @property
    def nearest(self) -> Tried:
        """What came nearest to the target."""
        return min(self.tried, key=lambda each: each.measured.worst_s)
