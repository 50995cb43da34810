"""One pod as a kubelet runs it: a real server process, its probes, preStop, SIGTERM and SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.drill.rendered import Plan, Probe

# How often a kubelet looks at what became of its containers.
_RELIST_S = 1.0
Tell = Callable[[str], None]


class Pod:
    """A replica on an address of its own; its container is started again when it ends by itself.

    Attributes:
        ready: whether its readiness probe says so, and its endpoint is there.
        ready_since: on ``time.monotonic``; None while it is not.
        going: whether it has been deleted.
        killed: processes that did not end within the grace, or that liveness gave up.
        exits: exit codes of its processes, those of deleted pods last.
    """

    def __init__(self, plan: Plan, address: str, log: Path, tell: Tell) -> None:
        self.address = address
        self.ready_since: float | None = None
        self.going = False
        self.killed = 0
        self.exits: list[int] = []
        self._plan, self._log, self._tell = plan, log, tell
        self._process: asyncio.subprocess.Process | None = None
        self._life = asyncio.create_task(self._live())

    @property
    def ready(self) -> bool:
        return self.ready_since is not None and not self.going

    @property
    def available(self) -> bool:
        """Whether it has been ready for as long as the Deployment asks."""
        since = self.ready_since
        return (
            since is not None
            and not self.going
            and time.monotonic() - since >= self._plan.min_ready_s
        )

    async def kill(self) -> None:
        """End its process at once, as the kernel does when memory is short; until it has ended."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def delete(self) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over."""
        self.going = True
        self._tell(f"{self.address} is deleted")
        begun = time.monotonic()
        self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life
        await asyncio.sleep(self._plan.pre_stop_s)
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            left_s = begun + self._plan.grace_s - time.monotonic()
            await asyncio.wait_for(process.wait(), left_s)
        except TimeoutError:
            self.killed += 1
            process.kill()
            await process.wait()
        self.exits.append(process.returncode or 0)
        self._tell(f"{self.address} ended with {process.returncode}")

    async def end(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        self._life.cancel()
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def _live(self) -> None:
        while True:
            process = self._process = await self._start()
            probing = asyncio.create_task(self._probe(process))
            try:
                while process.returncode is None:  # noqa: ASYNC110 -- as a kubelet does
                    await asyncio.sleep(_RELIST_S)
            finally:
                probing.cancel()
            self.ready_since = None
            self.exits.append(process.returncode)
            self._tell(f"{self.address} ended by itself with {process.returncode}")

    async def _start(self) -> asyncio.subprocess.Process:
        environment = os.environ | self._plan.environment | {"FARTHING_HOST": self.address}
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "farthing", *self._plan.arguments,
                env=environment, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    async def _probe(self, process: asyncio.subprocess.Process) -> None:
        await self._until_fails(self._plan.startup, process, until_ok=True)
        async with asyncio.TaskGroup() as probes:
            probes.create_task(self._readiness())
            probes.create_task(self._until_fails(self._plan.liveness, process))

    async def _until_fails(
        self, probe: Probe, process: asyncio.subprocess.Process, *, until_ok: bool = False
    ) -> None:
        await asyncio.sleep(probe.delay_s)
        failed = 0
        while failed < probe.failures:
            if await passes(probe, self.address):
                failed = 0
                if until_ok:
                    return
            else:
                failed += 1
            await asyncio.sleep(probe.period_s)
        self.killed += 1
        self._tell(f"{self.address} is given up by its probe")
        process.kill()

    async def _readiness(self) -> None:
        probe, failed = self._plan.readiness, 0
        await asyncio.sleep(probe.delay_s)
        while True:
            failed = 0 if await passes(probe, self.address) else failed + 1
            if not failed and self.ready_since is None:
                self.ready_since = time.monotonic()
                self._tell(f"{self.address} is ready")
            elif failed >= probe.failures and self.ready_since is not None:
                self.ready_since = None
                self._tell(f"{self.address} is not ready")
            await asyncio.sleep(probe.period_s)


async def passes(probe: Probe, address: str) -> bool:
    """Ask once, over a connection of its own."""
    if probe.path:
        return await asyncio.to_thread(_http, f"http://{address}:{probe.port}{probe.path}", probe)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"{address}:{probe.port}", options) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=probe.service), timeout=probe.timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _http(url: str, probe: Probe) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=probe.timeout_s) as got:
            return int(got.status) < 400
    except (urllib.error.URLError, OSError):
        return False
