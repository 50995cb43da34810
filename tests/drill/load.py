"""The callers, in a process of their own: an open loop for each kind of client, over one name.

Reads one line of JSON: target, rate, configs (kind -> service config). Sends until standard input
ends, then writes for each kind what it saw, and all its calls with their times on the system's
monotonic clock, which other processes have too.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

import grpc

from loadtests import arrivals
from loadtests.channels import METHOD, OF_ITS_OWN
from loadtests.observed import Observed
from loadtests.openloop import drive, on_time
from service.proto import inference_pb2 as pb

# Far longer than a drill.
_LONGEST_S = 1200.0
DEADLINE_S = 10.0
# Later answers count as answered; the generator's own lateness is judged by it.
LIMIT_S = 0.5


def message() -> bytes:
    """One row for the model ``double``."""
    request = pb.ModelInferRequest(model_name="double", raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request.SerializeToString()


async def _calling(
    target: str, config: dict[str, Any], rate: float, over: threading.Event, *, seed: int
) -> tuple[Observed, list[tuple[float, float, str]]]:
    """One client's calls: when each was due, when it ended, and its status."""
    calls: list[tuple[float, float, str]] = []
    seen = Observed(_LONGEST_S, limit_s=LIMIT_S)
    options = (*OF_ITS_OWN, ("grpc.service_config", json.dumps(config)))
    times = arrivals.schedule("poisson", rate=rate, seconds=_LONGEST_S, seed=seed)
    sent = message()
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        infer = channel.unary_unary(METHOD)

        async def call(left_s: float) -> str:
            due = time.monotonic() + left_s - DEADLINE_S
            code = ""
            try:
                await infer(sent, timeout=left_s)
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            calls.append((due, time.monotonic(), code))
            return code

        await drive(
            times, call, seen, deadline_s=DEADLINE_S, clock=time.monotonic,
            lost=lambda _, __: over.is_set(),
        )  # fmt: skip
    return seen, calls


async def _all(asked: dict[str, Any], over: threading.Event) -> dict[str, Any]:
    found = await asyncio.gather(
        *(
            _calling(asked["target"], config, asked["rate"], over, seed=seed)
            for seed, config in enumerate(asked["configs"].values(), start=1)
        )
    )
    return {
        kind: {"void": seen.void, "calls": calls}
        for kind, (seen, calls) in zip(asked["configs"], found, strict=True)
    }


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    over, told = threading.Event(), {}

    def until_told() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=until_told, daemon=True).start()

    async def run() -> None:
        told.update(await _all(asked, over))

    on_time(run())
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
