"""A request with more rows than one run takes: run in parts, answered as one."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.batching import QueuePolicy
from service.errors import DeadlineExceeded, Draining, InferenceFailed, InvalidInput, Overloaded
from tests.fakes import Arrays
from tests.service.stage import Stage, feeds, is_answer, queue, submit, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)

MANY = (1, 2, 3, 4, 5, 6, 7)


async def test_rows_come_back_in_their_order_whatever_the_runs(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=3)
    answer = await submit(batcher, *MANY)
    assert is_answer(answer, *MANY)
    assert (stage.run.batches, answer.batch_rows) == ([3, 3, 1], 3)


async def test_last_part_shares_its_run_with_who_comes_next(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=3)
    await stage.occupy(batcher)
    large, small = await queue(batcher, (1, 2, 3, 4), (5,))
    stage.door.release()
    assert is_answer(await large, 1, 2, 3, 4)
    assert is_answer(await small, 5)
    assert stage.run.batches == [3, 2]


async def test_instances_run_the_parts_at_the_same_time(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2, instances=2)
    stage.run.hold()
    caller = submit(batcher, 1, 2, 3, 4)
    await until(lambda: stage.run.batches == [2, 2])
    stage.run.release()
    assert is_answer(await caller, 1, 2, 3, 4)


async def test_time_that_is_no_run_counts_as_waiting(stage: Stage) -> None:
    def run(given: Arrays) -> Arrays:
        stage.clock.advance(2.0)
        return {"y": given["x"] * 2}

    batcher = stage.batcher(run, max_rows=1)
    other, caller = submit(batcher, 9), submit(batcher, 1, 2, 3)
    await other
    answer = await caller
    assert (answer.run_s, answer.queued_s) == (6.0, 2.0)


async def test_request_alone_on_the_server_is_run_whatever_the_estimate_says(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2, known_s=10.0)
    assert is_answer(await submit(batcher, *MANY, deadline=stage.clock() + 1.0), *MANY)


async def test_part_that_finds_others_waiting_is_judged_like_them(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2, known_s=10.0)
    await stage.occupy(batcher)
    with pytest.raises(Overloaded) as refused:
        await submit(batcher, *MANY, deadline=stage.clock() + 1.0)
    assert refused.value.reason == "queue_time"
    stage.door.release()


async def test_bad_row_in_one_part_fails_the_whole_and_nobody_else(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2)
    await stage.occupy(batcher)
    spoilt, other = await queue(batcher, (1, -1, 2, 3, 4), (5,))
    stage.door.release()
    with pytest.raises(InferenceFailed):
        await spoilt
    assert is_answer(await other, 5)
    # The first part, and the other caller: nothing more is run for one who has failed.
    assert stage.run.batches == [2, 1]


async def test_parts_of_one_who_left_are_not_run(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2)
    await stage.occupy(batcher)
    (leaver,) = await queue(batcher, (1, 2, 3, 4))
    leaver.cancel()
    await until(leaver.done)
    assert batcher.waiting_rows == 0
    stage.door.release()
    await until(lambda: batcher.running == 0)
    assert stage.run.batches == []


async def test_deadline_that_passes_between_two_parts_ends_the_whole_once(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1)
    stage.run.hold()
    caller = submit(batcher, 1, 2, deadline=stage.clock() + 10.0)
    await until(lambda: stage.run.batches == [1])
    stage.clock.advance(11.0)
    stage.run.release()
    with pytest.raises(DeadlineExceeded):
        await caller
    assert (stage.run.batches, batcher.waiting_rows) == ([1], 0)


async def test_drain_that_times_out_ends_what_is_half_done(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1)
    stage.run.hold()
    caller = submit(batcher, 1, 2)
    await until(lambda: stage.run.batches == [1])
    assert not await batcher.drain(0.01)
    with pytest.raises(Draining):
        await caller
    stage.run.release()
    await until(lambda: batcher.running == 0)
    assert stage.run.batches == [1]


async def test_more_rows_than_could_ever_run_and_wait_are_refused(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2, max_queue_rows=3)
    with pytest.raises(InvalidInput, match=r"6 rows.* at most 5"):
        await batcher.submit(feeds(*MANY[:6]), 6, None)
    assert is_answer(await submit(batcher, *MANY[:5]), *MANY[:5])


async def test_large_request_that_finds_no_room_leaves_nothing_behind(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=2, max_queue_rows=3)
    await stage.occupy(batcher)
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(feeds(1, 2, 3, 4), 4, None)
    assert (refused.value.reason, batcher.waiting_rows) == ("queue_rows", 0)
    stage.door.release()


async def test_parts_that_cannot_be_joined_fail_in_one_sentence(stage: Stage) -> None:
    def run(given: Arrays) -> Arrays:  # an output as wide as the batch
        rows = len(given["x"])
        return {"y": np.zeros((rows, rows), np.float32)}

    with pytest.raises(InferenceFailed, match="send fewer rows"):
        await submit(stage.batcher(run, max_rows=2), 1, 2, 3)


async def test_only_model_that_can_be_cut_is_cut(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, batched=False)
    assert is_answer(await batcher.submit(feeds(1, 2, 3), 1, None), 1, 2, 3)
    assert stage.run.batches == [3]


async def test_parts_count_as_one_request_and_with_all_of_its_bytes(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, max_queue_bytes=150)
    await stage.occupy(batcher)
    caller = asyncio.create_task(batcher.submit(feeds(1, 2), 2, None, nbytes=100))
    await until(lambda: batcher.waiting_rows == 2)
    assert (batcher.waiting_requests, batcher.waiting_bytes) == (1, 100)
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(feeds(3), 1, None, nbytes=60)
    assert refused.value.reason == "queue_bytes"
    stage.door.release()
    await caller
    assert (batcher.waiting_requests, batcher.waiting_bytes) == (0, 0)


async def test_idle_server_does_not_hold_more_bytes_of_parts_than_it_may(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, max_queue_bytes=50)
    assert is_answer(await batcher.submit(feeds(1), 1, None, nbytes=100), 1)
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(feeds(1, 2), 2, None, nbytes=100)
    assert refused.value.reason == "queue_bytes"


async def test_request_of_which_only_a_part_still_waits_counts_with_all_it_holds(
    stage: Stage,
) -> None:
    batcher = stage.batcher(max_rows=1, max_queue_bytes=150)
    stage.run.hold()
    caller = asyncio.create_task(batcher.submit(feeds(1, 2), 2, None, nbytes=100))
    await until(lambda: stage.run.batches == [1])
    assert (batcher.waiting_rows, batcher.waiting_bytes) == (1, 100)
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(feeds(3), 1, None, nbytes=60)
    assert refused.value.reason == "queue_bytes"
    stage.run.release()
    await caller
    assert batcher.waiting_bytes == 0


async def test_outputs_that_would_be_too_large_together_end_the_request_after_one_run(
    stage: Stage,
) -> None:
    batcher = stage.batcher(max_rows=2, max_joined_bytes=50)
    assert is_answer(await submit(batcher, 1, 2, 3, 4, 5, 6), 1, 2, 3, 4, 5, 6)  # 48 bytes
    with pytest.raises(InvalidInput, match=r"56 bytes together.* at most 50; send fewer rows"):
        await submit(batcher, *MANY)
    assert stage.run.batches == [2, 2, 2, 2]
    assert (batcher.waiting_rows, batcher.waiting_bytes) == (0, 0)


async def test_request_that_has_begun_is_not_ended_by_the_limit_of_waiting(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, default_policy=QueuePolicy(timeout_s=0.05))
    stage.run.hold()
    caller = submit(batcher, 1, 2, 3)
    await until(lambda: stage.run.batches == [1])
    await asyncio.sleep(0.1)
    stage.clock.advance(1.0)
    stage.run.release()
    assert is_answer(await caller, 1, 2, 3)


async def test_request_has_at_most_so_many_parts(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, max_queue_rows=1_000_000)
    assert batcher.max_request_rows == 1025


async def test_level_takes_requests_whatever_their_parts(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1, default_policy=QueuePolicy(max_requests=2))
    await stage.occupy(batcher)
    callers = await queue(batcher, (1, 2, 3), (4,))
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        await submit(batcher, 5)
    stage.door.release()
    await asyncio.gather(*callers)
