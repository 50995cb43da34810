"""``python -m loadtests.bench.noop FILE``: the floor of our gRPC stack.

It takes the bytes of any ModelInfer without looking, and answers those of the file. It prints its
port, and ends with its parent.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc

from loadtests.bench import calls


async def _serve(constant: bytes) -> None:
    async def answer(_request: bytes, _call: object) -> bytes:
        return constant

    _, service, method = calls.METHOD.split("/")
    server = grpc.aio.server(options=calls.LIMITS)
    # Without functions that parse and encode, gRPC hands the bytes through.
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        method: grpc.unary_unary_rpc_method_handler(answer)
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]).read_bytes()))
