"""Composes transport, interceptor, servicer, health, reflection and probes; drains at the end."""

from __future__ import annotations

import os

# Before the import: gRPC's core would write lines of its own to standard error, such as one for
# each failed handshake, which any stranger can cause.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service import log, ports, probes, tls, traced
from service.health import Health
from service.inference import Inference
from service.log import Access
from service.metrics import Metrics
from service.parameters import Limits
from service.ports import Port
from service.probes import Probes
from service.regions import Regions
from service.repository import Repository
from service.servicer import Shared
from service.settings import Settings
from service.spans import Spans
from service.tokens import Tokens
from service.tracing import Traces

# How long calls that were on their way when draining ended are told to go elsewhere.
_LAME_DUCK_S = 0.5
_GOODBYE_S = 1.0
_TOKENS_S = 1.0


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
    _ports: tuple[Port, ...]
    _probes: Probes
    _health: Health
    _repository: Repository
    _spans: Spans | None
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
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        await asyncio.to_thread(self._probes.close)
        return finished


def check(settings: Settings) -> None:
    """Look at the files of tokens and TLS before models are loaded, which may take minutes.

    Raises:
        InvalidSetting: they cannot be used, or what else was asked for is not installed.
    """
    if settings.tokens:
        Tokens.read(Path(settings.tokens))
    tls.credentials(settings)
    traced.check(settings)


async def start(settings: Settings, repository: Repository, *, version: str) -> Server:
    """Compose all layers, bind the ports and answer.

    Raises:
        InvalidSetting: a port is in use or may not be bound; tokens or TLS files cannot be used.
    """
    tokens = Tokens.read(Path(settings.tokens)) if settings.tokens else None
    health = Health()
    repository.on_change(health.set)
    shared = _shared(settings, repository, ready=lambda: health.ready, version=version)
    bound = [
        ports.bind(door, settings, shared=shared, health=health, tokens=tokens)
        for door in ports.doors(settings)
    ]
    answering = _bind_probes(settings, shared)
    for port in bound:
        await port.server.start()
    health.start()
    return Server(
        grpc_port=bound[0].number,
        control_port=bound[1].number if len(bound) > 1 else None,
        metrics_port=answering.port,
        _ports=tuple(bound),
        _probes=answering,
        _health=health,
        _repository=repository,
        _spans=shared.spans,
        _polling=_every(settings.poll_s, repository.poll) if settings.poll_s else None,
        _refreshing=(
            _every(_TOKENS_S, lambda: asyncio.to_thread(tokens.refresh)) if tokens else None
        ),
    )


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
                  cost_metadata=settings.cost_metadata,
                  spans=traced.start(settings, version))  # fmt: skip


def _bind_probes(settings: Settings, shared: Shared) -> Probes:
    host, port = settings.host, settings.metrics_port
    try:
        return probes.start(host, port, metrics=shared.metrics.text, ready=shared.ready)
    except OSError as error:
        where = f"{host}:{port} for metrics"
        raise ports.cannot_listen(where, error, "--host", "--metrics-port") from None


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
