"""A batcher whose runs compute one at a time: rows wait for more of them, not with them."""

from __future__ import annotations

import asyncio

import pytest

from service.batcher import Batcher
from tests.service.stage import Stage, feeds, is_answer, queue, submit, until

pytestmark = pytest.mark.timeout(30)
RUN_S = 0.05


async def known(stage: Stage, run_s: float = RUN_S) -> Batcher:
    """One GPU with two instances, of which it is known that a row takes so long."""
    batcher = stage.batcher(gpus=1, instances=2)
    stage.run.hold()
    caller = submit(batcher, 1)
    await until(lambda: stage.run.batches == [1])
    stage.clock.advance(run_s)
    stage.run.release()
    await caller
    stage.run.batches.clear()
    return batcher


async def test_rows_behind_a_run_wait_for_more_until_it_is_over(stage: Stage) -> None:
    batcher = await known(stage, 60.0)
    head = await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2, 3), (4,))
    assert (batcher.running, stage.run.batches) == (1, []), "an instance is idle all the while"
    stage.door.release()
    answers = await asyncio.gather(*callers)
    assert stage.run.batches == [4]
    assert is_answer(answers[1], 2, 3)
    await head


async def test_rows_are_taken_in_time_to_be_there_when_the_run_is_over(stage: Stage) -> None:
    batcher = await known(stage)
    head = await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2,))
    stage.clock.advance(RUN_S - 0.0005)
    await until(lambda: stage.run.batches == [2])  # nothing but the time woke it
    stage.door.release()
    await asyncio.gather(head, *callers)


async def test_full_run_is_taken_while_another_computes(stage: Stage) -> None:
    batcher = await known(stage, 60.0)
    head = await stage.occupy(batcher)
    callers = await queue(batcher, (1,) * 7)
    assert batcher.running == 1
    callers.append(submit(batcher, 8))
    await until(lambda: stage.run.batches == [8])
    stage.door.release()
    await asyncio.gather(head, *callers)


async def test_first_runs_are_not_waited_for_since_nothing_is_known_of_them(stage: Stage) -> None:
    batcher = stage.batcher(gpus=1, instances=2)
    head = await stage.occupy(batcher)
    assert is_answer(await batcher.submit(feeds(1), 1, None), 1)
    stage.door.release()
    await head


async def test_failing_runs_give_the_gpu_back(stage: Stage) -> None:
    batcher = await known(stage, 60.0)
    head = await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (-1,), (2,))
    stage.door.release()
    endings = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(ending, Exception) for ending in endings] == [False, True, False]
    assert is_answer(await batcher.submit(feeds(3), 1, None), 3)
    await head
    assert batcher.running == 0


async def test_newcomers_wait_is_that_for_the_gpu_though_an_instance_is_idle(stage: Stage) -> None:
    batcher = await known(stage, 60.0)
    assert batcher.wait_s == 0.0
    head = await stage.occupy(batcher)
    assert batcher.wait_s >= 60.0
    stage.door.release()
    await head


async def test_server_that_goes_away_finishes_what_waits_for_the_gpu(stage: Stage) -> None:
    batcher = await known(stage, 60.0)
    head = await stage.occupy(batcher)
    (caller,) = await queue(batcher, (1,))
    drained = asyncio.create_task(batcher.drain(None))
    stage.door.release()
    assert await drained
    assert is_answer(await caller, 1)
    await head
