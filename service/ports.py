"""The gRPC ports: what listens where, with which of gRPC's options, and what answers there."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from service import following, log, tls
from service.control import Control
from service.errors import InvalidSetting
from service.health import SERVICE, Health
from service.interceptor import Interceptor
from service.proto import inference_pb2
from service.proto.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from service.servicer import Shared
from service.settings import Settings
from service.tokens import Tokens

_PENDING = 1_000_000
_NEVER = 2**31 - 1
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True)
class Asked:
    """A gRPC port that is asked for, by these options, and the control RPCs answered there."""

    option: str
    host_option: str
    host: str
    port: int
    allowed: frozenset[str]


@dataclass(frozen=True)
class Port:
    """One gRPC server with what answers on it."""

    number: int
    server: grpc.aio.Server
    interceptor: Interceptor
    servicer: Control

    def stop_listening(self, *, but: Any = None) -> bool:
        """Let nobody connect from now on; who is connected stays so, and is served as before.

        gRPC has no word for that. Its own ``stop`` refuses at once what clients send before they
        have heard of it, with CANCELLED.

        Args:
            but: the address of a socket of ours that may have the same number, and is no gRPC's.

        Returns:
            Whether that was done; not where files are short, which is worth another try.
        """
        try:
            for one in _sockets(self.number):
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and one.getsockname() != but:
                    one.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        return True

    def connected(self) -> bool:
        """Whether there is a connection; where that cannot be known, there is."""
        try:
            return sys.platform != "linux" or any(map(_has_peer, _sockets(self.number)))
        except OSError:
            return True


def wanted(settings: Settings) -> list[Asked]:
    """The gRPC port, and the control port if there is to be one."""
    allowed, apart = settings.allowed, settings.control_port != -1
    if apart and not allowed:
        log.warning("--control-port answers no control RPC: name some with --control")
    here = frozenset[str]() if apart else allowed
    found = [Asked("--grpc-port", "--host", settings.host, settings.grpc_port, here)]
    if apart:
        host, port = settings.control_host, settings.control_port
        found.append(Asked("--control-port", "--control-host", host, port, allowed))
    return found


def bind(
    asked: Asked, settings: Settings, *, shared: Shared, health: Health, tokens: Tokens | None
) -> Port:
    """Compose the gRPC server of one port, and bind it; it does not answer before it is started.

    Raises:
        InvalidSetting: the port is in use or may not be bound; the TLS files cannot be used.
    """
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
            *_ages(settings),
        ],
    )
    servicer = Control(shared, allowed=asked.allowed)
    add_GRPCInferenceServiceServicer_to_server(servicer, interceptor)
    health_pb2_grpc.add_HealthServicer_to_server(health, interceptor)
    shown = (SERVICE, _HEALTH, reflection.SERVICE_NAME)
    reflected = reflection.aio.ReflectionServicer(shown, pool=_reflected())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, interceptor)
    server.add_generic_rpc_handlers([following.calls(interceptor, shared.spans)])
    return Port(_bind_grpc(server, asked, settings), server, interceptor, servicer)


def _ages(settings: Settings) -> list[tuple[str, int]]:
    """When connections end: gRPC takes 10 % more or less, so that they do not end together.

    Source: gRFC A9. Ended thus, a connection loses no call: the client is told first, and what it
    sent until it knew is still served.
    """
    if not settings.max_connection_age_s:
        return []
    grace_s = settings.max_connection_age_grace_s
    return [
        ("grpc.max_connection_age_ms", int(1000 * settings.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", int(1000 * grace_s) if grace_s else _NEVER),
    ]


def _reflected() -> DescriptorPool:
    """One pool with all that reflection shows: our private messages, health and itself."""
    pool = DescriptorPool()
    for module in (inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


def _bind_grpc(server: grpc.aio.Server, asked: Asked, settings: Settings) -> int:
    host, port = asked.host, asked.port
    taken = _taken(host, port)
    if taken:
        raise cannot_listen(f"{host}:{port} for gRPC", taken, asked.host_option, asked.option)
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
            f"gRPC cannot listen on {host}:{port}; choose another with {asked.option}"
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


def _sockets(port: int) -> Iterator[socket.socket]:
    """This process's sockets on its own port: copies, each open until the next is asked for.

    Raises:
        OSError: it cannot be known, since files are short.
    """
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError as error:
            if error.errno == errno.EBADF:  # it was there a moment ago
                continue
            raise
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port:
                yield copy


def _has_peer(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


def cannot_listen(where: str, why: OSError, host_option: str, port_option: str) -> InvalidSetting:
    """Points at the address if this machine has no such one, else at the port."""
    told = f"cannot listen on {where} ({why.strerror or 'not possible'})"
    if isinstance(why, socket.gaierror) or why.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return InvalidSetting(f"{told}; give an address of this machine with {host_option}")
    return InvalidSetting(f"{told}; choose another with {port_option}, or 0 for a free one")
