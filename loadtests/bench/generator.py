"""Closed and open loops on gRPC's asyncio client, with bytes that were encoded once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from loadtests import arrivals, openloop
from loadtests.bench import calls, steps
from loadtests.observed import Observed
from loadtests.openloop import Stream

if TYPE_CHECKING:
    _Infer = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

_NO_DEADLINE_S = 60.0


def closed(
    target: str,
    message: bytes,
    *,
    callers: int,
    seconds: float,
    deadline_s: float = _NO_DEADLINE_S,
) -> Observed:
    """So many callers, each with one call at a time."""
    steps.begun(f"{callers} callers for {seconds:.1f} s")
    return openloop.on_time(_closed(target, message, callers, Observed(seconds), deadline_s))


async def _closed(
    target: str, message: bytes, callers: int, seen: Observed, deadline_s: float
) -> Observed:
    async with channel(target) as connection:
        await connection.channel_ready()
        infer: _Infer = connection.unary_unary(calls.METHOD)
        ends = time.perf_counter() + seen.seconds

        async def call() -> None:
            while (begun := time.perf_counter()) < ends:
                seen.offered += 1
                try:
                    await infer(message, timeout=deadline_s)
                except grpc.aio.AioRpcError as error:
                    seen.failed(error.code().name)
                    continue
                seen.answered(time.perf_counter() - begun)

        await asyncio.gather(*(call() for _ in range(callers)))
    return seen


def stream(
    target: str, message: bytes, rate: float, *, seconds: float, deadline_s: float, seed: int = 1
) -> Stream:
    """Poisson calls of one message that are late after their deadline."""
    times = arrivals.schedule("poisson", rate=rate, seconds=seconds, seed=seed)
    return Stream((target,), [message], times, seconds, deadline_s=deadline_s, limit_s=deadline_s)


def open_loop(
    *streams: Stream, watch: Callable[[list[Observed]], None] | None = None
) -> list[Observed]:
    """Run streams at the same time; the outcome of each when all their calls have ended.

    Args:
        streams: what to send.
        watch: is shown the outcomes twice a second while they come.
    """
    rates = " and ".join(f"{len(each.times) / each.seconds:.0f}" for each in streams)
    steps.begun(f"{rates} calls per second for {max(each.seconds for each in streams):.1f} s")
    return openloop.together(streams, watch)


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
