"""Runs that are over sooner than a thread would have begun them run on the event loop itself."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.errors import DeadlineExceeded, Draining, InferenceFailed
from tests.fakes import Arrays
from tests.service.stage import DOOR, Stage, feeds, is_answer, queue, submit, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)


class Where:
    """A model that remembers on which threads it ran, and takes so long on the manual clocks."""

    def __init__(self, stage: Stage, seconds: float = 0.0, cpu_s: float = 0.0) -> None:
        self.stage, self.seconds, self.cpu_s = stage, seconds, cpu_s
        self.threads: list[int] = []

    def __call__(self, given: Arrays) -> Arrays:
        self.threads.append(threading.get_ident())
        self.stage.clock.advance(self.seconds)
        self.stage.cpu.advance(self.cpu_s)
        return self.stage(given)

    @property
    def in_place(self) -> list[bool]:
        return [thread == threading.get_ident() for thread in self.threads]


async def test_short_run_stays_on_the_loops_thread_and_a_longer_one_leaves_it(
    stage: Stage,
) -> None:
    run = Where(stage)
    batcher = stage.batcher(run, in_place_rows=2)
    for values in ((1,), (1, 2), (1, 2, 3)):
        assert is_answer(await submit(batcher, *values), *values)
    assert run.in_place == [True, True, False]


async def test_nobody_overtakes_those_who_wait(stage: Stage) -> None:
    run = Where(stage)
    batcher = stage.batcher(run, in_place_rows=1)
    stage.door.hold()
    first = submit(batcher, DOOR, DOOR)
    await until(lambda: stage.door.batches == [2])
    second, third = await queue(batcher, (1,), (2,))
    stage.door.release()
    await first
    assert is_answer(await second, 1)
    assert is_answer(await third, 2)
    assert (stage.run.batches, run.in_place) == ([2], [False, False])


async def test_runs_that_have_become_long_go_to_a_thread(stage: Stage) -> None:
    run = Where(stage, seconds=0.1)
    batcher = stage.batcher(run, in_place_rows=1)
    await submit(batcher, 1)
    await submit(batcher, 2)
    assert run.in_place == [True, False]


@pytest.mark.parametrize("value", [1, -1], ids=["answered", "failed"])
async def test_caller_who_has_made_one_run_long_does_not_do_so_twice(
    stage: Stage, value: float
) -> None:
    run = Where(stage, cpu_s=0.006)
    batcher = stage.batcher(run, in_place_rows=1)
    await asyncio.gather(submit(batcher, value), return_exceptions=True)
    for _ in range(100):  # however short the others are
        run.cpu_s = 0.0
        await submit(batcher, 1)
    assert run.in_place == [True] + 100 * [False]


async def test_run_that_was_only_stalled_stays(stage: Stage) -> None:
    run = Where(stage)
    batcher = stage.batcher(run, in_place_rows=1)
    for _ in range(320):  # one in eight is learned from
        await submit(batcher, 1)
    run.seconds = 0.1  # of which the model had none
    await submit(batcher, 1)
    run.seconds = 0.0
    await submit(batcher, 1)
    assert all(run.in_place)


async def test_each_run_in_place_is_told_and_some_are_learned_from(stage: Stage) -> None:
    told: list[tuple[float, ...]] = []
    run = Where(stage, seconds=0.001)
    batcher = stage.batcher(run, on_run=lambda *facts: told.append(facts), in_place_rows=1)
    answers = [await submit(batcher, value) for value in range(1, 10)]
    answer = answers[0]
    assert len(told) == 9
    assert (answer.queued_s, answer.batch_rows) == (0.0, 1)
    rows, _, run_s, expected_s, took_s = told[-1]
    assert (rows, run_s, took_s) == (1, pytest.approx(0.001), pytest.approx(0.001))
    assert expected_s == pytest.approx(0.00115)


async def test_failure_in_place_is_the_callers_alone(stage: Stage) -> None:
    batcher = stage.batcher(in_place_rows=1)
    with pytest.raises(InferenceFailed, match="failed on this input"):
        await submit(batcher, -1)
    assert is_answer(await submit(batcher, 1), 1)


@pytest.mark.parametrize("late_s", [0.0, 1.0])
async def test_what_is_too_late_or_drained_is_not_run_in_place_either(
    stage: Stage, late_s: float
) -> None:
    batcher = stage.batcher(in_place_rows=1)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(feeds(1), 1, stage.clock() - late_s)
    await batcher.drain(None)
    with pytest.raises(Draining):
        await batcher.submit(feeds(1), 1, None)
    assert stage.run.batches == []
