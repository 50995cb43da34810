"""A batcher on a fake run, a manual clock and real threads; and what its tests do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

from service.account import Account
from service.batcher import Answer, Batcher, Limits, OnRun
from service.latency import Latency
from service.ledger import Ledger
from tests.fakes import Arrays, FakeRun, ManualClock

DOOR = 0.0
LABELS = ("m", "1", "fp32")
Caller = asyncio.Task[Answer]


class Stage:
    """What a batcher stands on; requests of the value ``DOOR`` run at ``door``, others at ``run``.

    So a test can keep the only instance busy, and hold what follows on its own.
    """

    def __init__(self, executor: Executor) -> None:
        self.run, self.door, self.clock = FakeRun(), FakeRun(), ManualClock()
        self.cpu = ManualClock()  # of the event loop's thread
        self.ledger = Ledger(cores=4.0, clock=self.clock, cpu=self.cpu)
        self._executor = executor

    def __call__(self, feeds: Arrays) -> Arrays:
        return (self.door if feeds["x"].flat[0] == DOOR else self.run)(feeds)

    def batcher(
        self,
        run: Callable[[Arrays], Arrays] | None = None,
        on_run: OnRun | None = None,
        known_s: float | None = None,
        threads: int = 2,
        **limits: Any,
    ) -> Batcher:
        given = {"max_rows": 8, "max_queue_rows": 100, **limits}
        latency = Latency()
        if known_s is not None:
            latency.observe(1, known_s)
        return Batcher(
            run or self,
            Limits(**given),
            executor=self._executor,
            clock=self.clock,
            on_run=on_run,
            latency=latency,
            cpu=self.cpu,
            account=Account(self.ledger, LABELS, threads=threads),
        )

    async def occupy(self, batcher: Batcher) -> Caller:
        self.door.hold()
        caller = submit(batcher, DOOR)
        await until(lambda: self.door.batches == [1])
        return caller


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks and threads go on until this holds."""
    for _ in range(500_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


def feeds(*values: float, width: int = 2) -> Arrays:
    return {"x": np.array([[value] * width for value in values], np.float32)}


def submit(
    batcher: Batcher, *values: float, width: int = 2, deadline: float | None = None
) -> Caller:
    return asyncio.create_task(batcher.submit(feeds(*values, width=width), len(values), deadline))


async def queue(
    batcher: Batcher, *requests: tuple[float, ...], deadline: float | None = None
) -> list[Caller]:
    """One waiting caller for each request, in this order."""
    before = batcher.waiting_rows
    callers = [submit(batcher, *values, deadline=deadline) for values in requests]
    await until(lambda: batcher.waiting_rows == before + sum(map(len, requests)))
    return callers


def is_answer(answer: Answer, *values: float, width: int = 2) -> bool:
    return np.array_equal(answer.outputs["y"], feeds(*values, width=width)["x"] * 2)
