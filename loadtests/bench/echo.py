"""``python -m loadtests.bench.echo``: the least that a server on our gRPC stack can do.

It answers ModelInfer with the bytes that came, prints its port, and ends with its parent.
"""

from __future__ import annotations

import asyncio

import grpc

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

_LIMIT = 2**27


class _Echo(GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    async def ModelInfer(
        self, request: pb.ModelInferRequest, call: object
    ) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        tensor = request.inputs[0]
        response.outputs.add(name="y", datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(request.raw_input_contents[0])
        return response


async def _serve() -> None:
    options = [
        ("grpc.max_receive_message_length", _LIMIT),
        ("grpc.max_send_message_length", _LIMIT),
    ]
    server = grpc.aio.server(options=options)
    add_GRPCInferenceServiceServicer_to_server(_Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
