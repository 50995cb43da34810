"""Who is refused at once, by what runs are known to take."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import Overloaded
from tests.fakes import Arrays
from tests.service.stage import Stage, queue, submit, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)


async def test_what_would_be_too_late_is_refused_before_it_is_decoded(stage: Stage) -> None:
    batcher = stage.batcher()
    stage.run.hold()
    first = submit(batcher, 1)
    await until(lambda: stage.run.batches == [1])
    stage.clock.advance(1.0)
    stage.run.release()
    await first  # so a run is known to take a second
    await stage.occupy(batcher)
    with pytest.raises(Overloaded, match="deadline") as refused:
        batcher.expect(1, stage.clock() + 0.5)
    assert refused.value.reason == "queue_time"
    batcher.expect(1, stage.clock() + 5.0)
    batcher.expect(1, None)
    stage.door.release()


async def test_run_that_has_only_just_been_given_out_is_known_to_who_comes_next(
    stage: Stage,
) -> None:
    batcher = stage.batcher(known_s=1.0)
    stage.run.hold()
    first = submit(batcher, 1)
    second = submit(batcher, 2, deadline=stage.clock() + 1.5)  # two runs take longer
    with pytest.raises(Overloaded, match="deadline"):
        await second
    stage.run.release()
    await first


async def test_rows_that_nobody_has_looked_at_are_not_refused_for_their_number(
    stage: Stage,
) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    batcher.expect(2**40, None)  # decoding finds out what is wrong with that
    stage.door.release()


async def test_who_comes_while_a_failed_batch_is_run_again_is_told_the_time_of_that(
    stage: Stage,
) -> None:
    def run(given: Arrays) -> Arrays:
        if len(given["x"]) == 3:
            raise ValueError("one of them is bad")
        return stage(given)

    batcher = stage.batcher(run, known_s=1.0)
    await stage.occupy(batcher)
    callers = await queue(batcher, (-1,), (2,), (3,))
    stage.run.hold()
    stage.door.release()
    await until(lambda: stage.run.batches == [1])
    with pytest.raises(Overloaded, match="deadline"):  # three runs of a second
        batcher.expect(1, stage.clock() + 2.5)
    stage.run.release()
    await asyncio.gather(*callers, return_exceptions=True)
