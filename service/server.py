"""Composes transport, interceptor, servicer, health, reflection and metrics; drains at the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import CollectorRegistry, start_http_server

from service import log
from service.errors import (
    InferenceFailed,
    InvalidInput,
    InvalidSetting,
    Overloaded,
    ServingError,
    Unsupported,
)
from service.metrics import Metrics
from service.proto import inference_pb2
from service.proto.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from service.repository import Repository
from service.servicer import Servicer
from service.settings import Settings

SERVICE = "inference.GRPCInferenceService"
LIVENESS = "liveness"
# How long calls that were on their way when draining ended are told to go elsewhere.
_LAME_DUCK_S = 0.5
_GOODBYE_S = 1.0
_LONGEST = 1000
_PENDING = 1_000_000
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Interceptor(grpc.aio.ServerInterceptor):
    """The one catch-all: our errors become their status, all others a fixed text and a log line."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap unary methods; streams answer for themselves."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        answer, method = handler.unary_unary, handler_call_details.method

        async def guarded(request: Any, call: Any) -> Any:
            try:
                if request is None:
                    raise InvalidInput("the request's bytes are not a message of this method")
                return await answer(request, call)
            except ServingError as error:
                if error.__cause__ is not None or isinstance(error, InferenceFailed):
                    log.exception(str(error), method=method)
                return _refuse(call, error)
            except NotImplementedError:  # what the generated base class raises
                return _refuse(call, Unsupported("this server does not implement that method"))
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("unexpected error", method=method)
                return _refuse(call, InferenceFailed("internal error; the server's log says more"))

        return grpc.unary_unary_rpc_method_handler(
            guarded,
            _lenient(handler.request_deserializer),
            lambda message: b"" if message is None else handler.response_serializer(message),
        )


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """None for bytes that are no message: gRPC itself would tell the caller the exception."""

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return None

    return parsed


def _refuse(call: Any, error: ServingError) -> None:
    """End the call with the error's status.

    Not by ``call.abort``: the exception that it raises holds the request, in a cycle that only a
    full garbage collection finds, and a few large refused requests fill the memory.
    """
    call.set_code(grpc.StatusCode[error.status])
    # Status texts travel as headers, whose size is limited: beyond it the caller loses the status.
    text = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:_LONGEST])
    call.set_details(text)
    if isinstance(error, Overloaded):
        call.set_trailing_metadata((("grpc-retry-pushback-ms", str(error.retry_after_ms)),))


@dataclass(frozen=True)
class Server:
    """A server that has been started.

    Attributes:
        grpc_port: the port it really has, also where 0 was asked for.
        metrics_port: likewise.
    """

    grpc_port: int
    metrics_port: int
    _grpc: grpc.aio.Server
    _http: WSGIServer
    _health: health.HealthServicer
    _repository: Repository

    async def drain(self, timeout_s: float) -> bool:
        """Say NOT_SERVING, take no new calls, finish accepted work, close the ports.

        Returns:
            Whether all accepted work was finished in time.
        """
        await self._health.enter_graceful_shutdown()
        drains = [model.batcher.drain(timeout_s) for model in self._repository]
        finished = await asyncio.gather(*drains)
        await asyncio.sleep(_LAME_DUCK_S)
        # Answers are on their way by now; what is still open is a health Watch, which never ends.
        await self._grpc.stop(_GOODBYE_S)
        self._http.shutdown()
        self._http.server_close()
        return all(finished)


async def start(settings: Settings, repository: Repository, *, version: str) -> Server:
    """Compose all layers, bind both ports and answer.

    Raises:
        InvalidSetting: a port is in use or may not be bound.
    """
    metrics = Metrics(CollectorRegistry())
    _watch(repository, metrics)
    limit = settings.max_message_mib * 2**20
    server = grpc.aio.server(
        interceptors=[Interceptor()],
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            # Otherwise two servers share a port without a word, and each gets half of the calls.
            ("grpc.so_reuseport", 0),
            # gRPC's own limits answer CANCELLED; refusing is the batcher's, with a reason.
            ("grpc.server.max_pending_requests", _PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(Servicer(repository, metrics, version), server)
    healths = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection(
        (*names, reflection.SERVICE_NAME), server, pool=_reflected()
    )
    grpc_port = _bind_grpc(server, settings)
    http, metrics_port = _bind_metrics(settings, metrics.registry)
    await server.start()
    for name in ("", LIVENESS, SERVICE, *{model.manifest.name for model in repository}):
        await healths.set(name, _SERVING)
    return Server(grpc_port, metrics_port, server, http, healths, repository)


def _reflected() -> DescriptorPool:
    """One pool with all that reflection shows: our private messages, health and itself."""
    pool = DescriptorPool()
    for module in (inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


def _watch(repository: Repository, metrics: Metrics) -> None:
    for model in repository:
        batcher = model.batcher
        metrics.load_seconds.labels(*model.labels).set(model.load_s)
        metrics.waiting_rows.labels(*model.labels).set_function(
            lambda batcher=batcher: batcher.waiting_rows  # type: ignore[misc]
        )
        metrics.running.labels(*model.labels).set_function(
            lambda batcher=batcher: batcher.running  # type: ignore[misc]
        )


def _bind_grpc(server: grpc.aio.Server, settings: Settings) -> int:
    taken = _taken(settings.host, settings.grpc_port)
    if taken:
        raise InvalidSetting(
            f"cannot listen on {settings.host}:{settings.grpc_port} for gRPC ({taken}); choose "
            "another with --grpc-port, or 0 for a free one"
        )
    try:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError:
        port = 0
    if not port:
        raise InvalidSetting(
            f"gRPC cannot listen on {settings.host}:{settings.grpc_port}; choose another address "
            "with --host, or another port with --grpc-port"
        )
    return int(port)


def _taken(host: str, port: int) -> str | None:
    """Why a port cannot be had, or None; asked first, since gRPC says it in lines of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return error.strerror or "not possible"
    return None


def _bind_metrics(settings: Settings, registry: CollectorRegistry) -> tuple[WSGIServer, int]:
    try:
        http, _ = start_http_server(settings.metrics_port, settings.host, registry)
    except OSError as error:
        raise InvalidSetting(
            f"cannot listen on {settings.host}:{settings.metrics_port} for metrics "
            f"({error.strerror}); choose another with --metrics-port, or 0 for a free one"
        ) from None
    return http, http.server_port
