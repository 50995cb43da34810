"""Composes transport, interceptor, servicer, health, reflection and probes; drains at the end."""

from __future__ import annotations

import os

# Before the import: gRPC's core would write lines of its own to standard error, such as one for
# each failed handshake, which any stranger can cause.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from service import log, probes, tls
from service.control import Control
from service.errors import InvalidSetting
from service.health import SERVICE, Health
from service.inference import Inference
from service.interceptor import Interceptor
from service.log import Access
from service.metrics import Metrics
from service.parameters import Limits
from service.probes import Probes
from service.proto import inference_pb2
from service.proto.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from service.regions import Regions
from service.repository import Repository
from service.servicer import Shared
from service.settings import Settings
from service.tokens import Tokens
from service.tracing import Traces

# How long calls that were on their way when draining ended are told to go elsewhere.
_LAME_DUCK_S = 0.5
_GOODBYE_S = 1.0
_TOKENS_S = 1.0
_PENDING = 1_000_000
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True)
class _Door:
    """A gRPC port that is asked for, by these options, and the control RPCs answered there."""

    option: str
    host_option: str
    host: str
    port: int
    allowed: frozenset[str]


@dataclass(frozen=True)
class _Port:
    """One gRPC server with what answers on it."""

    number: int
    server: grpc.aio.Server
    interceptor: Interceptor
    servicer: Control


@dataclass(frozen=True)
class Server:
    """A server that has been started.

    Attributes:
        grpc_port: the port it really has, also where 0 was asked for.
        control_port: likewise; None if the control RPCs have no port of their own.
        metrics_port: likewise.
    """

    grpc_port: int
    control_port: int | None
    metrics_port: int
    _ports: tuple[_Port, ...]
    _probes: Probes
    _health: Health
    _repository: Repository
    _polling: asyncio.Task[None] | None
    _refreshing: asyncio.Task[None] | None

    async def drain(self, timeout_s: float, *, grace_s: float, hurry: asyncio.Event) -> bool:
        """Say NOT_SERVING, serve on for a while, finish accepted work, close the ports.

        Args:
            timeout_s: how long accepted work may take.
            grace_s: of normal service, so that load balancers leave before anyone is refused.
            hurry: ends the grace when it is set.

        Returns:
            Whether all accepted work was finished in time.
        """
        self._health.leave()
        if self._polling:
            self._polling.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await hurry.wait()
        finished = await self._repository.drain(timeout_s)
        for port in self._ports:
            await port.servicer.close_streams()
        await asyncio.sleep(_LAME_DUCK_S)
        # Answers are on their way by now; what is still open is a health Watch, which never ends.
        for port in self._ports:
            port.interceptor.close()
        await asyncio.gather(*(port.server.stop(_GOODBYE_S) for port in self._ports))
        if self._refreshing:
            self._refreshing.cancel()
        await asyncio.to_thread(self._probes.close)
        return finished


def check(settings: Settings) -> None:
    """Look at the files of tokens and TLS before models are loaded, which may take minutes.

    Raises:
        InvalidSetting: they cannot be used.
    """
    if settings.tokens:
        Tokens.read(Path(settings.tokens))
    tls.credentials(settings)


async def start(settings: Settings, repository: Repository, *, version: str) -> Server:
    """Compose all layers, bind the ports and answer.

    Raises:
        InvalidSetting: a port is in use or may not be bound; tokens or TLS files cannot be used.
    """
    tokens = Tokens.read(Path(settings.tokens)) if settings.tokens else None
    health = Health()
    repository.on_change(health.set)
    shared = _shared(settings, repository, ready=lambda: health.ready, version=version)
    ports = [
        _port(door, settings, shared=shared, health=health, tokens=tokens)
        for door in _doors(settings)
    ]
    answering = _bind_probes(settings, shared)
    for port in ports:
        await port.server.start()
    health.start()
    return Server(
        grpc_port=ports[0].number,
        control_port=ports[1].number if len(ports) > 1 else None,
        metrics_port=answering.port,
        _ports=tuple(ports),
        _probes=answering,
        _health=health,
        _repository=repository,
        _polling=_every(settings.poll_s, repository.poll) if settings.poll_s else None,
        _refreshing=(
            _every(_TOKENS_S, lambda: asyncio.to_thread(tokens.refresh)) if tokens else None
        ),
    )


