"""Which rows run when and together, and that everyone gets their own back."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.latency import MARGIN
from tests.fakes import Arrays
from tests.service.stage import DOOR, Caller, Stage, feeds, is_answer, queue, submit, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)


async def test_lone_request_runs_at_once_and_alone(stage: Stage) -> None:
    batcher = stage.batcher()
    answer = await batcher.submit(feeds(1, 2), 2, None)
    assert is_answer(answer, 1, 2)
    assert (answer.queued_s, answer.batch_rows, stage.run.batches) == (0, 2, [2])
    assert (batcher.waiting_rows, batcher.running) == (0, 0)


async def test_newcomers_wait_is_known_while_others_run_and_wait(stage: Stage) -> None:
    batcher = stage.batcher(known_s=1.0 / MARGIN)
    assert batcher.wait_s == 0.0
    head = await stage.occupy(batcher)
    assert batcher.wait_s == pytest.approx(1.0), "the one that runs"
    stage.clock.advance(0.75)
    assert batcher.wait_s == pytest.approx(0.25)
    callers = await queue(batcher, *[(1,)] * 8)
    assert batcher.wait_s == pytest.approx(8.25), "and a run of eight rows"
    stage.door.release()
    await asyncio.gather(head, *callers)


async def test_no_instance_idles_while_a_row_waits(stage: Stage) -> None:
    batcher = stage.batcher(instances=2)
    stage.run.hold()
    callers = [submit(batcher, 1), submit(batcher, 2), submit(batcher, 3)]
    await until(lambda: stage.run.batches == [1, 1])
    assert (batcher.running, batcher.waiting_rows) == (2, 1)
    stage.run.release()
    answers = await asyncio.gather(*callers)
    assert [is_answer(a, v) for a, v in zip(answers, (1, 2, 3), strict=True)] == [True] * 3


async def test_requests_form_one_batch_while_the_instance_is_busy(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2, 3), (4,))
    stage.clock.advance(0.5)
    stage.door.release()
    answers = await asyncio.gather(*callers)
    assert stage.run.batches == [4]
    assert {(answer.batch_rows, answer.queued_s) for answer in answers} == {(4, 0.5)}


async def test_rows_return_to_the_caller_they_came_from(stage: Stage) -> None:
    batcher = stage.batcher()
    head = await stage.occupy(batcher)
    requests = [(1.0, 2.0), (3.0,), (4.0, 5.0, 6.0)]
    callers = await queue(batcher, *requests)
    stage.door.release()
    assert is_answer(await head, DOOR)
    for caller, values in zip(callers, requests, strict=True):
        assert is_answer(await caller, *values)


async def test_inputs_given_in_another_order_stay_apart(stage: Stage) -> None:
    batcher = stage.batcher(lambda given: stage(given) | {"z": given["z"]})
    head = asyncio.create_task(batcher.submit({**feeds(DOOR), "z": np.zeros((1, 2))}, 1, None))
    stage.door.hold()
    one, two = {**feeds(1), "z": np.full((1, 2), 7.0)}, {"z": np.full((1, 2), 8.0), **feeds(2)}
    callers = [asyncio.create_task(batcher.submit(given, 1, None)) for given in (one, two)]
    await until(lambda: batcher.waiting_rows == 2)
    stage.door.release()
    first, second, _ = await asyncio.gather(*callers, head)
    assert stage.run.batches == [2]
    assert is_answer(first, 1) and is_answer(second, 2)
    assert (first.outputs["z"][0, 0], second.outputs["z"][0, 0]) == (7, 8)


async def test_run_time_is_measured_on_the_clock(stage: Stage) -> None:
    def slow(given: Arrays) -> Arrays:
        stage.clock.advance(0.25)
        return stage(given)

    answer = await stage.batcher(slow).submit(feeds(1), 1, None)
    assert (answer.queued_s, answer.run_s) == (0, 0.25)


async def test_run_never_takes_more_than_max_rows_and_fills_up_from_behind(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=4)
    await stage.occupy(batcher)
    callers = await queue(batcher, (1, 1, 1), (2, 2), (3,), (4, 4), (5,))
    stage.door.release()
    await asyncio.gather(*callers)
    assert stage.run.batches == [4, 4, 1]


async def test_request_that_does_not_fit_heads_the_next_run(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=4)
    await stage.occupy(batcher)
    _, big, *_ = await queue(batcher, (1,), (2, 2, 2, 2), (3, 3, 3), (4, 4, 4))
    stage.door.release()
    await big
    assert stage.run.batches[:2] == [4, 4]


async def test_different_inner_shapes_are_not_mixed_in_one_run(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    callers = [submit(batcher, value, width=width) for value, width in ((1, 2), (2, 3), (3, 2))]
    await until(lambda: batcher.waiting_rows == 3)
    stage.door.release()
    answers = await asyncio.gather(*callers)
    assert stage.run.batches == [2, 1]
    assert is_answer(answers[1], 2, width=3)


async def test_model_without_a_batch_dimension_runs_each_request_alone(stage: Stage) -> None:
    batcher = stage.batcher(batched=False)
    await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2,), (3,))
    stage.door.release()
    await asyncio.gather(*callers)
    assert stage.run.batches == [1, 1, 1]


async def test_model_without_a_batch_dimension_may_answer_in_any_shape(stage: Stage) -> None:
    batcher = stage.batcher(lambda given: {"y": given["x"].sum()}, batched=False)
    assert (await batcher.submit(feeds(1, 2), 1, None)).outputs["y"] == 6


@pytest.mark.parametrize("leaver", range(4))
async def test_caller_cancelled_in_the_queue_is_not_run(stage: Stage, leaver: int) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    callers = await queue(batcher, (1,), (2,), (3,), (4,))
    callers[leaver].cancel()
    await until(lambda: batcher.waiting_rows == 3)
    stage.door.release()
    await settled_but_for(callers, leaver)
    assert stage.run.batches == [3]


@pytest.mark.parametrize("leaver", range(4))
async def test_cancelled_caller_does_not_harm_batch_mates(stage: Stage, leaver: int) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    stage.run.hold()
    callers = await queue(batcher, (1,), (2,), (3,), (4,))
    stage.door.release()
    await until(lambda: stage.run.batches == [4])
    callers[leaver].cancel()
    stage.run.release()
    await settled_but_for(callers, leaver)


async def settled_but_for(callers: list[Caller], leaver: int) -> None:
    """The leaver is cancelled; the others, who sent 1, 2, 3 ..., have their answers."""
    await asyncio.wait(callers, timeout=20)
    assert callers[leaver].cancelled()
    for index, caller in enumerate(callers):
        assert index == leaver or is_answer(caller.result(), index + 1)


async def test_only_caller_cancelled_in_the_run_gives_the_instance_back(stage: Stage) -> None:
    batcher = stage.batcher()
    head = await stage.occupy(batcher)
    head.cancel()
    stage.door.release()
    assert is_answer(await batcher.submit(feeds(1), 1, None), 1)
    assert head.cancelled() and batcher.running == 0


async def test_all_callers_cancelled_in_the_queue_run_nothing(stage: Stage) -> None:
    batcher = stage.batcher()
    head = await stage.occupy(batcher)
    for caller in await queue(batcher, (1,), (2,)):
        caller.cancel()
    stage.door.release()
    await head
    await until(lambda: batcher.running == 0)
    assert (stage.run.batches, batcher.waiting_rows) == ([], 0)
