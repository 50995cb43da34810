"""Invented profiles that look as measured ones do: one queue, simulated, with noise."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

import numpy as np

from loadtests.observed import Observed
from loadtests.prices import Price
from loadtests.profile import Conditions, Level, Profile, Subject
from loadtests.slo import Slo

PRICE = Price(
    "shop-large", 0.8, 8, "north-1", "on demand", datetime.date(2026, 9, 24), "a price list"
)
SLO = Slo(99, 0.1, 0.999)
CONDITIONS = Conditions(
    date="2026-11-22",
    hardware="Example CPU 3.1 GHz, 4 CPUs, avx512_vnni, 16 GiB",
    cpus=4,
    price=PRICE,
    shared=False,
    rows=1,
    payload="held-out rows of digits (heldout.npz)",
    deadline_ms=200,
    seed=7,
    generator="farthing 0.6.0, asyncio",
)
# Of the time of a run; and of the core-seconds.
_PHASES = {"decode": 0.05, "queue": 0.35, "assembly": 0.04, "run": 1.0, "encode": 0.06}
_BILL = {"busy": 0.52, "serving": 0.12, "idle": 0.32, "waste": 0.03, "warm_up": 0.01}


@dataclass(frozen=True)
class Queue:
    """What is simulated: one server, and all who wait for it.

    Attributes:
        service_ms: of one request, median.
        spread: sigma of its logarithm.
        refuses: at once what could not be answered in time; else all wait, first come first served.
    """

    service_ms: float = 4.0
    spread: float = 0.15
    refuses: bool = True

    @property
    def capacity(self) -> float:
        return 1e3 / (self.service_ms * float(np.exp(self.spread**2 / 2)))


def run(queue: Queue, rate: float, *, seed: int = 1, calls: int = 3000, late: int = 0) -> Observed:
    """One open-loop run of so many calls, of which so many were sent too late."""
    rng = np.random.default_rng(seed)
    seen = Observed(calls / rate, limit_s=SLO.limit_s, shared=False, offered=calls)
    due = np.cumsum(rng.exponential(1 / rate, calls))
    takes = queue.service_ms / 1e3 * np.exp(rng.normal(0, queue.spread, calls))
    lags = rng.exponential(0.0002, calls)
    free = 0.0
    for number, (moment, taken) in enumerate(zip(due, takes, strict=True)):
        seen.sent(0.5 if number < late else float(lags[number]))
        done = max(free, float(moment)) + float(taken)
        whole = done - float(moment)
        if queue.refuses and whole > 0.9 * SLO.limit_s:
            seen.failed("RESOURCE_EXHAUSTED")
            continue
        free = done
        if whole > 2 * SLO.limit_s:
            seen.failed("DEADLINE_EXCEEDED")
        else:
            seen.answered(whole + 0.0008)
    return seen


def alone(queue: Queue, *, seed: int = 1, calls: int = 3000) -> Observed:
    """One closed caller."""
    rng = np.random.default_rng(seed)
    takes = queue.service_ms / 1e3 * np.exp(rng.normal(0, queue.spread, calls)) + 0.0008
    seen = Observed(float(takes.sum()), shared=False, offered=calls)
    for taken in takes:
        seen.answered(float(taken))
    return seen


def subject(name: str, **other: object) -> Subject:
    """A variant of digits on farthing."""
    values = {
        "server": "farthing 0.6.0", "model": "digits", "version": "1", "variant": name,
        "sha256": (name.encode().hex() * 64)[:64], "accuracy": 0.985, "accuracy_change": 0.0,
        "bytes": 4_400_000, "memory_bytes": 131_000_000,
    }  # fmt: skip
    return Subject(**(values | other))  # type: ignore[arg-type]


def profile(
    name: str = "fp32",
    queue: Queue | None = None,
    *,
    seed: int = 1,
    calls: int = 3000,
    multiples: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9, 1.5, 2.0, 4.0),
    late: int = 0,
    **about: object,
) -> Profile:
    """One that was searched, then run at multiples of what held; ``late`` sends in each run."""
    queue = queue or Queue()
    best = 0.8 * queue.capacity
    searched = [(best / 2, ""), (best * 1.04, "p99 is 104.1 ms"), (best, "")]
    return Profile(
        name=name,
        subject=subject(name, **about),
        conditions=CONDITIONS,
        slo=SLO,
        rate=best,
        searched=tuple(
            (Level(rate, run(queue, rate, seed=seed + n, calls=calls, late=late)), why)
            for n, (rate, why) in enumerate(searched)
        ),
        alone=alone(queue, seed=seed, calls=calls),
        levels=tuple(
            Level(at * best, run(queue, at * best, seed=seed + 9 + n, calls=calls, late=late))
            for n, at in enumerate(multiples)
        ),
        runs={1: (500, queue.service_ms / 1e3), 8: (90, queue.service_ms / 250)},
        phases={phase: part * queue.service_ms / 1e3 for phase, part in _PHASES.items()},
        bill={line: part * calls / 20 for line, part in _BILL.items()},
        paid_core_s=calls / 20,
        span_s=calls / 20 / CONDITIONS.cpus,
    )


def bounded(name: str = "strong", *, seed: int = 60, calls: int = 1000) -> Profile:
    """One that only the generator kept from more: the search above its rate was void."""
    one = profile(name, seed=seed, calls=calls)
    late = run(Queue(), 1.04 * (one.rate or 0.0), calls=calls, late=calls)
    searched = tuple(
        (replace(level, seen=late), f"void: {late.void}") if why else (level, why)
        for level, why in one.searched
    )
    return replace(one, searched=searched, generator_bound=True, ended="void at 206/s")


def family(calls: int = 1500) -> list[Profile]:
    """A baseline, three variants and a stranger whose ledger is empty."""
    stranger = profile(
        "triton", Queue(4.4, refuses=False), seed=50, calls=calls, server="triton 2.51",
        memory_bytes=None,
    )  # fmt: skip
    return [
        profile("keras", Queue(9.0), seed=20, calls=calls, server="in process", bytes=9_800_000,
                memory_bytes=612_000_000),
        profile("fp32", seed=30, calls=calls),
        profile("int8-static", Queue(1.6), seed=40, calls=calls, accuracy=0.983,
                accuracy_change=-0.2, bytes=1_200_000, memory_bytes=96_000_000),
        profile("int8-mixed", Queue(2.1), seed=45, calls=calls, accuracy=0.984,
                accuracy_change=-0.1, bytes=1_900_000, memory_bytes=101_000_000),
        replace(stranger, bill=None, phases=None, runs={}),
    ]  # fmt: skip


def answered(seconds: list[float], *, limit_s: float = 0.1, duration_s: float = 10.0) -> Observed:
    """Calls that were all answered, in so many seconds each."""
    seen = Observed(duration_s, limit_s=limit_s, offered=len(seconds))
    for value in seconds:
        seen.sent(0.0)
        seen.answered(value)
    return seen
