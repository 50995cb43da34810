"""Through real channels: each error its status, one sentence, and the next good call its answer."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from service import errors
from service.errors import Draining, InvalidInput, Overloaded, ServingError
from service.interceptor import Interceptor
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.service.guarded import INFER, LIMIT, OTHER_STREAM, STREAM, Service, request, running

GARBAGE = b"\xff\xff\xff"


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with running(service, Interceptor(None, LIMIT)) as (connected, _):
        yield connected


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


@pytest.mark.parametrize("error", [Overloaded("later", retry_after_ms=1), Draining()])
async def test_a_refusal_is_retried_by_clients_whose_policy_says_so(
    service: Service, error: ServingError
) -> None:
    policy = {
        "maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s",
        "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }  # fmt: skip
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    service.error, service.errors = error, 1
    async with running(service, Interceptor(None, LIMIT), config) as (channel, _):
        await GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)
    assert service.called == 2


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
