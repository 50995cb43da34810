"""What every call passes through: tokens, sizes, and the one catch-all for its errors.

A call that may not come in is refused before its request is read. Bytes that are too many, or no
message, are refused with a sentence; gRPC itself would tell the caller an exception. Our errors
become their status, all others a fixed text and a log line.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, EncodeError

from service import encoded, refusals
from service.errors import Draining, InvalidInput, ServingError, Unauthenticated
from service.refusals import translated
from service.tokens import Tokens

# A stream whose requests may fail one by one; on all others the first bad one ends the call.
_IN_BAND = "/inference.GRPCInferenceService/ModelStreamInfer"
# Tensors, their contents and parameters are fields; so are the files of a load.
_MOST_FIELDS = 16384
_HANDLERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
# gRPC's own, about a call that has ended; UsageError is a mistake of ours.
_ENDED = (grpc.aio.AbortError, grpc.aio.InternalError)


@dataclass(frozen=True)
class Unreadable:
    """What ModelStreamInfer gets in place of a request that is too large or no message."""

    error: InvalidInput


class Interceptor(grpc.GenericRpcHandler):
    """Stands between one server and all methods that are added here, and wraps each of them once.

    Not among gRPC's own interceptors: those run as coroutines of their own for every call, which
    took 50 us of the 500 that a small request takes.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        max_message_bytes: int,
        *,
        refused: Callable[[ServingError], None] = lambda error: None,
    ) -> None:
        """Guard one server; a second one needs an interceptor of its own.

        Args:
            tokens: what every call must show one of; None asks for nothing.
            max_message_bytes: of a request or an answer; gRPC's own limits must lie above it.
            refused: told of every call that is refused before a method sees it.
        """
        self._tokens = tokens
        self._limit = max_message_bytes
        self._refused = refused
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, Any] = {}
        self._open: set[asyncio.Task[Any]] = set()
        self._closed = False

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take a service's methods; what gRPC generates calls it, as it would a server's."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The same methods once more; gRPC's servers on asyncio have no use for them either."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The guarded method, or one that refuses the call; None where there is none."""
        if self._tokens is not None:
            try:
                self._tokens.check(handler_call_details.invocation_metadata or ())
            except Unauthenticated as error:
                self._refused(error)
                return refusals.refusing(error)
        method = handler_call_details.method
        if method not in self._wrapped:
            found = (each.service(handler_call_details) for each in self._handlers)
            handler = next(filter(None, found), None)
            if handler is None:  # not remembered: anyone could fill the memory with names
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def close(self) -> None:
        """End what is still open with UNAVAILABLE, and refuse all that still comes.

        gRPC's own stop would end them with CANCELLED, which clients take for their own doing.
        """
        self._closed = True
        for task in self._open:
            task.cancel()

    def _wrap(self, method: str, handler: Any) -> Any:
        parse, serialize = self._parse(handler), self._serialize(handler)
        answer = next(filter(None, (handler.unary_unary, handler.unary_stream,
                                    handler.stream_unary, handler.stream_stream)))  # fmt: skip
        readable = handler.request_streaming and method != _IN_BAND

        async def one(request: Any, call: Any) -> Any:
            task = self._begin(request)
            if isinstance(task, ServingError):
                return await refusals.refuse(call, task)
            try:
                # Serialized here, where it can still be refused.
                return serialize(await answer(request, call))
            except BaseException as error:
                if self._passes(error):
                    raise
                why = self._why(error, method)
            finally:
                self._open.discard(task)
            return await refusals.refuse(call, why)

        async def many(request: Any, call: Any) -> Any:
            task = self._begin(request)
            if isinstance(task, ServingError):
                return refusals.end(call, task)
            requests = _readable(request) if readable else request
            try:
                if inspect.isasyncgenfunction(answer):
                    async with aclosing(answer(requests, call)) as responses:
                        await _write_all(responses, call)
                else:
                    await answer(requests, call)
            except BaseException as error:
                if self._passes(error):
                    raise
                refusals.end(call, self._why(error, method))
            finally:
                self._open.discard(task)

        return _HANDLERS[handler.request_streaming, handler.response_streaming](
            many if handler.response_streaming else one,
            parse,
            serialize if handler.response_streaming else None,
        )

    def _begin(self, request: Any) -> asyncio.Task[Any] | ServingError:
        """The task of a call that may go on; else why it may not."""
        if isinstance(request, Unreadable):
            self._refused(request.error)
            return request.error
        if self._closed:
            return Draining()
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in one
        self._open.add(task)
        return task

    def _passes(self, error: BaseException) -> bool:
        """Whether it is gRPC's to handle: about a call that has ended, or whose caller left."""
        if isinstance(error, asyncio.CancelledError):
            return not self._closed
        return isinstance(error, _ENDED) or not isinstance(error, Exception)

    def _why(self, error: BaseException, method: str) -> ServingError:
        """What a call that failed is told; called while the error is being handled."""
        if not isinstance(error, Exception):
            return Draining()
        # Kept with its traceback it would hold the frame that keeps it, and that the request.
        return translated(error, method).with_traceback(None)

    def _parse(self, handler: Any) -> Callable[[bytes], Any]:
        # Generated parsers are methods of their message's class.
        message = getattr(
            getattr(handler.request_deserializer, "__self__", None), "DESCRIPTOR", None
        )

        def parse(data: bytes) -> Any:
            if len(data) > self._limit:
                return Unreadable(
                    InvalidInput(
                        f"the request has {len(data)} bytes and this server takes {self._limit}; "
                        "send fewer rows at a time"
                    )
                )
            if encoded.has_more_fields(data, _MOST_FIELDS, message):
                return Unreadable(
                    InvalidInput(
                        f"the request has more than {_MOST_FIELDS} fields; send fewer tensors or "
                        "parameters"
                    )
                )
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                return Unreadable(
                    InvalidInput("the request's bytes are not a message of this method")
                )

        return parse

    def _serialize(self, handler: Any) -> Callable[[Any], bytes]:
        def serialize(message: Any) -> bytes:
            try:
                data = bytes(handler.response_serializer(message))
            except EncodeError:  # beyond protobuf's own limit of 2 GiB
                data = None
            if data is None or len(data) > self._limit:
                raise InvalidInput(
                    f"the answer has more than the {self._limit} bytes that this server sends; ask "
                    "for fewer outputs or rows"
                )
            return data

        return serialize


async def _write_all(responses: AsyncGenerator[Any, None], call: Any) -> None:
    """Send what a method yields; what cannot be sent is raised at its ``yield``."""
    with suppress(StopAsyncIteration):
        response = await anext(responses)
        while True:
            try:
                await call.write(response)
            except InvalidInput as error:
                response = await responses.athrow(error)
            else:
                response = await anext(responses)


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, up to the first that cannot be read."""
    async for request in requests:
        if isinstance(request, Unreadable):
            # A new one: raised itself, it would hold this frame, which holds it.
            raise InvalidInput(str(request.error))
        yield request
