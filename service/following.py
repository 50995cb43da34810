"""Where a call's span begins and ends: around everything else that happens to the call.

Nothing of this is on a call's way while nobody follows calls: the handler is not there then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from service.errors import InvalidSetting
from service.settings import Settings
from service.spans import CURRENT, Metadata, Spans

_SERVICE = "/inference.GRPCInferenceService/"
_STREAM, _ONE = "ModelStreamInfer", "ModelInfer"
_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}

A = TypeVar("A")
B = TypeVar("B")


def check(settings: Settings) -> None:
    """Make sure, before models are loaded, that spans can be sent if they are to be.

    Raises:
        InvalidSetting: what sends them is not installed, or cannot do what the environment says.
    """
    spans = start(settings, "")
    if spans is not None:
        spans.close()


def start(settings: Settings, version: str) -> Spans | None:
    """Who follows this server's inferences; None for nobody.

    Raises:
        InvalidSetting: as ``check`` does.
    """
    if not settings.otlp_endpoint:
        return None
    spans: Spans = _otlp().start(
        settings.otlp_endpoint, share=settings.trace_share, version=version
    )
    return spans


def _otlp() -> Any:
    try:
        from service import otlp
    except ValueError as error:  # the SDK reads some of its variables when it is imported
        raise InvalidSetting(f"spans cannot be sent as the OTEL_ variables say: {error}") from error
    except ImportError as error:
        raise InvalidSetting(
            "--otlp-endpoint needs packages that are not installed; "
            "`pip install 'farthing[tracing]'`, or leave it empty"
        ) from error
    return otlp


def calls(inner: grpc.GenericRpcHandler, spans: Spans | None) -> grpc.GenericRpcHandler:
    """What stands before a server's methods: those themselves if nobody follows calls."""
    return inner if spans is None else _Calls(inner, spans)


class _Calls(grpc.GenericRpcHandler):
    """Gives each call of ModelInfer that is followed a span.

    A call that shows no good token has none: strangers are not to fill a collector. Nor do health
    checks and the like, which would.
    """

    def __init__(self, inner: grpc.GenericRpcHandler, spans: Spans) -> None:
        self._inner, self._spans = inner, spans
        self._followed: dict[Any, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = self._inner.service(handler_call_details)
        if handler_call_details.method != _SERVICE + _ONE or handler is None:
            return handler
        answer = handler.unary_unary
        if answer is None:  # it refuses the call
            return handler
        if answer not in self._followed:
            self._followed[answer] = grpc.unary_unary_rpc_method_handler(
                self._follow(answer), handler.request_deserializer, handler.response_serializer
            )
        return self._followed[answer]

    def _follow(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        spans = self._spans

        async def followed(request: Any, call: Any) -> Any:
            span = spans.begin(call.invocation_metadata() or (), _ONE)
            if span is None:
                return await answer(request, call)
            CURRENT.set(span)  # not taken back: each call has a task, and with that a context
            try:
                data = await answer(request, call)
            except BaseException:  # it passes on what is about a call whose caller left
                span.end(None)
                raise
            span.end(_NAMES[_number(call.code())])
            return data

        return followed


def each(
    answer: Callable[[A], Awaitable[B]], spans: Spans, metadata: Metadata
) -> Callable[[A], Awaitable[B]]:
    """The same for the requests of one stream, each of which must have a task of its own."""

    async def followed(request: A) -> B:
        span = spans.begin(metadata, _STREAM)
        if span is None:
            return await answer(request)
        CURRENT.set(span)
        try:
            response = await answer(request)
        except BaseException:
            span.end(None)
            raise
        span.end("OK")
        return response

    return followed


def _number(code: Any) -> int:
    """Of a call's status: gRPC's servers on asyncio tell a number, 0 where nobody has set one."""
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code or 0)
