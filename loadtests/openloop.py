"""The asyncio driver of an open loop: calls go out when they are due, whatever became of others.

Messages are encoded once and travel as bytes, and the priority is raised where it may be: the
generator shares the servers' cores, and a send that is late says nothing about the server. A
generator that starts servers gives them cores of their own where it can (``demo``); from a server
that was there before it can take none.
"""

from __future__ import annotations

import asyncio
import gc
import random
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from loadtests.channels import METHOD, OF_ITS_OWN
from loadtests.observed import Observed
from loadtests.priority import first

if TYPE_CHECKING:
    _Infer = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

_T = TypeVar("_T")
# Ends with gRPC's code, or with nothing if the call was answered; is given seconds until its end.
Call = Callable[[float], Awaitable[str]]

# Whether a run has failed already, by what was seen and by the calls that are planned.
Lost = Callable[[Observed, int], bool]


@dataclass(frozen=True)
class Stream:
    """One source of calls that does not wait for answers.

    Attributes:
        targets: ``host:port`` of replicas; each call goes to one that is drawn.
        messages: encoded requests, sent in turn.
        times: seconds after the start at which to send, ascending.
        seconds: the length of the schedule.
        deadline_s: of each call, from its schedule on.
        limit_s: later answers are late; 0 for none.
        shared: whether the servers run on this generator's cores.
        seed: decides between targets.
        lost: whether the run has failed already, so that it may end early; None to send all of it.
    """

    targets: tuple[str, ...]
    messages: Sequence[bytes]
    times: Sequence[float]
    seconds: float
    deadline_s: float
    limit_s: float = 0.0
    shared: bool = True
    seed: int = 1
    lost: Lost | None = None


async def drive(
    times: Sequence[float],
    call: Call,
    seen: Observed,
    *,
    deadline_s: float,
    lost: Lost | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Make all calls, each when it is due, and wait for their ends.

    Args:
        times: seconds after now, ascending.
        call: one call.
        seen: counts.
        deadline_s: of each call, from its schedule on.
        lost: looked at before each send, with the calls planned; the schedule ends there if it
            holds.
        clock: now, in seconds.
        sleep: waits so many seconds.

    Raises:
        ExceptionGroup: a call raised something, and so has no ending; the others are cancelled.
    """

    async def one(due: float) -> None:
        now = clock()
        seen.sent(now - due)
        code = await call(due + deadline_s - now)
        if code:
            seen.failed(code)
        else:
            seen.answered(clock() - due)

    begun = clock()
    async with asyncio.TaskGroup() as pending:
        for moment in times:
            await sleep(max(0.0, begun + moment - clock()))
            if lost and lost(seen, len(times)):
                seen.seconds = moment
                break
            seen.offered += 1
            pending.create_task(one(begun + moment))


def run(stream: Stream, watch: Callable[[Observed], None] | None = None) -> Observed:
    """Send a stream, and wait until all its calls have ended.

    Args:
        stream: what to send.
        watch: is shown the outcome twice a second while it comes.
    """
    return together([stream], (lambda runs: watch(runs[0])) if watch else None)[0]


def together(
    streams: Sequence[Stream], watch: Callable[[list[Observed]], None] | None = None
) -> list[Observed]:
    """Send several streams at the same time; see ``run``."""
    runs = [Observed(each.seconds, limit_s=each.limit_s, shared=each.shared) for each in streams]

    async def all_of_them() -> None:
        watcher = asyncio.create_task(_watched(watch, runs)) if watch else None
        await asyncio.gather(*map(_run, streams, runs))
        if watcher:
            watcher.cancel()

    on_time(all_of_them())
    return runs


def on_time(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine whose sends are to be on time: before others, on a loop that is precise."""
    # What lives now is left alone by the collector: a full collection takes longer than a send may
    # be late.
    gc.collect()
    gc.freeze()
    try:
        with first(), asyncio.Runner(loop_factory=precise) as runner:
            return runner.run(main)
    finally:
        gc.unfreeze()


def precise() -> asyncio.AbstractEventLoop:
    """An event loop whose waits end when they should."""
    # epoll rounds waiting up to whole milliseconds, which alone makes a third of the sends late by
    # the rule for small limits; select does not.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(stream: Stream, seen: Observed) -> None:
    chance = random.Random(stream.seed)
    async with AsyncExitStack() as stack:
        infers: list[_Infer] = []
        for target in stream.targets:
            channel = grpc.aio.insecure_channel(target, options=OF_ITS_OWN)
            connection = await stack.enter_async_context(channel)
            await asyncio.wait_for(connection.channel_ready(), 30)
            infers.append(connection.unary_unary(METHOD))
        number = 0

        async def call(left_s: float) -> str:
            nonlocal number
            message = stream.messages[number % len(stream.messages)]
            number += 1
            infer = infers[0] if len(infers) == 1 else chance.choice(infers)
            try:
                await infer(message, timeout=left_s)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return ""

        await drive(stream.times, call, seen, deadline_s=stream.deadline_s, lost=stream.lost)


async def _watched(watch: Callable[[list[Observed]], None], runs: list[Observed]) -> None:
    while True:
        await asyncio.sleep(0.5)
        watch(runs)
