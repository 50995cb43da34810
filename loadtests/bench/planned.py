"""The suite that holds `plan` against reality: two local replicas, simulated and measured."""

from __future__ import annotations

import datetime
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests import processes
from loadtests.bench import nets, servers, steps
from loadtests.bench.results import Figure
from loadtests.observed import Observed
from loadtests.plans import demand
from loadtests.plans.capacity import Work
from loadtests.plans.replica import measured
from loadtests.plans.simulation import Simulated
from loadtests.prices import Price, usd_per_million
from loadtests.pricing import measure, rig
from loadtests.pricing.identity import Said
from loadtests.processes import Endpoint
from loadtests.profile import Profile
from loadtests.slo import Slo

_REPLICAS = 2
_SLO = Slo(99.0, 0.2, 0.99)
# Of what two replicas carry: quiet, moderate, and a little less than they can.
_SHARES = (0.3, 0.6, 0.9)
_SECONDS = 40.0
# Other processes on these cores are in neither the profile nor the simulation; and a run in which
# the generator was late says nothing. Such a run is made again, so often at most.
_OTHERS_AT_MOST = 0.05
_TRIES = 3
_BUDGET_S = 120.0
# Attainment of a limit that all or nobody meets says nothing: these shares meet it by simulation.
_ATTAINED = (0.5, 0.8, 0.95)
# Both costs are multiples of it, so that it does not matter.
_PRICE = Price(
    id="a core", usd_per_hour=0.05, cpus=1, region="here", purchase="none",
    date=datetime.date(2026, 11, 22), source="made up, for a comparison with itself",
)  # fmt: skip


def plan(directory: Path) -> list[Figure]:
    """Two replicas, a core each: as `plan` simulates them, and as they are."""
    nets.convolutional(servers.place(directory), channels=128)
    cores = sorted(os.sched_getaffinity(0))[:_REPLICAS]
    if len(cores) < _REPLICAS:
        raise processes.ChildFailed(f"this suite needs {_REPLICAS} cores, one for each replica")
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(
                processes.serving(
                    directory / "models", variant="auto", log=directory / f"{core}.txt",
                    cpus=frozenset({core}),
                )
            )
            for core in cores
        ]  # fmt: skip
        profile = _profile(replicas[0])
        replica = measured(profile)
        least_ms, most_ms = (1e3 * replica.mean_s(rows) for rows in (1, replica.max_rows))
        figures = [
            Figure("one replica, at the SLO", f"{profile.rate or 0:.1f}/s"),
            Figure("a run of one row, and of the most", f"{least_ms:.1f} / {most_ms:.1f} ms"),
            Figure("front end, of a request", f"{1e3 * replica.serving_s:.2f} ms"),
        ]  # fmt: skip
        for share in _SHARES:
            figures += _compared(profile, replicas, share * _REPLICAS * (profile.rate or 1.0))
    return figures


def _work(*replicas: Endpoint) -> rig.Work:
    return rig.Work(
        tuple(one.target for one in replicas), servers.MODEL,
        metrics=tuple(f"http://127.0.0.1:{one.metrics_port}/metrics" for one in replicas),
    ).placed()  # fmt: skip


def _profile(replica: Endpoint) -> Profile:
    said = Said(variant="fp32", sha256=replica.sha256, accuracy_change=0.0, cpus=1.0, price=_PRICE)
    effort = measure.Effort(_BUDGET_S)
    return measure.profile_of(_work(replica), said, _SLO, effort, name="net", told=steps.begun)


@dataclass(frozen=True)
class _Real:
    """What two replicas did.

    Attributes:
        seen: how the calls ended.
        bill: of both.
        slower: what their runs took, over what the profile says of such runs.
        others: share of the CPUs that other processes used meanwhile.
    """

    seen: Observed
    bill: dict[str, float]
    slower: float
    others: float

    @property
    def void(self) -> str:
        """Why it says nothing; empty where it does."""
        busy = f"other processes used {self.others:.0%} of the CPUs"
        return self.seen.void or (busy if self.others > _OTHERS_AT_MOST else "")


