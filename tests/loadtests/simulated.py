"""A server in simulated time: one run at a time, each of about the same length."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from loadtests import arrivals
from loadtests.observed import Observed
from loadtests.pricing import measure, rates
from loadtests.pricing.measure import Clock
from loadtests.pricing.rates import Found, Trial
from loadtests.profile import Level
from loadtests.slo import Slo
from tests.fakes import ManualClock


@dataclass
class OneAtATime:
    """Answers in the order of arrival; runs vary by a normal noise.

    Attributes:
        run_s: mean seconds of a run.
        noise: its coefficient of variation.
        slo: what observations are made for.
        seed: of the noise, and of the arrivals.
        spoilt: rate -> whether its sends are late.
        clock: passes while a trial runs.
        settled: how often somebody waited for the queue to end.
    """

    run_s: float
    slo: Slo
    noise: float = 0.1
    seed: int = 1
    spoilt: Callable[[float, int], bool] = lambda rate, number: False
    clock: ManualClock = field(default_factory=ManualClock)
    settled: int = 0

    def run(self, trial: Trial, number: int) -> Observed:
        seen = self.observed(trial.rate, trial.seconds, number)
        self.clock.advance(trial.seconds)
        return seen

    def observed(self, rate: float, seconds: float, number: int) -> Observed:
        chance = random.Random(1000 * self.seed + number)
        seen = Observed(seconds, limit_s=self.slo.limit_s)
        free = 0.0
        late_s = 1.0 if self.spoilt(rate, number) else 0.0
        for due in arrivals.schedule(
            "poisson", rate=rate, seconds=seconds, seed=chance.getrandbits(30)
        ):
            seen.offered += 1
            seen.sent(late_s)
            free = max(free, due) + max(0.0, chance.gauss(self.run_s, self.noise * self.run_s))
            if free - due > 10 * self.slo.limit_s:
                seen.failed("DEADLINE_EXCEEDED")
            else:
                seen.answered(free - due)
        return seen

    def settle(self) -> None:
        self.settled += 1


def searched(
    server: OneAtATime, *, budget_s: float, first: float | None = None
) -> tuple[Found, list[tuple[Level, str]]]:
    """The search on this server."""
    clock = Clock(server.clock.now + budget_s, server.clock)
    steps = rates.search(server.slo, first=first or 1 / server.run_s, budget_s=budget_s)
    return measure.follow(steps, server.slo, clock, run=server.run, settle=server.settle)


@cache
def highest(run_s: float, slo: Slo, *, noise: float = 0.1, answers: int = 100_000) -> float:
    """The rate at which the percentile just meets the limit, by brute force."""
    chance = random.Random(7)
    gaps = [chance.expovariate(1.0) for _ in range(answers)]
    runs = [max(0.0, chance.gauss(run_s, noise * run_s)) for _ in range(answers)]
    low, high = 0.1 / run_s, 1.1 / run_s
    while high / low > 1.005:
        rate, wait, late = (low + high) / 2, 0.0, 0
        for gap, run in zip(gaps, runs, strict=True):
            wait = max(0.0, wait - gap / rate) + run
            late += wait > slo.limit_s
        low, high = (rate, high) if late <= (1 - slo.percent / 100) * answers else (low, rate)
    return low
