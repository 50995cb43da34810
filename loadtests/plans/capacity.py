"""Pure: how much one replica carries, and how many it takes; found by simulating one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, inf

from loadtests.histogram import samples_for
from loadtests.observed import Observed
from loadtests.plans import demand as demands
from loadtests.plans.autoscaling import Following, follow
from loadtests.plans.curves import Fleet, fleet_in, shared
from loadtests.plans.demand import Demand
from loadtests.plans.replica import Replica
from loadtests.plans.simulation import Simulated, simulate
from loadtests.slo import Slo
from service.bill import Bill

# A fleet for a curve is judged by the stretch in which most comes.
BUSIEST_S = 3600.0
# A replica may be given more than it carries for a burst, if that is over by then.
_BURST_S = 60.0
# CPU utilisation that an autoscaler may be told to keep.
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)
_LEAST_CALLS, _MOST_CALLS, _VIOLATIONS = 3000, 40_000, 10
_NEAR_ENOUGH = 0.02
# Where one replica gets few calls, the shares of so many are looked at, if that may be enough.
_MOST_SHARES, _TRIED_SHARES = 2000, 20
_MOST_REPLICAS = 100_000
_GRID = 8

Told = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """What a fleet of such replicas is asked to do.

    Attributes:
        replica: one of them.
        slo: what must hold.
        most: calls per second of one replica beyond which it was measured not to hold; infinite if
            that was measured for another SLO.
        seed: of all draws: the same for every number of replicas, so that more of them differ from
            fewer by their number alone.
        told: is given what is being simulated, in words.
    """

    replica: Replica
    slo: Slo
    most: float = inf
    seed: int = 1
    told: Told = lambda _: None

    @property
    def calls(self) -> int:
        """To be simulated, so that what is seen of percentile and failures says something."""
        failures = ceil(_VIOLATIONS / max(1e-6, 1 - self.slo.success))
        needed = max(_LEAST_CALLS, samples_for(self.slo.percent, _VIOLATIONS), failures)
        return min(needed, _MOST_CALLS)

    def trial(self, demand: Demand, fleet: Fleet) -> Simulated:
        """One replica of a fleet, or several where one alone sees too few calls."""
        none = Observed(0.0, limit_s=self.slo.limit_s, shared=False)
        done = Simulated(none, Bill(), 0.0)
        for number in range(_MOST_SHARES):
            parts = demands.share(demand, fleet, calls=self.calls, seed=self.seed + number)
            most = max(part.weight for part in parts)
            for part in parts:
                one = simulate(
                    self.replica, part.times, seconds=part.seconds, limit_s=self.slo.limit_s,
                    seed=self.seed + number,
                )  # fmt: skip
                done += one.part(part.weight / most)
            hopeless = done.seen.offered / (number + 1) * _MOST_SHARES < self.calls / 2
            if done.seen.offered >= self.calls / 2 or (number >= _TRIED_SHARES and hopeless):
                break
        return done

    def short(self, done: Simulated) -> str:
        """Why nothing can be said of it, neither that the SLO holds nor the contrary, or empty."""
        missing, seen = self.slo.missing(done.seen), done.seen
        few = seen.offered < self.calls / 2 or seen.answers < samples_for(self.slo.percent)
        if self.slo.doubt(seen) or not missing or not few:
            return ""
        return f"{missing} calls too few to show p{self.slo.percent:g}"

    def failure(self, done: Simulated) -> str:
        """Why the SLO does not hold; empty where it does, and where too few calls come to say."""
        return "" if self.short(done) else self.slo.failure(done.seen)


def highest(work: Work) -> float | None:
    """The highest steady rate of one replica at which the SLO holds, not above what was measured.

    None if it holds at no rate, however low.
    """

    def holds(rate: float) -> bool:
        work.told(f"one replica at {rate:.3g}/s")
        return not work.failure(work.trial(demands.steady(rate), ((0.0, 1),)))

    if work.most < inf and holds(work.most):
        return work.most
    low, high = 0.0, work.most
    if high == inf:
        high = 1 / work.replica.mean_s(work.replica.rows)
        while holds(high):
            low, high = high, 2 * high
    elif not holds(high / 100):
        return None
    while high - low > _NEAR_ENOUGH * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
        if not low and high * work.replica.mean_s(work.replica.rows) < 1e-3:
            return None
    return low


@dataclass(frozen=True)
class Sized:
    """How many it takes.

    Attributes:
        number: replicas; None if that cannot be said.
        done: what becomes of the calls while most come, without headroom, of one of them.
        why: it cannot be said.
    """

    number: int | None
    done: Simulated | None = None
    why: str = ""


def replicas(
    work: Work, demand: Demand, rate: float, *, headroom: float = 0.0, least: int = 1
) -> Sized:
    """The smallest number at which the SLO holds while most comes, and with headroom, too.

    Args:
        work: what is asked of them.
        demand: what comes.
        rate: that one carries, see ``highest``; none of them is given more than that for a minute.
        headroom: so much more must hold too.
        least: there are so many whatever they carry.
    """
    number = max(least, _smallest(work, demand.times_as_much(1 + headroom), rate))
    busiest = demand.busiest(BUSIEST_S)
    # Other calls are drawn without headroom, so that what holds with it may fail.
    for more in range(number, _MOST_REPLICAS):
        work.told(f"{more} replicas, without headroom")
        done = work.trial(busiest, ((0.0, more),))
        if short := work.short(done):
            return Sized(None, why=short)
        if not work.failure(done):
            return Sized(more, done)
    return Sized(None, why=f"it would take more than {_MOST_REPLICAS} replicas")


def _smallest(work: Work, demand: Demand, rate: float) -> int:
    """The smallest number at which the SLO holds while most comes, if any does."""
    busiest = demand.busiest(BUSIEST_S)

    @cache
    def holds(number: int) -> bool:
        work.told(f"{number} replicas")
        return not work.failure(work.trial(busiest, ((0.0, number),)))

    low = max(1, ceil(demand.busiest(_BURST_S).mean / rate - 1e-9))
    if busiest.steady or holds(low):
        return low
    high = 2 * low
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST_REPLICAS:
            return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Scaled:
    """A fleet that follows the rate.

    Attributes:
        target: CPU utilisation that the autoscaler keeps, 0 to 1.
        rate: calls per second of one replica that is used so much.
        fleet: replicas over time.
        done: what became of the calls of all that time.
        failure: why the SLO does not hold; empty where it does.
    """

    target: float
    rate: float
    fleet: Following
    done: Simulated
    failure: str


def scaled(
    work: Work, demand: Demand, rate: float, *, lag_s: float, headroom: float = 0.0,
    targets: Sequence[float] = TARGETS, least: int = 1,
) -> list[Scaled]:  # fmt: skip
    """What autoscaling does at several targets of CPU utilisation.

    Args:
        work: what is asked of the replicas.
        demand: what comes over time.
        rate: that one replica carries, see ``highest``.
        lag_s: from a higher rate to replicas that serve.
        headroom: so much more must hold too, before the autoscaler knows of it.
        targets: of utilisation, ascending; those that the SLO does not let one reach are left out.
        least: replicas at any time.
    """
    shares = [(k + 1) / _GRID for k in range(_GRID)]
    used = [(0.0, 0.0)]
    for share in shares:
        work.told(f"how much one replica is used at {share * rate:.3g}/s")
        done = work.trial(demands.steady(share * rate), ((0.0, 1),))
        used.append((max(used[-1][0], done.used), share * rate))
    found, more = list[Scaled](), demand.times_as_much(1 + headroom)
    for target in targets:
        if target > used[-1][0]:
            break
        work.told(f"autoscaling to {target:.0%}")
        at = next(k for k, (share, _) in enumerate(used) if share >= target)
        (low, low_rate), (high, high_rate) = used[at - 1], used[at]
        each = low_rate + (target - low) / max(1e-9, high - low) * (high_rate - low_rate)
        fleet = follow(demand.curve, each, lag_s=lag_s, least=least)
        done = work.trial(demand, fleet.steps)
        failure = work.short(done) or work.failure(done) or _crowded(work, more, fleet, rate)
        found.append(Scaled(target, each, fleet, done, failure))
    return found


def _crowded(work: Work, demand: Demand, fleet: Following, rate: float) -> str:
    """Why a fleet does not hold what one that is always there has to; empty where it does."""
    alone = Demand("", shared(demand.curve, fleet.steps)).busiest(_BURST_S).mean
    if alone > rate * (1 + 1e-9):
        return f"one gets {alone:.3g}/s for a minute, headroom included"
    window = demand.busiest_window(BUSIEST_S)
    done = work.trial(demand.during(window), fleet_in(fleet.steps, window))
    failure = work.short(done) or work.failure(done)
    return f"in the busiest hour, headroom included: {failure}" if failure else ""


def break_even(
    one: tuple[float, float], other: tuple[float, float], *, least: int = 1
) -> float | None:
    """From which rate on replicas of one kind cost less than those of another, at any higher rate.

    Args:
        one: calls per second that one of them carries, and dollars per hour; likewise the other.
        other: what it is compared with.
        least: replicas of either that there are whatever they carry.

    Returns:
        Calls per second; 0 if it is cheaper at every rate, None if it is not in the long run.
    """
    (rate, usd), (other_rate, other_usd) = one, other
    if usd / rate >= other_usd / other_rate:
        return None
    # From here on the steps of the two can't make up for the difference.
    bound = usd / (other_usd / other_rate - usd / rate)
    bound = max(bound, least * usd * other_rate / other_usd)
    if bound > _MOST_REPLICAS * min(rate, other_rate):
        return bound
    # Costs rise just above multiples of what a replica carries: there one may lose, and where the
    # other rises it may win.
    edges = {0.0, *(k * rate for k in range(ceil(bound / rate) + 1))}
    edges |= {k * other_rate for k in range(ceil(bound / other_rate) + 2)}
    steps = sorted(edges)
    lost = [
        at for at, begin in enumerate(steps)
        if max(least, _above(begin, rate)) * usd
        >= max(least, _above(begin, other_rate)) * other_usd * (1 - 1e-9)
    ]  # fmt: skip
    if not lost:
        return 0.0
    return steps[lost[-1] + 1] if lost[-1] + 1 < len(steps) else bound


def _above(load: float, rate: float) -> int:
    """Replicas for a little more than this load."""
    return int(load / rate + 1e-9) + 1
