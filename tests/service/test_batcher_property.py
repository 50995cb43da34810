"""Whatever callers do in whatever order, each ends once, in a way that its own deeds allow."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Answer
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidInput,
    Overloaded,
)
from tests.service.stage import Caller, Stage, is_answer, submit, until

MAX_ROWS, MAX_QUEUE_ROWS = 4, 6


@dataclass(frozen=True)
class Submit:
    values: tuple[float, ...]
    width: int
    patience_s: float | None


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
)
OTHER = st.one_of(
    st.builds(Cancel, st.integers(0, 20)),
    st.builds(Advance, st.sampled_from([1.0, 20.0])),
    st.sampled_from(["hold", "release", "turn", "turn", "progress"]),
)
# Callers come at least as often as all else; the server goes away once, if at all.
STEPS = st.lists(st.booleans().flatmap(lambda new: SUBMIT if new else OTHER), min_size=10)
DRAIN = st.none() | st.tuples(st.integers(5, 30), st.builds(Drain, st.sampled_from([0.0, 60.0])))


class Play:
    """One sequence of steps on one batcher."""

    def __init__(self, stage: Stage, instances: int, in_place_rows: int) -> None:
        self.stage, self.held = stage, not in_place_rows
        self.batcher = stage.batcher(
            max_rows=MAX_ROWS,
            max_queue_rows=MAX_QUEUE_ROWS,
            instances=instances,
            in_place_rows=in_place_rows,
        )
        self.callers: list[tuple[Submit, Caller]] = []
        self.cancelled: set[Caller] = set()
        self.drains: list[asyncio.Task[bool]] = []

    async def step(self, step: Any) -> None:
        match step:
            case Submit(values, width, patience_s):
                deadline = None if patience_s is None else self.stage.clock() + patience_s
                caller = submit(self.batcher, *values, width=width, deadline=deadline)
                self.callers.append((step, caller))
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
                return min(request.values) < 0
            case DeadlineExceeded():
                return request.patience_s is not None
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
    instances=st.integers(1, 2),
    held=st.booleans(),
    in_place_rows=st.sampled_from([0, 0, 0, 2]),
)
async def test_every_submit_ends_once_as_its_own_deeds_allow(
    steps: list[Any],
    drain: tuple[int, Drain] | None,
    instances: int,
    held: bool,
    in_place_rows: int,
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    if drain:
        steps.insert(*drain)
    with ThreadPoolExecutor(instances) as executor:
        play = Play(Stage(executor), instances, in_place_rows)
        try:
            for step in ["hold", *steps] if held else steps:
                await play.step(step)
        finally:
            await play.finish()
    for request, caller in play.callers:
        assert play.allowed(request, caller), (request, caller)
    assert (play.batcher.waiting_rows, play.batcher.running) == (0, 0)
    assert max(play.stage.run.batches, default=0) <= MAX_ROWS
    assert not complaints, "a caller was settled twice, or a task failed unseen"
