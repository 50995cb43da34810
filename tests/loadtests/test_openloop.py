"""The asyncio driver: calls go out when they are due, and their clocks start then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from loadtests import openloop
from loadtests.observed import Observed


class Clock:
    """Time that passes while the driver sleeps, or when a call takes some of the only core."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        until = self.now_s + seconds
        for _ in range(3):  # whoever was started gets its turn
            await asyncio.sleep(0)
        self.now_s = max(self.now_s, until)


async def driven(
    times: list[float], call: Callable[[float], Awaitable[str]], clock: Clock
) -> Observed:
    seen = Observed(10.0, limit_s=0.4)
    await openloop.drive(times, call, seen, deadline_s=1.0, clock=clock, sleep=clock.sleep)
    return seen


async def test_calls_go_out_when_they_are_due_whatever_became_of_others() -> None:
    clock, sent, open_ = Clock(), list[float](), asyncio.Event()

    async def call(left_s: float) -> str:
        sent.append(clock())
        if len(sent) == 3:
            open_.set()
        await open_.wait()
        return ""

    seen = await driven([0.5, 1.5, 2.0], call, clock)
    assert sent == [100.5, 101.5, 102.0]
    assert seen.offered == seen.answers == 3
    # They were answered when the last was sent.
    assert seen.latency.values() == [(pytest.approx(1e-6), 1), (pytest.approx(0.5, rel=1e-3), 1),
                                     (pytest.approx(1.5, rel=1e-3), 1)]  # fmt: skip


async def test_the_clock_of_a_late_call_starts_at_its_schedule_and_its_deadline_too() -> None:
    clock, left = Clock(), list[float]()

    async def call(left_s: float) -> str:
        left.append(left_s)
        clock.now_s += 0.7 if len(left) == 1 else 0.0
        return ""

    seen = await driven([0.5, 1.0, 3.0], call, clock)
    assert left == pytest.approx([1.0, 0.8, 1.0])
    assert seen.lag.at(100) == pytest.approx(0.2, rel=1e-3)
    assert seen.sent_late == 1
    # The first took 0.7; the second was due 0.2 before it went out.
    assert [value for value, _ in seen.latency.values()] == pytest.approx(
        [1e-6, 0.2, 0.7], rel=1e-3
    )


async def test_codes_are_counted_as_they_come() -> None:
    codes = iter(["", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAVAILABLE"])

    async def call(left_s: float) -> str:
        return next(codes)

    seen = await driven([0.0, 0.1, 0.2, 0.3], call, Clock())
    assert seen.endings == {"good": 1, "UNAVAILABLE": 2, "DEADLINE_EXCEEDED": 1}
    assert seen.offered == 4


async def test_what_a_call_raises_ends_the_run_and_is_not_swallowed() -> None:
    async def call(left_s: float) -> str:
        if clock() < 101:
            raise RuntimeError("no ending")
        return ""

    clock = Clock()
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="no ending")):
        await driven([0.0, 2.0, 3.0], call, clock)


async def test_a_run_that_is_lost_ends_there_and_is_as_long_as_it_was() -> None:
    clock, seen = Clock(), Observed(10.0, limit_s=0.4)

    async def call(left_s: float) -> str:
        return "UNAVAILABLE"

    def lost(so_far: Observed, planned: int) -> bool:
        return so_far.endings["UNAVAILABLE"] > planned / 2

    await openloop.drive([1.0, 2.0, 3.0, 4.0, 5.0], call, seen, deadline_s=1.0, lost=lost,
                         clock=clock, sleep=clock.sleep)  # fmt: skip
    assert (seen.offered, seen.endings["UNAVAILABLE"], seen.seconds) == (3, 3, 4.0)
