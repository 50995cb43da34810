"""The whole drill: a Deployment acted out, callers beside it, and what became of their calls."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests import models
from tests.drill.deployment import Deployment
from tests.drill.figures import Outcome, Phase, rows, under_way
from tests.drill.kubelet import Tell
from tests.drill.names import NAME, naming
from tests.drill.rendered import Plan
from tests.k8s.rendering import K8S, overlay

BEFORE, UPDATE, AFTER, KILL = "before", "rolling update", "after", "a replica is killed"
SHIPPED, ROUND_ROBIN, DEFAULT = "k8s/client's config", "round robin only", "gRPC's defaults"
_STEADY_S = 18.0
_RATE = 30.0


def configs() -> dict[str, dict[str, Any]]:
    """Service configs of the clients: what we ship, and two with neither health nor retries."""
    shipped = json.loads((K8S / "client" / "service-config.json").read_text(encoding="utf-8"))
    return {
        SHIPPED: shipped,
        ROUND_ROBIN: {"loadBalancingConfig": [{"round_robin": {}}]},
        DEFAULT: {},
    }


async def drill(scratch: Path, *, tell: Tell, name: str = "cpu") -> Outcome:
    """Act out an overlay's Deployment: steady load, a rolling update, steady, a kill.

    Args:
        scratch: an empty directory, for the model and the logs.
        tell: is told what happens.
        name: of the overlay.

    Raises:
        CannotRender: kubectl is missing, or too old.
        TimeoutError: a pod did not become ready, or available.
    """
    models.double(scratch / "models" / "double" / "1" / "model.onnx")
    plan = Plan.of(overlay(name), models=str(scratch / "models"))
    deployment = Deployment(plan, scratch, tell)
    phases: list[Phase] = []
    killing: list[float] = []
    try:
        await deployment.begin()
        async with naming(deployment.ready) as dns, _calling(dns, plan) as told:
            await _phase(phases, BEFORE, asyncio.sleep(_STEADY_S))
            await _phase(phases, UPDATE, deployment.update())
            await _phase(phases, AFTER, asyncio.sleep(_STEADY_S))
            await _phase(phases, KILL, _killing(deployment, killing))
    finally:
        await deployment.end()
    calls = {kind: [tuple(call) for call in seen["calls"]] for kind, seen in told.items()}
    void = {kind: seen["void"] for kind, seen in told.items() if seen["void"]}
    pods = (*deployment.gone, *deployment.pods)
    return Outcome(
        rows=rows(phases, calls, void),
        void=void,
        open_at_kill={kind: under_way(*killing, made) for kind, made in calls.items()},
        exits={each.address: each.exits for each in pods},
        killed=[each.address for each in pods if each.killed],
    )


async def _killing(deployment: Deployment, when: list[float]) -> None:
    when.append(time.monotonic())
    await deployment.kill_one()
    when.append(time.monotonic())
    await deployment.recovered()
    await asyncio.sleep(_STEADY_S)


async def _phase(phases: list[Phase], name: str, work: Any) -> None:
    begin = time.monotonic()
    await work
    phases.append(Phase(name, begin, time.monotonic()))


@asynccontextmanager
async def _calling(dns: int, plan: Plan) -> AsyncIterator[dict[str, Any]]:
    """Callers until the end of the block; what they saw is filled in then."""
    told: dict[str, Any] = {}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.drill.load",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    asked = {
        "target": f"dns://127.0.0.1:{dns}/{NAME}:{plan.grpc_port}",
        "rate": _RATE,
        "configs": configs(),
    }
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    try:
        yield told
        said, _ = await process.communicate(b"")  # which ends its standard input
        told.update(json.loads(said))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
