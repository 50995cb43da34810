"""The suite of overload: good answers per second, at and far beyond what the server can do."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from loadtests import processes
from loadtests.bench import nets
from loadtests.bench.results import Figure
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

_DEADLINE_S = 0.4
_SECONDS = 10.0
_GOALS = {2: 0.97, 5: 0.95, 10: 0.88}


def overload(directory: Path) -> list[Figure]:
    """Poisson arrivals with 400 ms deadlines, on a conv net of some 30 rows a second."""
    path = directory / "models" / "net" / "1" / "model.onnx"
    nets.convolutional(path, channels=256, blocks=6)
    log = directory / "log.txt"
    with processes.serving(directory / "models", variant="auto", log=log) as endpoint:
        capacity = asyncio.run(_closed(endpoint.target))
        outcomes = {
            times: asyncio.run(_open(endpoint.target, times * capacity))
            for times in (0.8, 1, *_GOALS)
        }
    good = {times: outcome["good"] / _SECONDS for times, outcome in outcomes.items()}
    peak = max(good.values())
    figures = [Figure("capacity, closed loop of 8 callers", f"{capacity:.1f}/s")]
    for times, rate in good.items():
        outcome = outcomes[times]
        goal = f">= {_GOALS[int(times)]}" if times in _GOALS else ""
        share = f"{rate / peak:.2f}"
        figures.append(Figure(f"good answers at {times:g}x", f"{rate:.1f}/s = {share}", goal))
        if times in _GOALS:
            told = ", ".join(f"{n} {what}" for what, n in sorted(outcome.items()) if what != "good")
            figures.append(Figure(f"the others at {times:g}x", told))
    return figures


def _request() -> pb.ModelInferRequest:
    rows = np.random.default_rng(0).random((1, 3, nets.SIDE, nets.SIDE), np.float32)
    request = pb.ModelInferRequest(model_name="net")
    request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    return request


async def _closed(target: str) -> float:
    """Answers per second to eight callers, each waiting for its answer."""
    request, ends = _request(), time.perf_counter() + _SECONDS
    async with grpc.aio.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)

        async def call() -> int:
            answered = 0
            while time.perf_counter() < ends:
                await stub.ModelInfer(request)
                answered += 1
            return answered

        return sum(await asyncio.gather(*(call() for _ in range(8)))) / _SECONDS


async def _open(target: str, rate: float) -> Counter[str]:
    """How calls ended that came on a schedule of their own; time runs from the schedule."""
    request, chance, outcome = _request(), random.Random(1), Counter[str]()
    async with grpc.aio.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)

        async def call(due: float) -> None:
            try:
                await stub.ModelInfer(request, timeout=due + _DEADLINE_S - time.perf_counter())
                in_time = time.perf_counter() <= due + _DEADLINE_S
                outcome["good" if in_time else "late"] += 1
            except grpc.aio.AioRpcError as error:
                outcome[error.code().name] += 1

        calls, begun = [], time.perf_counter()
        due = begun
        while (due := due + chance.expovariate(rate)) < begun + _SECONDS:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if time.perf_counter() - due > 0.05 * _DEADLINE_S:
                outcome["sent late"] += 1
            calls.append(asyncio.create_task(call(due)))
        await asyncio.gather(*calls)
    return outcome
