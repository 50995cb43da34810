"""grpc.health.v1 for the server and each model; Watch tells of every change until the end.

Our own, since grpcio-health-checking's asyncio servicer forgets all watchers of a name when one of
them leaves, and lets one that does not read hold up everybody else's news.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import ModelNotFound

SERVICE = "inference.GRPCInferenceService"
LIVENESS = "liveness"
_SERVER = ""
_OWN = (_SERVER, SERVICE, LIVENESS)
_ANSWER = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated, untyped
    """Which names are serving; used on the event loop alone, but for ``ready``."""

    def __init__(self) -> None:
        """The server itself is not ready before ``set`` says so."""
        self._serving = dict.fromkeys(_OWN, False)
        self._leaving = self._fallen = False
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether the server takes calls; from any thread."""
        return self._serving[_SERVER]

    @property
    def alive(self) -> bool:
        """Whether a restart would mend nothing; from any thread."""
        return not self._fallen

    def start(self) -> None:
        """Say that the server is up."""
        self._update(dict.fromkeys(_OWN, True))

    def set(self, name: str, serving: bool) -> None:
        """Say whether a model is ready; without effect once the server is leaving."""
        if name not in _OWN:  # a model may be called "liveness"
            self._update({name: serving})

    def leave(self) -> None:
        """Say NOT_SERVING for ever, under every name but that of liveness.

        What drains is alive: a restart would cut off the work that it finishes.
        """
        self._update({name: name == LIVENESS for name in self._serving})
        self._leaving = True

    def fall(self) -> None:
        """Say NOT_SERVING for ever under every name, that of liveness too: only a restart helps."""
        self._leaving, self._fallen = False, True
        self._update(dict.fromkeys(self._serving, False))
        self._leaving = True

    async def Check(self, request: Any, call: Any) -> Any:
        """The state of one name; unknown ones are NOT_FOUND."""
        if request.service not in self._serving:
            raise ModelNotFound("health knows the server (an empty name) and its models' names")
        return _ANSWER(status=self._status(request.service))

    async def Watch(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """The state of one name, now and whenever it changes; unknown ones may become known."""
        told = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                told = status
                yield _ANSWER(status=status)
            await changed.wait()

    def _status(self, name: str) -> int:
        serving = self._serving.get(name)
        if serving is None:
            return int(_ANSWER.SERVICE_UNKNOWN)
        return int(_ANSWER.SERVING if serving else _ANSWER.NOT_SERVING)

    def _update(self, states: dict[str, bool]) -> None:
        if self._leaving:
            return
        self._serving.update(states)
        # A new event for what comes next: whoever waits for this one is woken exactly once.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
