"""Composes transport, interceptor, servicer, health, reflection and probes; drains at the end."""

from __future__ import annotations

import os

# Before the import: gRPC's core would write lines of its own to standard error, such as one for
# each failed handshake, which any stranger can cause.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service import following, log, ports, probes, tls
from service.cuda import Memory
from service.cudaregions import CudaRegions, of_this_machine
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
from service.settings import CUDA_MEMORY, Settings
from service.sharedmemory import SharedMemory
from service.spans import Spans
from service.tokens import Tokens
from service.tracing import Traces

# How long calls that were on their way when draining ended are told to go elsewhere. Clients that
# retry find us gone when they do.
_LAME_DUCK_S = 0.25
_LAST_ANSWERS_S = 0.25
_GOODBYE_S = 1.0
# gRPC ends connections at their age and a tenth more at most (gRFC A9); a second is for the call.
_OLDEST = 1.1
_LAST_CALL_S = 1.0
_LOOK_S = 0.1
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
    _leaving_s: float
    _polling: asyncio.Task[None] | None
    _refreshing: asyncio.Task[None] | None

    def fall(self) -> None:
        """Say to all who look at liveness that only a restart helps; on the event loop."""
        self._health.fall()

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
        await self._serve_on(grace_s, hurry)
        finished = await self._repository.drain(timeout_s)
        for port in self._ports:
            await port.servicer.close_streams()
        await asyncio.sleep(_LAME_DUCK_S)
        patience_s = _LAST_ANSWERS_S + _GOODBYE_S
        stopping = [asyncio.create_task(port.server.stop(patience_s)) for port in self._ports]
        await asyncio.sleep(_LAST_ANSWERS_S)
        # Answers are on their way by now; what is still open is a health Watch, which never ends.
        for port in self._ports:
            port.interceptor.close()
        await asyncio.gather(*stopping)
        if self._refreshing:
            self._refreshing.cancel()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        await asyncio.to_thread(self._probes.close)
        return finished

    async def _serve_on(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Normal service until the grace is over, or all connections have ended at their age.

        For that nobody may connect in its last part: clients that are sent away would come back,
        as long as they know no better.
        """
        leaving_s = self._leaving_s if self._leaving_s <= grace_s else 0.0
        await _waited(hurry, grace_s - leaving_s)
        if hurry.is_set() or not leaving_s:
            return
        until = time.monotonic() + leaving_s
        listening, other = self._ports, self._probes.address
        while time.monotonic() < until:
            listening = tuple(port for port in listening if not port.stop_listening(but=other))
            if not any(port.connected() for port in self._ports):
                return
            await _waited(hurry, _LOOK_S)
            if hurry.is_set():
                return


def _leaving_s(settings: Settings) -> float:
    """How long it takes until all connections have ended at their age; 0 where none does."""
    age_s = settings.max_connection_age_s
    return _OLDEST * age_s + _LAST_CALL_S if age_s else 0.0


async def _waited(event: asyncio.Event, most_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            await event.wait()


def check(settings: Settings) -> None:
    """Look at the files of tokens and TLS before models are loaded, which may take minutes.

    Raises:
        InvalidSetting: they cannot be used, or what else was asked for is not installed.
    """
    if settings.tokens:
        Tokens.read(Path(settings.tokens))
    tls.credentials(settings)
    following.check(settings)


async def start(
    settings: Settings,
    repository: Repository,
    *,
    version: str,
    gpus: Callable[[], Sequence[Memory]] = of_this_machine,
) -> Server:
    """Compose all layers, bind the ports and answer.

    Args:
        settings: of this server.
        repository: with its models.
        version: of the program.
        gpus: the memory of each, for CUDA shared memory.

    Raises:
        InvalidSetting: a port is in use or may not be bound; tokens or TLS files cannot be used.
    """
    tokens = Tokens.read(Path(settings.tokens)) if settings.tokens else None
    if 0 < settings.grace_s < _leaving_s(settings):
        log.warning(
            "--grace-s is shorter than connections last: when this server leaves, clients that "
            "do not look at health are refused",
            enough_s=_leaving_s(settings),
        )
    health = Health()
    repository.on_change(health.set)
    shared = _shared(settings, repository, ready=lambda: health.ready, version=version, gpus=gpus)
    bound = [
        ports.bind(asked, settings, shared=shared, health=health, tokens=tokens)
        for asked in ports.wanted(settings)
    ]
    answering = _bind_probes(settings, shared, health)
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
        _leaving_s=_leaving_s(settings),
        _polling=_every(settings.poll_s, repository.poll) if settings.poll_s else None,
        _refreshing=(
            _every(_TOKENS_S, lambda: asyncio.to_thread(tokens.refresh)) if tokens else None
        ),
    )


def _shared(
    settings: Settings,
    repository: Repository,
    *,
    ready: Callable[[], bool],
    version: str,
    gpus: Callable[[], Sequence[Memory]],
) -> Shared:
    """What both ports answer with: what is registered on one is used by inferences on the other."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, repository.book, models=lambda: list(repository), ready=ready)
    files, memory = Regions(max_name=settings.max_name), CudaRegions(gpus, settings.max_name)
    shares = settings.allowed & {"shared-memory", CUDA_MEMORY}
    regions = SharedMemory(files, memory) if shares else None
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
                  spans=following.start(settings, version))  # fmt: skip


def _bind_probes(settings: Settings, shared: Shared, health: Health) -> Probes:
    host, port = settings.host, settings.metrics_port
    try:
        return probes.start(host, port, metrics=shared.metrics.text, ready=shared.ready,
                            alive=lambda: health.alive)  # fmt: skip
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
