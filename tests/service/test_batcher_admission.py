"""Who is refused at once, by what runs are known to take."""

from __future__ import annotations

import pytest

from service.errors import Overloaded
from tests.service.stage import Stage, submit, until

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
    stage.batcher().expect(2**40, None)
