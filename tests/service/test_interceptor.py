"""Through real channels: each error its status, one sentence, and the next good call its answer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from service import errors
from service.errors import InvalidInput, Overloaded, ServingError
from service.interceptor import Interceptor, Unreadable
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from service.tokens import Tokens

LIMIT = 10_000
GARBAGE = b"\xff\xff\xff"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
# A stream of another service, as reflection is one.
OTHER_STREAM = "/other.Service/Stream"


class Service(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """ModelInfer answers as many bytes as the id says, or raises; so does each of a stream."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.called = 0
        self.seen: list[Any] = []
        self.entered, self.door = asyncio.Event(), asyncio.Event()
        self.door.set()

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Any) -> pb.ModelInferResponse:
        self.called += 1
        self.entered.set()
        await self.door.wait()
        if self.error is not None:
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
    service: Service, interceptor: Interceptor
) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Server]]:
    server = grpc.aio.server(interceptors=[interceptor])
    add_GRPCInferenceServiceServicer_to_server(service, server)
    stream = grpc.stream_stream_rpc_method_handler(
        service.other, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("other.Service", {"Stream": stream})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, server
    finally:
        await server.stop(None)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with running(service, Interceptor(None, LIMIT)) as (connected, _):
        yield connected


def request(answer_bytes: int = 1) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(id=str(answer_bytes))


async def refused(channel: grpc.aio.Channel, sent: Any = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await GRPCInferenceServiceStub(channel).ModelInfer(sent or request(), timeout=20)
    return error.value


def subclasses(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def make(kind: type[ServingError]) -> ServingError:
    if kind is Overloaded:
        return Overloaded("mend this", retry_after_ms=70)
    return kind("mend this")


@pytest.mark.parametrize("kind", [*subclasses(errors.ServingError)])
async def test_every_error_of_ours_reaches_the_caller_as_its_status(
    service: Service, channel: grpc.aio.Channel, kind: type[ServingError]
) -> None:
    service.error = make(kind)
    error = await refused(channel)
    assert (error.code().name, error.details()) == (kind.status, "mend this")
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    assert pushback == ("70" if kind is Overloaded else None)
    stream = channel.stream_stream(OTHER_STREAM, pb.ModelInferRequest.SerializeToString)
    call = stream(iter([request()]), timeout=20)
    assert (await call.code(), await call.details()) == (error.code(), "mend this")
    service.error = None
    await GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)


@pytest.mark.parametrize("error", [RuntimeError("/secret"), StopIteration(), KeyError("secret")])
async def test_an_error_that_nobody_foresaw_tells_the_caller_nothing(
    service: Service, channel: grpc.aio.Channel, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    service.error = error
    told = await refused(channel)
    assert told.code() is grpc.StatusCode.INTERNAL
    assert told.details() == "internal error; the server's log says more"
    service.error = None
    await GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)


async def test_a_method_that_nobody_wrote_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await GRPCInferenceServiceStub(channel).LogSettings(pb.LogSettingsRequest(), timeout=20)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def sized(total: int) -> pb.ModelInferRequest:
    """A request of exactly this many bytes."""
    result = pb.ModelInferRequest(id="1", raw_input_contents=[bytes(total)])
    result.raw_input_contents[0] = bytes(2 * total - len(result.SerializeToString()))
    assert len(result.SerializeToString()) == total
    return result


async def test_a_request_over_the_limit_is_refused_with_both_sizes(
    service: Service, channel: grpc.aio.Channel
) -> None:
    await GRPCInferenceServiceStub(channel).ModelInfer(sized(LIMIT), timeout=20)
    error = await refused(channel, sized(LIMIT + 1))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "10001 bytes" in error.details() and "takes 10000" in error.details()
    assert service.called == 1


async def test_an_answer_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    stream = channel.stream_stream(OTHER_STREAM, pb.ModelInferRequest.SerializeToString)
    call = stream(iter([request(LIMIT)]), timeout=20)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    await GRPCInferenceServiceStub(channel).ModelInfer(request(LIMIT - 3), timeout=20)
    error = await refused(channel, request(LIMIT))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "fewer outputs or rows" in error.details()


async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel) -> None:
    for method, many in ((INFER, False), (OTHER_STREAM, True)):
        call = (
            channel.stream_stream(method)(iter([GARBAGE]), timeout=20)
            if many
            else channel.unary_unary(method)(GARBAGE, timeout=20)
        )
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "the request's bytes are not a message of this method"


async def test_an_inference_stream_answers_what_it_cannot_read_and_goes_on(
    channel: grpc.aio.Channel,
) -> None:
    stream = channel.stream_stream(
        STREAM, response_deserializer=pb.ModelStreamInferResponse.FromString
    )
    good, long = request().SerializeToString(), request(LIMIT).SerializeToString()
    sent = [good, GARBAGE, good, sized(LIMIT + 1).SerializeToString(), long, good]
    call = stream(iter(sent), timeout=20)
    said = [response.error_message async for response in call]
    assert [bool(text) for text in said] == [False, True, False, True, True, False]
    assert "not a message" in said[1] and "takes 10000" in said[3] and "fewer" in said[4]
    assert await call.code() is grpc.StatusCode.OK


async def test_a_refused_request_leaves_no_memory_behind() -> None:
    class Tensors:
        """Stands for what a method holds; messages take no weak references."""

    held: list[weakref.ref[Tensors]] = []

    class Remembering(Service):
        async def ModelInfer(self, request: pb.ModelInferRequest, call: Any) -> Any:
            tensors = Tensors()
            held.append(weakref.ref(tensors))
            return await super().ModelInfer(request, call)

    service = Remembering()
    service.error = InvalidInput("mend this")
    async with running(service, Interceptor(None, LIMIT)) as (channel, _):
        gc.disable()
        try:
            await refused(channel)
            service.error = None
            await GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)
            assert held[0]() is None
        finally:
            gc.enable()


async def test_texts_for_callers_are_printable_and_not_endless(
    service: Service, channel: grpc.aio.Channel
) -> None:
    service.error = InvalidInput("line\nbreak\x00" + "\U0001f600" * 5000)
    error = await refused(channel)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("line?break?\U0001f600") and len(error.details()) < 1000


# Tokens: one check under every RPC.


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


# The end: nobody is told CANCELLED.


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
