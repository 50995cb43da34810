"""Pure: replicas that follow the rate, as Kubernetes' autoscaler does it by CPU utilisation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from loadtests.arrivals import Curve
from loadtests.plans.curves import rate_at

# Of the autoscaler: it looks so often; and only after so long without a higher wish it goes down.
PERIOD_S = 15.0
HOLD_S = 300.0
# From a wish to replicas that serve: a look, a pod that is scheduled, started, and warmed up.
LAG_S = 60.0


@dataclass(frozen=True)
class Following:
    """A fleet over time.

    Attributes:
        steps: (from when on, replicas), ascending; the first is at 0.
        seconds: its length.
    """

    steps: tuple[tuple[float, float], ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Replicas that are paid for, over the time."""
        ends = [*self.steps, (self.seconds, 0.0)]
        return sum((b[0] - a[0]) * a[1] for a, b in pairwise(ends)) / self.seconds

    @property
    def least(self) -> int:
        """Replicas at the quietest time."""
        return int(min(replicas for _, replicas in self.steps))

    @property
    def most(self) -> int:
        """Replicas at the busiest time."""
        return int(max(replicas for _, replicas in self.steps))


def follow(
    curve: Curve, rate: float, *, lag_s: float = LAG_S, hold_s: float = HOLD_S, least: int = 1
) -> Following:
    """As many replicas as hold each at a rate, some time after that is known.

    It begins with what the first rate needs.

    Args:
        curve: what all replicas get.
        rate: calls per second of one replica at which it is used as much as it should be.
        lag_s: from a higher rate to replicas that serve.
        hold_s: how long the highest wish counts.
        least: replicas at least.
    """
    number = max(1, ceil(curve.seconds / PERIOD_S))
    wishes = [max(least, ceil(rate_at(curve, k * PERIOD_S) / rate - 1e-9)) for k in range(number)]
    behind, held = ceil(lag_s / PERIOD_S), ceil(hold_s / PERIOD_S)
    steps = list[tuple[float, float]]()
    for k in range(number):
        last = max(0, k - behind)
        replicas = max(wishes[max(0, last - held) : last + 1])
        if not steps or steps[-1][1] != replicas:
            steps.append((k * PERIOD_S, float(replicas)))
    return Following(tuple(steps), curve.seconds)
