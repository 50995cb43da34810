"""Whatever callers do in whatever order, each ends once, in a way that its own deeds allow."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Answer
from service.batching import QueuePolicy
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidInput,
    Overloaded,
)
from tests.service.stage import Caller, Stage, feeds, is_answer, until

MAX_ROWS, MAX_QUEUE_ROWS = 4, 6
BYTES = 100  # of a row


@dataclass(frozen=True)
class Submit:
    values: tuple[float, ...]
    width: int
    patience_s: float | None
    priority: int = 0


@dataclass(frozen=True)
class Cancel:
    index: int


@dataclass(frozen=True)
class Advance:
    seconds: float


@dataclass(frozen=True)
class Drain:
    timeout_s: float


VALUES = st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, -1.0])
SUBMIT = st.builds(
    Submit,
    st.one_of(
        st.lists(VALUES, min_size=1, max_size=MAX_ROWS),
        st.lists(VALUES, min_size=1, max_size=MAX_ROWS + MAX_QUEUE_ROWS + 1),  # run in parts
    ).map(tuple),
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([None, None, None, 0.0, 10.0, 30.0]),
    st.integers(0, 3),
)
OTHER = st.one_of(
    st.builds(Cancel, st.integers(0, 20)),
    st.builds(Advance, st.sampled_from([1.0, 20.0])),
    st.sampled_from(["hold", "release", "turn", "turn", "progress"] * 4 + ["crash"]),
)
# Callers come at least as often as all else; the server goes away once, if at all.
STEPS = st.lists(st.booleans().flatmap(lambda new: SUBMIT if new else OTHER), min_size=10)
DRAIN = st.none() | st.tuples(st.integers(5, 30), st.builds(Drain, st.sampled_from([0.0, 60.0])))


class Play:
    """One sequence of steps on one batcher."""

    def __init__(
        self, executor: ThreadPoolExecutor, instances: int, in_place_rows: int, gpus: int
    ) -> None:
        self.executor, self.stage, self.held = executor, Stage(executor), not in_place_rows
        self.batcher = self.stage.batcher(
            max_rows=MAX_ROWS,
            max_queue_rows=MAX_QUEUE_ROWS,
            max_queue_bytes=MAX_QUEUE_ROWS * BYTES,
            instances=instances,
            gpus=gpus,
            in_place_rows=in_place_rows,
            priority_levels=2,
            default_priority=2,
            policies={1: QueuePolicy(timeout_s=60.0, max_requests=3)},
        )
        self.crashes = False
        self.callers: list[tuple[Submit, Caller]] = []
        self.cancelled: set[Caller] = set()
        self.drains: list[asyncio.Task[bool]] = []

    async def step(self, step: Any) -> None:
        match step:
            case Submit():
                self.callers.append((step, self.submit(step)))
            case "crash":
                self.crashes = True
                self.executor.shutdown(wait=False)  # it takes no run any more
            case Cancel(index) if index < len(self.callers):
                self.callers[index][1].cancel()
                self.cancelled.add(self.callers[index][1])
            case Advance(seconds):
                self.stage.clock.advance(seconds)
            case Drain(timeout_s):
                self.drains.append(asyncio.create_task(self.batcher.drain(timeout_s)))
            case "hold" if self.held:  # what runs in place would hold up the test itself
                self.stage.run.hold()
            case "release":
                self.stage.run.release()
            case "turn":
                await asyncio.sleep(0)
            case "progress":  # as many turns as a run on another thread takes
                runs = len(self.stage.run.batches)
                for _ in range(50):
                    if len(self.stage.run.batches) > runs:
                        break
                    await asyncio.sleep(0)

    def submit(self, asked: Submit) -> Caller:
        patience_s, rows = asked.patience_s, len(asked.values)
        deadline = None if patience_s is None else self.stage.clock() + patience_s
        given = feeds(*asked.values, width=asked.width)
        nbytes, priority = rows * BYTES, asked.priority
        return asyncio.create_task(
            self.batcher.submit(given, rows, deadline, nbytes=nbytes, priority=priority)
        )

    async def finish(self) -> None:
        self.stage.run.release()
        tasks = [*(caller for _, caller in self.callers), *self.drains]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=20)
            assert not unfinished, "somebody waits for ever"
        await until(lambda: self.batcher.running == 0)

    def allowed(self, request: Submit, caller: Caller) -> bool:
        if caller.cancelled():
            return caller in self.cancelled
        ending = caller.exception() or caller.result()
        match ending:
            case Answer():
                return is_answer(ending, *request.values, width=request.width)
            case InferenceFailed():
                return min(request.values) < 0 or self.crashes
            case DeadlineExceeded():
                return request.patience_s is not None or request.priority == 1  # its policy's
            case InvalidInput():
                return len(request.values) > MAX_ROWS + MAX_QUEUE_ROWS
            case Draining():
                return bool(self.drains)
            case Overloaded():
                return len(self.callers) > 1
        return False


@settings(max_examples=200, deadline=None)
@given(
    steps=STEPS,
    drain=DRAIN,
    instances=st.integers(1, 3),
    held=st.booleans(),
    in_place_rows=st.sampled_from([0, 0, 0, 2]),
    gpus=st.sampled_from([0, 0, 1]),
)
async def test_every_submit_ends_once_as_its_own_deeds_allow(
    steps: list[Any],
    drain: tuple[int, Drain] | None,
    instances: int,
    held: bool,
    in_place_rows: int,
    gpus: int,
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    if drain:
        steps.insert(*drain)
    with ThreadPoolExecutor(instances) as executor:
        play = Play(executor, instances, in_place_rows, gpus)
        try:
            for step in ["hold", *steps] if held else steps:
                await play.step(step)
        finally:
            await play.finish()
    for request, caller in play.callers:
        assert play.allowed(request, caller), (request, caller)
    batcher = play.batcher
    assert (batcher.waiting_rows, batcher.waiting_bytes, batcher.waiting_requests) == (0, 0, 0)
    assert batcher.running == 0
    bill = play.stage.ledger.read()
    assert bill.unsettled == {}, "a run is never paid for"
    assert bill.accounted_core_s == pytest.approx(bill.paid_core_s)
    assert max(play.stage.run.batches, default=0) <= MAX_ROWS
    unexpected = [what for what in complaints if not (play.crashes and _is_shutdown(what))]
    assert not unexpected, "a caller was settled twice, or a task failed unseen"


def _is_shutdown(complaint: dict[str, Any]) -> bool:
    return "after shutdown" in str(complaint.get("exception"))
