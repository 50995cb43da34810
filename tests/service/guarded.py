"""A service behind the interceptor, on a real channel, that answers or fails as it is told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from service.errors import InvalidInput
from service.interceptor import Interceptor, Unreadable
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

LIMIT = 10_000
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
# A stream of another service, as reflection is one.
OTHER_STREAM = "/other.Service/Stream"


class Service(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """ModelInfer answers as many bytes as the id says, or raises; so does each of a stream."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.errors = sys.maxsize  # how often it is raised
        self.called = 0
        self.seen: list[Any] = []
        self.entered, self.door = asyncio.Event(), asyncio.Event()
        self.door.set()

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Any) -> pb.ModelInferResponse:
        self.called += 1
        self.entered.set()
        await self.door.wait()
        if self.error is not None and self.called <= self.errors:
            raise self.error
        return pb.ModelInferResponse(raw_output_contents=[bytes(int(request.id or 0))])

    async def ModelStreamInfer(
        self, requests: Any, call: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        self.entered.set()
        async for request in requests:
            if isinstance(request, Unreadable):
                yield pb.ModelStreamInferResponse(error_message=str(request.error))
                continue
            response = pb.ModelStreamInferResponse()
            response.infer_response.CopyFrom(await self.ModelInfer(request, call))
            try:
                yield response
            except InvalidInput as error:
                yield pb.ModelStreamInferResponse(error_message=str(error))

    async def other(self, requests: Any, call: Any) -> AsyncIterator[pb.ModelInferResponse]:
        async for request in requests:
            yield await self.ModelInfer(request, call)


@asynccontextmanager
async def running(
    service: Service, interceptor: Interceptor, client: str = "{}"
) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Server]]:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(service, interceptor)
    stream = grpc.stream_stream_rpc_method_handler(
        service.other, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    interceptor.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("other.Service", {"Stream": stream})]
    )
    server.add_generic_rpc_handlers([interceptor])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        options = [("grpc.service_config", client)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield channel, server
    finally:
        await server.stop(None)


def request(answer_bytes: int = 1) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(id=str(answer_bytes))
