"""Closed and open loops on gRPC's asyncio client, with bytes that were encoded once.

The generator shares the servers' cores, so its own thread goes first where it may: a send that
is late because the server had the core says nothing about the server.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from loadtests.bench import arrivals, calls, steps
from loadtests.bench.arrivals import Outcome

if TYPE_CHECKING:
    _Infer = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

_PRIORITY = -10
_NO_DEADLINE_S = 60.0


@dataclass
class Closed:
    """What callers saw who each waited for their answer.

    Attributes:
        seconds: how long they called.
        latencies_s: of all that were answered OK.
        refused: calls that were not.
    """

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds


@contextmanager
def first() -> Iterator[None]:
    """Let this thread, and those it starts, go before the servers where we may decide that."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, min(before, _PRIORITY))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def closed(
    target: str,
    message: bytes,
    *,
    callers: int,
    seconds: float,
    deadline_s: float = _NO_DEADLINE_S,
) -> Closed:
    """So many callers, each with one call at a time."""
    steps.begun(f"{callers} callers for {seconds:.1f} s")
    with first():
        return asyncio.run(_closed(target, message, callers, Closed(seconds), deadline_s))


async def _closed(
    target: str, message: bytes, callers: int, seen: Closed, deadline_s: float
) -> Closed:
    async with channel(target) as connection:
        await connection.channel_ready()
        infer: _Infer = connection.unary_unary(calls.METHOD)
        ends = time.perf_counter() + seen.seconds

        async def call() -> None:
            while (begun := time.perf_counter()) < ends:
                try:
                    await infer(message, timeout=deadline_s)
                except grpc.aio.AioRpcError:
                    seen.refused += 1
                    continue
                seen.latencies_s.append(time.perf_counter() - begun)

        await asyncio.gather(*(call() for _ in range(callers)))
    return seen


@dataclass(frozen=True)
class Stream:
    """One source of calls that does not wait for answers.

    Attributes:
        target: ``host:port``.
        message: what is sent.
        rate: sends per second, Poisson.
        seconds: for how long.
        deadline_s: of each call, from its schedule on.
        seed: decides the schedule.
    """

    target: str
    message: bytes
    rate: float
    seconds: float
    deadline_s: float
    seed: int = 1


def open_loop(*streams: Stream, watch: Callable[[list[Outcome]], None] | None = None
              ) -> list[Outcome]:  # fmt: skip
    """Run streams at the same time; the outcome of each when all their calls have ended.

    Args:
        streams: what to send.
        watch: is shown the outcomes twice a second while they come.
    """
    outcomes = [Outcome(stream.seconds) for stream in streams]
    rates = " and ".join(f"{stream.rate:.0f}" for stream in streams)
    steps.begun(f"{rates} calls per second for {max(each.seconds for each in streams):.1f} s")

    async def run() -> None:
        watcher = asyncio.create_task(_watched(watch, outcomes)) if watch else None
        await asyncio.gather(
            *(_stream(stream, seen) for stream, seen in zip(streams, outcomes, strict=True))
        )
        if watcher:
            watcher.cancel()

    with first():
        asyncio.run(run())
    return outcomes


async def _watched(watch: Callable[[list[Outcome]], None], outcomes: list[Outcome]) -> None:
    while True:
        await asyncio.sleep(0.5)
        watch(outcomes)


async def _stream(stream: Stream, seen: Outcome) -> None:
    pending = set[asyncio.Task[None]]()
    slack = arrivals.slack_s(stream.deadline_s)
    async with channel(stream.target) as connection:
        await connection.channel_ready()
        infer: _Infer = connection.unary_unary(calls.METHOD)

        async def call(due: float) -> None:
            now = time.perf_counter()
            seen.sent += 1
            seen.sent_late += now - due > slack
            try:
                await infer(stream.message, timeout=due + stream.deadline_s - now)
            except grpc.aio.AioRpcError as error:
                seen.endings[error.code().name] += 1
                return
            seen.answered(time.perf_counter() - due, deadline_s=stream.deadline_s)

        def send(due: float) -> None:
            task = asyncio.create_task(call(due))
            pending.add(task)
            task.add_done_callback(pending.discard)

        times = arrivals.schedule(stream.rate, stream.seconds, seed=stream.seed)
        await arrivals.paced(times, send, clock=time.perf_counter, sleep=asyncio.sleep)
        await asyncio.gather(*pending)


def channel(target: str) -> grpc.aio.Channel:
    """A connection of its own, so that no suite finds another's."""
    options = [*calls.LIMITS, ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(target, options=options)


@contextmanager
def blocking(target: str) -> Iterator[Callable[[bytes], bytes]]:
    """One call after another on this thread; gives what it answers, or nothing for a refusal."""
    options = [*calls.LIMITS, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options=options) as connection:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        infer = connection.unary_unary(calls.METHOD)

        def call(message: bytes) -> bytes:
            try:
                return bytes(infer(message, timeout=_NO_DEADLINE_S, wait_for_ready=True))
            except grpc.RpcError:
                return b""

        yield call
