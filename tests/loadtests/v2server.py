"""A v2 server of the tests' own, as a process: real gRPC, and answers as slow as it is told to."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio

from service.proto import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


class Answers:
    """When calls are answered.

    Args:
        period_s: in each of these
        stall_s: for so long, at its beginning, nothing is answered.
        quick_s: what a call takes.
        slow_s: what each fifth call takes.
        hangs: each of so many calls is never answered; 0 for none.
    """

    def __init__(
        self, period_s: float, stall_s: float, quick_s: float, slow_s: float, hangs: int
    ) -> None:
        self._period_s, self._stall_s, self._hangs = period_s, stall_s, hangs
        self._quick_s, self._slow_s = quick_s, slow_s
        self._calls = 0
        self._begun = time.perf_counter()

    async def infer(self, request: bytes, context: object) -> bytes:
        self._calls += 1
        if self._hangs and self._calls % self._hangs == 0:
            await asyncio.sleep(3600)
        await asyncio.sleep(self._slow_s if self._calls % 5 == 0 else self._quick_s)
        if self._period_s:
            inside = (time.perf_counter() - self._begun) % self._period_s
            await asyncio.sleep(max(0.0, self._stall_s - inside))
        return b""

    async def metadata(self, request: pb.ModelMetadataRequest, context: object) -> object:
        x = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
        return pb.ModelMetadataResponse(name=request.name, inputs=[x], outputs=[x])


async def serve(answers: Answers) -> None:
    server = grpc.aio.server()
    methods = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(answers.infer),
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(
            answers.metadata,
            request_deserializer=pb.ModelMetadataRequest.FromString,
            response_serializer=pb.ModelMetadataResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def answering(*options: str) -> Iterator[str]:
    """The target of such a server, until the context ends."""
    command = [sys.executable, "-m", "tests.loadtests.v2server", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("period-s", "stall-s", "quick-s", "slow-s"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--hangs", type=int, default=0)
    asyncio.run(serve(Answers(**vars(parser.parse_args()))))
