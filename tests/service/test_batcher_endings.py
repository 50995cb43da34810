"""How a request ends other than with an answer; its neighbours never notice."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.batching import QueuePolicy
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    Overloaded,
)
from tests.fakes import Arrays
from tests.service.stage import DOOR, Stage, feeds, is_answer, queue, submit, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("bad", range(3))
async def test_bad_row_fails_alone(stage: Stage, bad: int) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    values = [-9.0 if index == bad else index + 1.0 for index in range(3)]
    callers = await queue(batcher, *((value,) for value in values))
    stage.door.release()
    await asyncio.wait(callers, timeout=20)
    assert isinstance(callers[bad].exception(), InferenceFailed)
    for index, value in enumerate(values):
        assert index == bad or is_answer(callers[index].result(), value)
    assert stage.run.batches == [3, 1, 1, 1]


async def test_failed_caller_is_told_nothing_internal(stage: Stage) -> None:
    with pytest.raises(InferenceFailed) as refusal:
        await stage.batcher().submit(feeds(-1), 1, None)
    assert str(refusal.value) == "the model failed on this input"
    assert "secret detail" in str(refusal.value.__cause__), "the log needs the reason"


async def test_failing_request_that_ran_alone_is_not_run_again(stage: Stage) -> None:
    with pytest.raises(InferenceFailed):
        await stage.batcher().submit(feeds(-1), 1, None)
    assert stage.run.batches == [1]


async def test_failed_run_gives_the_instance_back(stage: Stage) -> None:
    batcher = stage.batcher()
    bad, good = submit(batcher, -1), submit(batcher, 2)
    assert is_answer(await good, 2)
    assert isinstance(bad.exception(), InferenceFailed)
    assert (batcher.running, batcher.waiting_rows) == (0, 0)


async def test_caller_who_left_a_failing_batch_is_not_run_again(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    stage.run.hold()
    good, _, leaver = await queue(batcher, (1,), (-1,), (2,))
    stage.door.release()
    await until(lambda: stage.run.batches == [3])
    leaver.cancel()
    stage.run.release()
    assert is_answer(await good, 1)
    await until(lambda: batcher.running == 0)
    assert stage.run.batches == [3, 1, 1]


@pytest.mark.parametrize("answered", [0, 1, 3])
async def test_wrong_number_of_output_rows_is_a_failure(stage: Stage, answered: int) -> None:
    batcher = stage.batcher(lambda _: {"y": np.zeros((answered, 2), np.float32)})
    with pytest.raises(InferenceFailed, match="'y'"):
        await batcher.submit(feeds(1, 2), 2, None)


async def test_output_without_rows_fails_each_caller_of_the_batch(stage: Stage) -> None:
    def total(given: Arrays) -> Arrays:
        return {"y": stage(given)["y"].sum()}

    batcher = stage.batcher(total)
    callers = [await stage.occupy(batcher), *await queue(batcher, (1,), (2,))]
    stage.door.release()
    await asyncio.wait(callers, timeout=20)
    assert [type(caller.exception()) for caller in callers] == [InferenceFailed] * 3


async def test_model_that_raises_stop_iteration_fails_like_any_other(stage: Stage) -> None:
    def exhausted(given: Arrays) -> Arrays:
        raise StopIteration

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    caller = submit(stage.batcher(exhausted), 1)
    await asyncio.wait([caller], timeout=1)
    assert caller.done() and isinstance(caller.exception(), InferenceFailed)


@pytest.mark.parametrize("late_s", [0.0, 5.0])
async def test_deadline_passed_at_arrival_runs_nothing(stage: Stage, late_s: float) -> None:
    batcher = stage.batcher()
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(feeds(1), 1, stage.clock() - late_s)
    assert (stage.run.batches, batcher.waiting_rows) == ([], 0)


async def test_deadline_passed_in_the_queue_runs_nothing(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    (late,) = await queue(batcher, (1,), deadline=stage.clock() + 60)
    (patient,) = await queue(batcher, (2,))
    stage.clock.advance(60)
    stage.door.release()
    assert is_answer(await patient, 2)
    assert isinstance(late.exception(), DeadlineExceeded)
    assert stage.run.batches == [1]


async def test_deadline_ends_the_wait_while_the_instance_is_still_busy(stage: Stage) -> None:
    batcher = stage.batcher()
    head = await stage.occupy(batcher)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(feeds(1), 1, stage.clock() + 0.01)
    assert (batcher.waiting_rows, head.done()) == (0, False)


async def test_deadline_in_the_run_does_not_harm_batch_mates(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    stage.run.hold()
    (late,) = await queue(batcher, (1,), deadline=stage.clock() + 0.3)
    (patient,) = await queue(batcher, (2,))
    stage.door.release()
    await until(lambda: stage.run.batches == [2])
    await asyncio.wait([late], timeout=20)
    assert isinstance(late.exception(), DeadlineExceeded)
    stage.run.release()
    assert is_answer(await patient, 2)


async def test_deadline_still_ahead_is_answered(stage: Stage) -> None:
    assert is_answer(await stage.batcher().submit(feeds(1), 1, stage.clock() + 60), 1)


async def test_full_queue_refuses_at_once_and_says_when_to_come_again(stage: Stage) -> None:
    batcher = stage.batcher(max_queue_rows=3)
    head = await stage.occupy(batcher)
    await queue(batcher, (1,), (2,))
    with pytest.raises(Overloaded) as refusal:
        await batcher.submit(feeds(3, 4), 2, None)
    assert refusal.value.retry_after_ms > 0
    assert (batcher.waiting_rows, head.done()) == (2, False)


async def test_queue_takes_exactly_its_bound(stage: Stage) -> None:
    batcher = stage.batcher(max_queue_rows=3)
    await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2, 3))
    stage.door.release()
    assert [len((await caller).outputs["y"]) for caller in callers] == [1, 2]


async def test_place_of_a_caller_who_left_is_free_again(stage: Stage) -> None:
    batcher = stage.batcher(max_queue_rows=1)
    await stage.occupy(batcher)
    (leaver,) = await queue(batcher, (1,))
    leaver.cancel()
    await until(lambda: batcher.waiting_rows == 0)
    (follower,) = await queue(batcher, (2,))
    stage.door.release()
    assert is_answer(await follower, 2)


async def test_idle_server_takes_a_request_larger_than_its_queue(stage: Stage) -> None:
    assert is_answer(await stage.batcher(max_queue_rows=1).submit(feeds(1, 2), 2, None), 1, 2)


async def test_drain_finishes_accepted_work_and_refuses_new(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1)
    accepted = [await stage.occupy(batcher), *await queue(batcher, (1,), (2,))]
    draining = asyncio.create_task(batcher.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await batcher.submit(feeds(3), 1, None)
    stage.door.release()
    assert await draining is True
    for caller, value in zip(accepted, (0, 1, 2), strict=True):
        assert is_answer(await caller, value)


async def test_drain_that_times_out_still_answers_everyone(stage: Stage) -> None:
    batcher = stage.batcher()
    head = await stage.occupy(batcher)
    waiting = await queue(batcher, (1,), (2,))
    assert await batcher.drain(0) is False
    await asyncio.wait([head, *waiting], timeout=20)
    assert [type(caller.exception()) for caller in (head, *waiting)] == [Draining] * 3
    stage.door.release()
    await until(lambda: batcher.running == 0)
    assert (stage.run.batches, batcher.waiting_rows) == ([], 0)


async def test_drain_of_an_idle_batcher_is_finished_at_once(stage: Stage) -> None:
    batcher = stage.batcher()
    assert await batcher.drain(0) is True
    with pytest.raises(Draining):
        await batcher.submit(feeds(1), 1, None)


async def test_models_own_limit_of_waiting_ends_a_request_that_waits(stage: Stage) -> None:
    batcher = stage.batcher(default_policy=QueuePolicy(timeout_s=0.01))
    door = await stage.occupy(batcher)
    with pytest.raises(DeadlineExceeded, match="queue policy"):
        await submit(batcher, 1)
    assert batcher.waiting_rows == 0
    stage.door.release()
    assert is_answer(await door, DOOR)


async def test_request_that_runs_is_not_ended_by_the_limit_of_waiting(stage: Stage) -> None:
    batcher = stage.batcher(default_policy=QueuePolicy(timeout_s=0.01))
    stage.run.hold()
    caller = submit(batcher, 1)
    await asyncio.sleep(0.05)
    stage.run.release()
    assert is_answer(await caller, 1)


async def test_first_priority_overtakes_those_who_wait(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, priority_levels=2, default_priority=2)
    order: list[str] = []

    async def ask(name: str, priority: int) -> None:
        await batcher.submit(feeds(1), 1, None, priority=priority)
        order.append(name)

    await stage.occupy(batcher)
    callers = [asyncio.create_task(ask(*who)) for who in (("last", 0), ("second", 2), ("first", 1))]
    await until(lambda: batcher.waiting_requests == 3)
    stage.door.release()
    await asyncio.gather(*callers)
    assert order == ["first", "last", "second"]


async def test_bytes_of_those_who_wait_are_counted_and_bounded(stage: Stage) -> None:
    batcher = stage.batcher(max_queue_bytes=100)
    await stage.occupy(batcher)
    waiter = asyncio.create_task(batcher.submit(feeds(1), 1, None, nbytes=60))
    await until(lambda: batcher.waiting_bytes == 60)
    with pytest.raises(Overloaded, match="60 bytes are waiting"):
        await batcher.submit(feeds(1), 1, None, nbytes=60)
    stage.door.release()
    await waiter
    assert batcher.waiting_bytes == 0


async def test_runs_are_told_once_each_with_their_rows(stage: Stage) -> None:
    told: list[int] = []
    batcher = stage.batcher(on_run=lambda rows, *seconds: told.append(rows))
    await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2, 3))
    stage.door.release()
    await asyncio.gather(*callers)
    assert told == [1, 3]


async def test_executor_that_is_broken_leaves_no_caller_without_an_answer(stage: Stage) -> None:
    broken = ThreadPoolExecutor(1)
    broken.shutdown()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is logged
    batcher = Stage(broken).batcher(max_rows=2)
    for values in ((1,), (1, 2, 3)):
        with pytest.raises(InferenceFailed, match="the server could not run this request"):
            await submit(batcher, *values)
    assert (batcher.waiting_rows, batcher.running) == (0, 0)
