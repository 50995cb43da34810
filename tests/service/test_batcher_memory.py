"""What a request held is given back at once, not when the garbage is next collected."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from service.batching import Run
from service.errors import ServingError
from tests.fakes import Arrays
from tests.service.followed import SAMPLED, Followed
from tests.service.stage import Stage, feeds, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def tensors_left(
    stage: Stage,
    *values: float,
    late: bool = False,
    run: Run | None = None,
    followed: Followed | None = None,
    **limits: int,
) -> bool:
    """Whether a request's tensors are still there after it has ended."""
    batcher = stage.batcher(run, **limits)
    given = feeds(*values)
    tensors = weakref.ref(given["x"])
    deadline = stage.clock() + (0.05 if late else 60.0)
    if late:
        stage.run.hold()

    async def call() -> None:
        span = followed.spans.begin(SAMPLED, "ModelInfer") if followed else None
        with suppress(ServingError):
            await batcher.submit(given, len(values), deadline, span=span)

    caller = asyncio.create_task(call())
    await caller
    given.clear()
    del caller, call
    stage.run.release()
    await until(lambda: batcher.running == 0)
    await asyncio.sleep(0.01)  # the executor's thread lets go of what it ran
    return tensors() is not None


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)], ids=["whole", "in parts"])
async def test_answered_request_leaves_nothing(stage: Stage, values: tuple[float, ...]) -> None:
    assert not await tensors_left(stage, *values, max_rows=2)


@pytest.mark.parametrize("values", [(-1,), (1, -2, 3)], ids=["whole", "in parts"])
async def test_failed_request_leaves_nothing(stage: Stage, values: tuple[float, ...]) -> None:
    assert not await tensors_left(stage, *values, max_rows=2)


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)], ids=["whole", "in parts"])
async def test_request_whose_deadline_passed_leaves_nothing(
    stage: Stage, values: tuple[float, ...]
) -> None:
    assert not await tensors_left(stage, *values, late=True, max_rows=2)


def as_wide_as_the_batch(given: Arrays) -> Arrays:
    rows = len(given["x"])
    return {"y": np.zeros((rows, rows), np.float32), "same": given["x"]}


async def test_parts_that_cannot_be_joined_leave_nothing(stage: Stage) -> None:
    assert not await tensors_left(stage, 1, 2, 3, run=as_wide_as_the_batch, max_rows=2)


async def test_answer_that_is_too_large_leaves_nothing(stage: Stage) -> None:
    assert not await tensors_left(stage, 1, 2, 3, max_rows=2, max_joined_bytes=5)


async def test_refused_request_leaves_nothing(stage: Stage) -> None:
    assert not await tensors_left(stage, *range(1, 10), max_rows=2, max_queue_rows=2)


async def test_failure_in_place_leaves_nothing(stage: Stage) -> None:
    assert not await tensors_left(stage, -1, in_place_rows=1)


@pytest.mark.parametrize("values", [(1,), (-1,), (1, -2, 3)], ids=["answered", "failed", "parts"])
@pytest.mark.parametrize("in_place_rows", [0, 1])
async def test_a_request_that_is_followed_leaves_nothing_but_its_spans(
    stage: Stage, values: tuple[float, ...], in_place_rows: int
) -> None:
    followed = Followed()
    assert not await tensors_left(
        stage, *values, followed=followed, max_rows=2, in_place_rows=in_place_rows
    )
    assert followed.seen("batch")