def _doors(settings: Settings) -> list[_Door]:
    """The gRPC port, and the control port if there is to be one."""
    allowed, apart = settings.allowed, settings.control_port != -1
    if apart and not allowed:
        log.warning("--control-port answers no control RPC: name some with --control")
    here = frozenset[str]() if apart else allowed
    doors = [_Door("--grpc-port", "--host", settings.host, settings.grpc_port, here)]
    if apart:
        host, port = settings.control_host, settings.control_port
        doors.append(_Door("--control-port", "--control-host", host, port, allowed))
    return doors


def _shared(
    settings: Settings, repository: Repository, *, ready: Callable[[], bool], version: str
) -> Shared:
    """What both ports answer with: what is registered on one is used by inferences on the other."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, repository.book, models=lambda: list(repository), ready=ready)
    regions = Regions(max_name=settings.max_name) if "shared-memory" in settings.allowed else None
    traces = Traces()
    inference = Inference(
        repository,
        metrics,
        limits=Limits(settings.max_tensors, settings.max_name, settings.max_message_mib * 2**20),
        regions=regions,
        traces=traces,
        access=Access(settings.access_log),
        max_calls=settings.max_calls,
    )
    return Shared(repository, inference, metrics, version, regions, traces, ready=ready,
                  cost_metadata=settings.cost_metadata)  # fmt: skip


def _port(
    door: _Door, settings: Settings, *, shared: Shared, health: Health, tokens: Tokens | None
) -> _Port:
    limit = settings.max_message_mib * 2**20
    interceptor = Interceptor(tokens, limit, refused=shared.metrics.stray)
    server = grpc.aio.server(
        options=[
            # A guard for the memory; the limit that callers meet is the interceptor's.
            ("grpc.max_receive_message_length", 2 * limit),
            ("grpc.max_send_message_length", 2 * limit),
            # Otherwise two servers share a port without a word, and each gets half of the calls.
            ("grpc.so_reuseport", 0),
            # gRPC's own limits answer CANCELLED; refusing is the batcher's, with a reason.
            ("grpc.server.max_pending_requests", _PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ],
    )
    servicer = Control(shared, allowed=door.allowed)
    add_GRPCInferenceServiceServicer_to_server(servicer, interceptor)
    health_pb2_grpc.add_HealthServicer_to_server(health, interceptor)
    shown = (SERVICE, _HEALTH, reflection.SERVICE_NAME)
    reflected = reflection.aio.ReflectionServicer(shown, pool=_reflected())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, interceptor)
    server.add_generic_rpc_handlers([interceptor])
    return _Port(_bind_grpc(server, door, settings), server, interceptor, servicer)


def _reflected() -> DescriptorPool:
    """One pool with all that reflection shows: our private messages, health and itself."""
    pool = DescriptorPool()
    for module in (inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


def _bind_grpc(server: grpc.aio.Server, door: _Door, settings: Settings) -> int:
    host, port = door.host, door.port
    taken = _taken(host, port)
    if taken:
        raise _cannot_listen(f"{host}:{port} for gRPC", taken, door.host_option, door.option)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Made for each port: gRPC remembers in them which certificate it has fetched.
    credentials = tls.credentials(settings)
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise InvalidSetting(
            f"gRPC cannot listen on {host}:{port}; choose another with {door.option}"
        )
    return int(bound)


def _taken(host: str, port: int) -> OSError | None:
    """Why a port cannot be had, or None; asked first, since gRPC says it in lines of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        own = error.__context__  # create_server's is of no kind, and says more than is to be told
        return own if isinstance(own, OSError) else error
    return None


def _cannot_listen(where: str, why: OSError, host_option: str, port_option: str) -> InvalidSetting:
    """Points at the address if this machine has no such one, else at the port."""
    told = f"cannot listen on {where} ({why.strerror or 'not possible'})"
    if isinstance(why, socket.gaierror) or why.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return InvalidSetting(f"{told}; give an address of this machine with {host_option}")
    return InvalidSetting(f"{told}; choose another with {port_option}, or 0 for a free one")


def _bind_probes(settings: Settings, shared: Shared) -> Probes:
    host, port = settings.host, settings.metrics_port
    try:
        return probes.start(host, port, metrics=shared.metrics.text, ready=shared.ready)
    except OSError as error:
        where = f"{host}:{port} for metrics"
        raise _cannot_listen(where, error, "--host", "--metrics-port") from None


def _every(seconds: float, work: Callable[[], Awaitable[Any]]) -> asyncio.Task[None]:
    """Do this again and again; what fails is logged, and tried again."""

    async def repeated() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                log.exception("what is done every few seconds failed")

    return asyncio.create_task(repeated())