def _real(profile: Profile, replicas: list[Endpoint], rate: float) -> _Real:
    """Send so many calls per second to both, until that was not void, but not for ever."""
    known = measured(profile)
    with rig.connected(_work(*replicas), profile.slo, seed=7) as found:
        for number in range(_TRIES):
            steps.begun(f"two replicas at {rate:.0f}/s")
            found.settle(10.0)
            before, began, others_s = found.taken(), time.perf_counter(), _others_s()
            seen = found.run(rate, _SECONDS, number=number, watch=lambda _: None)
            others = (
                (_others_s() - others_s) / (time.perf_counter() - began) / (os.cpu_count() or 1)
            )
            after = found.taken()
            sizes = after.sizes(before)
            took_s = sum(count * seconds for count, seconds in sizes.values())
            expected_s = sum(count * known.mean_s(rows) for rows, (count, _) in sizes.items())
            bill = after.metrics.bill(before.metrics) or {}
            done = _Real(seen, bill, took_s / max(expected_s, 1e-9), others)
            if not done.void:
                break
    return done


def _others_s() -> float:
    """CPU seconds so far of all processes but this one and those that it started."""
    everybody, me = psutil.cpu_times(), psutil.Process()
    mine = 0.0
    for process in (me, *me.children(recursive=True)):
        times = process.cpu_times()
        mine += times.user + times.system
    return float(everybody.user + everybody.nice + everybody.system) - mine


def _compared(profile: Profile, replicas: list[Endpoint], rate: float) -> list[Figure]:
    """Attainment of the SLO's limit and of tighter ones, cost and use, at one rate."""
    work = Work(measured(profile), profile.slo)
    simulated = work.trial(demand.steady(rate), ((0.0, _REPLICAS),))
    real = _real(profile, replicas, rate)
    seen, void = real.seen, f"void: {real.void}; " if real.void else ""
    limits = [_SLO.limit_s, *(simulated.seen.latency.at(100 * share) or 0 for share in _ATTAINED)]
    apart = [_in_time(seen, limit) - _in_time(simulated.seen, limit) for limit in limits]
    pairs = " / ".join(
        f"{_in_time(simulated.seen, limit):.0%}-{_in_time(seen, limit):.0%}" for limit in limits
    )
    costs = [_cost(rate, _in_time(one, _SLO.limit_s)) for one in (simulated.seen, seen)]
    at = f"at {rate:.0f}/s, "
    return [
        Figure(f"{at}in time at {', '.join(f'{1e3 * limit:.0f}' for limit in limits)} ms, "
               "simulated-measured", f"{void}{pairs}"),
        Figure(f"{at}attainment of the SLO's limit, apart",
               f"{void}{100 * abs(apart[0]):.1f} points", "<= 5 points"),
        Figure(f"{at}attainment of tighter limits, at most apart",
               f"{100 * max(map(abs, apart[1:])):.1f} points"),
        Figure(f"{at}p50, p99: simulated", _percentiles(simulated.seen)),
        Figure(f"{at}p50, p99: measured", _percentiles(seen)),
        Figure(f"{at}cost of a million good answers, apart",
               f"{void}{100 * abs(costs[1] / costs[0] - 1):.1f} %", "<= 10 %"),
        Figure(f"{at}runs took, over the profile's", f"{real.slower:.2f}x"),
        Figure(f"{at}other processes used, of the CPUs", f"{real.others:.0%}"),
        Figure(f"{at}used, simulated and measured",
               f"{_charged(simulated):.0%}, {_used(real.bill):.0%}"),
    ]  # fmt: skip


def _in_time(seen: Observed, limit_s: float) -> float:
    return (seen.answers - seen.latency.above(limit_s)) / seen.offered


def _cost(rate: float, in_time: float) -> float:
    return usd_per_million(_REPLICAS * _PRICE.usd_per_hour, rate * max(in_time, 1e-9))


def _percentiles(seen: Observed) -> str:
    return ", ".join(f"{1e3 * (seen.latency.at(percent) or 0):.0f} ms" for percent in (50, 99))


def _charged(done: Simulated) -> float:
    """As a ledger sees it, with which the measured one is compared."""
    bill = done.bill
    return sum(bill.of(kind) for kind in ("busy", "waste", "serving")) / bill.paid_core_s


def _used(bill: dict[str, float]) -> float:
    whole = sum(bill.values())
    return sum(bill.get(kind, 0.0) for kind in ("busy", "waste", "serving")) / max(whole, 1e-9)
