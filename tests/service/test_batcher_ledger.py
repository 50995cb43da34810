"""Each row of each run is paid for once: busy if its caller was answered in time, else waste."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import charging
from service.account import Account
from service.batcher import Batcher, Limits
from service.batching import Answer
from service.bill import BUSY, GPU, IDLE, SERVING, WASTE
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidInput,
    Overloaded,
)
from service.ledger import Ledger
from tests.fakes import Arrays
from tests.service.stage import LABELS, Stage, feeds, is_answer, queue, submit, until

# A caller who is never settled waits for ever.
pytestmark = pytest.mark.timeout(30)


class Taking:
    """A model whose every run takes so long on the manual clocks, on two threads."""

    def __init__(self, stage: Stage, seconds: float = 1.0, cpu_s: float = 0.0) -> None:
        self.stage, self.seconds, self.cpu_s = stage, seconds, cpu_s

    def __call__(self, given: Arrays) -> Arrays:
        self.stage.clock.advance(self.seconds)
        self.stage.cpu.advance(self.cpu_s)
        return self.stage(given)


def core_s(stage: Stage) -> dict[str, float]:
    """What was paid so far, by what for; nothing may be unsettled, and it adds up."""
    bill = stage.ledger.read()
    assert bill.unsettled == {}
    assert bill.accounted_core_s == pytest.approx(bill.paid_core_s)
    return {kind: bill.of(kind) for kind in (BUSY, WASTE)}


async def over(batcher: Batcher) -> None:
    await until(lambda: batcher.running == 0)


async def test_answer_in_time_is_busy_and_tells_its_own_share(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage))
    answer = await submit(batcher, 1, deadline=stage.clock() + 1.0)
    assert core_s(stage) == {BUSY: 2.0, WASTE: 0.0}
    assert answer.core_s == 2.0


async def test_callers_of_one_run_share_it_by_their_rows(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    stage.run.hold()
    callers = await queue(batcher, (1,), (2, 3, 4))
    stage.door.release()
    await until(lambda: stage.run.batches == [4])
    stage.clock.advance(2.0)
    stage.run.release()
    assert [(await caller).core_s for caller in callers] == [1.0, 3.0]
    assert core_s(stage) == {BUSY: 4.0, WASTE: 0.0}


async def test_answer_after_the_deadline_is_waste(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage, 3.0))
    # On the manual clock it is late; the event loop's own timer would end it two seconds later.
    assert is_answer(await submit(batcher, 1, deadline=stage.clock() + 2.0), 1)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 6.0}


async def test_run_whose_caller_was_told_that_time_is_up_is_waste(stage: Stage) -> None:
    batcher = stage.batcher()
    stage.run.hold()
    caller = submit(batcher, 1, deadline=stage.clock() + 0.02)
    await until(lambda: stage.run.batches == [1])
    with pytest.raises(DeadlineExceeded):
        await caller
    stage.clock.advance(1.0)  # the run goes on
    stage.run.release()
    await over(batcher)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_one_who_leaves_while_he_is_run_wastes_his_rows_and_no_others(stage: Stage) -> None:
    batcher = stage.batcher()
    await stage.occupy(batcher)
    stage.run.hold()
    leaver, other = await queue(batcher, (1,), (2, 3, 4))
    stage.door.release()
    await until(lambda: stage.run.batches == [4])
    stage.clock.advance(1.0)
    leaver.cancel()
    await until(leaver.done)
    stage.clock.advance(1.0)
    stage.run.release()
    await other
    assert core_s(stage) == {BUSY: 3.0, WASTE: 1.0}


async def test_one_who_leaves_before_he_is_run_costs_nothing(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage))
    await stage.occupy(batcher)
    (leaver,) = await queue(batcher, (1,))
    leaver.cancel()
    await until(leaver.done)
    before = stage.ledger.read()
    stage.door.release()
    await over(batcher)
    assert stage.ledger.read().of(WASTE) == before.of(WASTE) == 0.0


async def test_one_who_leaves_between_dispatch_and_run_wastes_it(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage))
    leaver = submit(batcher, 1)
    await asyncio.sleep(0)  # he is dispatched, and his run has no thread yet
    leaver.cancel()
    await over(batcher)
    assert leaver.cancelled()
    assert stage.run.batches == [1]
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_refused_call_costs_nothing(stage: Stage) -> None:
    batcher = stage.batcher(known_s=10.0, max_queue_rows=1)
    first = await stage.occupy(batcher)
    (second,) = await queue(batcher, (1,))
    with pytest.raises(Overloaded):
        await submit(batcher, 2)
    stage.door.release()
    await asyncio.gather(first, second)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 0.0}


async def test_failed_run_is_waste(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage))
    with pytest.raises(InferenceFailed):
        await submit(batcher, -1)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_batch_that_failed_is_waste_and_each_pays_only_for_what_ran_for_him_alone(
    stage: Stage,
) -> None:
    run = Taking(stage, 0.0)
    batcher = stage.batcher(run)
    await stage.occupy(batcher)
    good, bad = await queue(batcher, (1,), (-1,))
    run.seconds = 1.0
    stage.door.release()
    with pytest.raises(InferenceFailed):
        await bad
    assert (await good).core_s == 2.0
    await over(batcher)
    assert core_s(stage) == {BUSY: 2.0, WASTE: 4.0}


@pytest.mark.parametrize("in_place_rows", [0, 1])
async def test_answer_of_which_nothing_could_be_made_is_waste(
    stage: Stage, in_place_rows: int
) -> None:
    def fails(answer: Answer) -> None:
        raise InvalidInput("too large to be sent")

    batcher = stage.batcher(Taking(stage), in_place_rows=in_place_rows)
    with pytest.raises(InvalidInput):
        await batcher.submit(feeds(1), 1, None, then=fails)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


@pytest.mark.parametrize("in_place_rows", [0, 1])
async def test_answer_that_was_late_when_it_was_made_into_a_message_is_waste(
    stage: Stage, in_place_rows: int
) -> None:
    batcher = stage.batcher(Taking(stage), in_place_rows=in_place_rows)
    deadline = stage.clock() + 1.5
    await batcher.submit(feeds(1), 1, deadline, then=lambda _: stage.clock.advance(1.0))
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_request_in_parts_pays_for_all_of_them_as_it_ends(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage), max_rows=2)
    assert (await submit(batcher, 1, 2, 3)).core_s == 4.0
    assert core_s(stage) == {BUSY: 4.0, WASTE: 0.0}


async def test_parts_before_the_one_that_fails_are_waste_too(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage), max_rows=1)
    with pytest.raises(InferenceFailed):
        await submit(batcher, 1, 2, -1)
    await over(batcher)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 6.0}


async def test_part_that_has_run_is_unsettled_while_another_runs(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1)
    stage.run.hold()
    caller = submit(batcher, 1, 2)
    await until(lambda: stage.run.batches == [1])
    stage.clock.advance(1.0)
    bill = stage.ledger.read()
    assert sum(bill.unsettled.values()) == 2.0
    assert bill.accounted_core_s == pytest.approx(bill.paid_core_s)
    stage.run.release()
    await caller
    assert core_s(stage)[BUSY] == 2.0


@pytest.mark.parametrize(("deadline_s", "kind"), [(None, BUSY), (1.0, BUSY), (0.5, WASTE)], ids=str)
async def test_run_in_place_is_settled_at_once_and_its_cpu_is_not_the_front_ends(
    stage: Stage, deadline_s: float | None, kind: str
) -> None:
    batcher = stage.batcher(Taking(stage, 1.0, cpu_s=0.75), in_place_rows=1)
    stage.cpu.advance(0.25)  # the front end's own
    deadline = None if deadline_s is None else stage.clock() + deadline_s
    answer = await submit(batcher, 1, deadline=deadline)
    assert answer.core_s == 2.0
    assert core_s(stage) == {BUSY: 0.0, WASTE: 0.0} | {kind: 2.0}
    assert stage.ledger.read().of(SERVING) == 0.25


async def test_failure_in_place_is_waste(stage: Stage) -> None:
    batcher = stage.batcher(Taking(stage), in_place_rows=1)
    with pytest.raises(InferenceFailed):
        await submit(batcher, -1)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_those_whom_the_drain_cuts_off_waste_their_runs(stage: Stage) -> None:
    batcher = stage.batcher(max_rows=1)
    stage.run.hold()
    callers = [submit(batcher, 1), submit(batcher, 2)]
    await until(lambda: stage.run.batches == [1])
    assert not await batcher.drain(0.01)
    for caller in callers:
        with pytest.raises(Draining):
            await caller
    stage.clock.advance(1.0)
    stage.run.release()
    await over(batcher)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_broken_executor_leaves_nothing_unsettled(stage: Stage) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: None)
    with ThreadPoolExecutor(1) as executor:
        broken = Stage(executor)
        batcher = broken.batcher()
    with pytest.raises(InferenceFailed):
        await submit(batcher, 1)
    broken.clock.advance(1.0)
    assert core_s(broken) == {BUSY: 0.0, WASTE: 0.0}


async def test_stacking_takes_one_thread_and_the_run_all_of_the_sessions(stage: Stage) -> None:
    def glance() -> float:
        stage.clock.advance(1.0)  # before the stacking, after it, and after the run
        return stage.clock()

    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(
            Taking(stage, 10.0), Limits(max_rows=8, max_queue_rows=8), executor=executor,
            clock=glance, account=Account(stage.ledger, LABELS, threads=2),
        )  # fmt: skip
        await batcher.submit(feeds(1), 1, None)
    assert core_s(stage) == {BUSY: 23.0, WASTE: 0.0}


class OnGpu:
    """A model that waits for its GPU, computes there on another thread, and copies back."""

    def __init__(self, stage: Stage, gpu: ThreadPoolExecutor) -> None:
        self.stage, self.gpu = stage, gpu

    def __call__(self, given: Arrays) -> Arrays:
        self.stage.clock.advance(4.0)
        answer = self.gpu.submit(charging.charged(self.compute), given).result()
        self.stage.clock.advance(8.0)
        return answer

    def compute(self, given: Arrays) -> Arrays:
        self.stage.clock.advance(2.0)
        return self.stage(given)


async def test_of_a_gpu_only_its_own_time_is_paid_not_waiting_or_copying(stage: Stage) -> None:
    stage.ledger = Ledger(cores=1.0, clock=stage.clock, cpu=stage.cpu, unit=GPU)
    stage.ledger.ready()
    with ThreadPoolExecutor(1) as gpu:
        batcher = stage.batcher(OnGpu(stage, gpu), threads=0)
        answer = await submit(batcher, 1)
    assert answer.core_s == 2.0
    assert core_s(stage) == {BUSY: 2.0, WASTE: 0.0}
    assert stage.ledger.read().of(IDLE) == 12.0


async def test_failed_run_on_a_gpu_is_waste_and_takes_it_no_longer(stage: Stage) -> None:
    stage.ledger = Ledger(cores=1.0, clock=stage.clock, cpu=stage.cpu, unit=GPU)
    with ThreadPoolExecutor(1) as gpu:
        batcher = stage.batcher(OnGpu(stage, gpu), threads=0)
        with pytest.raises(InferenceFailed):
            await submit(batcher, -1)
    await over(batcher)
    stage.clock.advance(5.0)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 2.0}


async def test_run_on_the_cpu_of_a_gpu_server_costs_no_gpu(stage: Stage) -> None:
    stage.ledger = Ledger(cores=1.0, clock=stage.clock, cpu=stage.cpu, unit=GPU)
    await submit(stage.batcher(Taking(stage), threads=0), 1)
    assert core_s(stage) == {BUSY: 0.0, WASTE: 0.0}
