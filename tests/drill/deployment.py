"""The Deployment's part: so many replicas, replaced in turn, and the endpoints of those ready."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

from tests.drill.kubelet import Pod, Tell
from tests.drill.rendered import Plan

_LOOK_S = 0.1
# Of all starts together, and of one update.
_PATIENCE_S = 300.0


class Deployment:
    """Replicas on 127.0.0.2 and onwards."""

    def __init__(self, plan: Plan, scratch: Path, tell: Tell) -> None:
        self.pods: list[Pod] = []
        self.gone: list[Pod] = []
        self._plan, self._scratch, self._tell = plan, scratch, tell
        self._numbers = itertools.count(2)

    def ready(self) -> list[str]:
        """Addresses of the pods that are ready: the endpoints of the Services."""
        return [pod.address for pod in self.pods if pod.ready]

    async def begin(self) -> None:
        """Start all replicas, and wait until they are ready."""
        for _ in range(self._plan.replicas):
            self._create()
        await self._until(lambda: all(pod.ready for pod in self.pods))

    async def update(self) -> None:
        """Replace all pods as a rolling update does, and wait until the last old one has ended."""
        plan, old = self._plan, list(self.pods)
        new: list[Pod] = []
        ending: list[asyncio.Task[None]] = []

        def step() -> bool:
            """What may be done now; whether that was the last of it."""
            while len(new) < plan.replicas and len(self.pods) < plan.replicas + plan.surge:
                new.append(self._create())
            while old and self._more_than_enough():
                pod = old.pop(0)
                self.pods.remove(pod)
                self.gone.append(pod)
                ending.append(asyncio.create_task(pod.delete()))
            return not old and len(new) == plan.replicas and all(pod.available for pod in new)

        await self._until(step)
        await asyncio.gather(*ending)

    async def kill_one(self) -> None:
        """SIGKILL for the process of one pod that is ready; until it has ended."""
        pod = next(pod for pod in self.pods if pod.ready)
        self._tell(f"{pod.address} is killed")
        await pod.kill()

    async def recovered(self) -> None:
        """Wait until a pod that was killed is missed, and until all are ready again."""
        await self._until(lambda: len(self.ready()) < self._plan.replicas)
        await self._until(lambda: len(self.ready()) == self._plan.replicas)

    async def end(self) -> None:
        """Leave no process behind."""
        for pod in (*self.pods, *self.gone):
            await pod.end()

    def _create(self) -> Pod:
        number = next(self._numbers)
        log = self._scratch / f"{number}.log"
        pod = Pod(self._plan, f"127.0.0.{number}", log, self._tell)
        self.pods.append(pod)
        self._tell(f"{pod.address} is created")
        return pod

    def _more_than_enough(self) -> bool:
        """Whether the update may delete one."""
        least = self._plan.replicas - self._plan.unavailable
        return sum(pod.available for pod in self.pods) > least

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not holds():  # noqa: ASYNC110 -- a controller looks again and again, too
                await asyncio.sleep(_LOOK_S)
