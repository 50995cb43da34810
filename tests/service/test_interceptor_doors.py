"""Who comes in: nobody without a token; and how it ends: nobody is told CANCELLED."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.interceptor import Interceptor
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from service.tokens import Tokens
from tests.service.guarded import INFER, LIMIT, OTHER_STREAM, STREAM, Service, request, running


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with running(service, Interceptor(None, LIMIT)) as (connected, _):
        yield connected


def calls() -> list[tuple[str, Callable[[grpc.aio.Channel, Any], Any]]]:
    def unary(method: str) -> Callable[[grpc.aio.Channel, Any], Any]:
        return lambda channel, metadata: channel.unary_unary(method)(
            b"", metadata=metadata, timeout=20
        )

    def stream(method: str) -> Callable[[grpc.aio.Channel, Any], Any]:
        return lambda channel, metadata: channel.stream_stream(method)(
            iter([]), metadata=metadata, timeout=20
        )

    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    ours = [f"/inference.GRPCInferenceService/{method.name}" for method in methods]
    return [
        *((name, stream(name) if name == STREAM else unary(name)) for name in ours),
        (OTHER_STREAM, stream(OTHER_STREAM)),
        ("nowhere", unary("/no.Service/Method")),
    ]


@pytest.fixture
async def guarded(service: Service, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    (tmp_path / "tokens").write_text("sesame\n")
    tokens = Tokens.read(tmp_path / "tokens")
    async with running(service, Interceptor(tokens, LIMIT)) as (connected, _):
        yield connected


@pytest.mark.parametrize(("name", "call"), calls(), ids=[name for name, _ in calls()])
async def test_no_method_is_reached_without_a_token(
    service: Service, guarded: grpc.aio.Channel, name: str, call: Any
) -> None:
    for metadata in ((), (("authorization", "Bearer open"),)):
        refusal = call(guarded, metadata)
        assert await refusal.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "sesame" not in await refusal.details()
    assert not service.called and not service.entered.is_set()
    passed = call(guarded, (("authorization", "Bearer sesame"),))
    assert await passed.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED)


async def test_a_stranger_is_refused_before_what_he_sends_is_read(
    guarded: grpc.aio.Channel,
) -> None:
    call = guarded.unary_unary(INFER)(bytes(100 * LIMIT), timeout=20)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_closing_ends_open_calls_with_unavailable_and_refuses_new_ones(
    service: Service,
) -> None:
    interceptor = Interceptor(None, LIMIT)
    service.door.clear()
    async with running(service, interceptor) as (channel, server):
        stub = GRPCInferenceServiceStub(channel)
        unary = stub.ModelInfer(request(), timeout=20)
        await service.entered.wait()
        service.entered.clear()
        stream = stub.ModelStreamInfer(timeout=20)
        await stream.write(request())
        await service.entered.wait()
        interceptor.close()
        late = stub.ModelInfer(request(), timeout=20)
        for call in (unary, stream, late):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == "the server is shutting down; ask another"
        await server.stop(None)


async def test_a_caller_who_leaves_is_no_error(
    service: Service, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    service.door.clear()
    call = GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)
    await service.entered.wait()
    call.cancel()
    service.door.set()
    await GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)
    assert not caplog.records
