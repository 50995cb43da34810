"""A real server's bill adds up while callers leave, are refused and late, and models change."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from service import hardware
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.system.callers import figures
from tests.system.prometheus import prometheus, value
from tests.system.servers import Served, serving

KINDS = ("busy", "waste", "warm_up", "serving", "idle")
PRICE = ("--price-usd-per-hour", "0.17", "--price-id", "c6i.xlarge 2026-09-24")
CALLERS = 24
TICK_S = 0.011  # in which the kernel tells when a process began


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "models", 1)
    return tmp_path / "models"


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with serving(
        root, "--control", "repository", "--max-batch", "4", "--max-queue-rows", "32", *PRICE
    ) as server:
        yield server


def put(root: Path, version: int) -> None:
    """A model of some milliseconds a run, whole or not at all."""
    staged = models.classifier(root / f".{version}" / "model.onnx", seed=version)
    (root / "m").mkdir(exist_ok=True)
    staged.parent.rename(root / "m" / str(version))


def request(rows: int, value: float = 0.5) -> pb.ModelInferRequest:
    data = np.full((rows, 3, 24, 24), value, np.float32)
    asked = pb.ModelInferRequest(model_name="m", raw_input_contents=[data.tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=data.shape)
    return asked


def age_s(process: int) -> float:
    """Seconds since a process began, by the kernel's clock, in steps of 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s


@dataclass(frozen=True)
class Scrape:
    """What the metrics said, and between which ages of the process, by the test's clock."""

    core_s: dict[str, float]
    unsettled: float
    paid: float
    before_s: float
    after_s: float
    wall_s: float

    @property
    def sum(self) -> float:
        return sum(self.core_s.values()) + self.unsettled


def scrape(served: Served) -> Scrape:
    pid = served.process.pid
    before_s = age_s(pid)
    text = urllib.request.urlopen(served.metrics, timeout=20).read().decode()
    after_s = age_s(pid)

    def total(name: str, label: str = "") -> float:
        found = re.findall(rf"(?m)^{name}(?:\{{[^}}]*{label}[^}}]*\}})? (\S+)$", text)
        return sum(map(float, found))

    core_s = {kind: total("farthing_core_seconds_total", f'kind="{kind}"') for kind in KINDS}
    unsettled = total("farthing_unsettled_core_seconds")
    paid = total("farthing_paid_core_seconds_total")
    wall_s = time.time_ns() / 1e9 - total("process_start_time_seconds")
    return Scrape(core_s, unsettled, paid, before_s, after_s, wall_s)


def check(found: Scrape) -> None:
    """The sum is cores x age of the process: that by the kernel's clock, and by Prometheus'."""
    cores = hardware.cores()
    assert found.sum == pytest.approx(found.paid, rel=1e-6)
    assert cores * (found.before_s - TICK_S) <= found.sum <= cores * (found.after_s + TICK_S)
    # Prometheus is told the time of the boot in whole seconds.
    assert found.sum == pytest.approx(cores * found.wall_s, abs=cores * 1.5)
    assert min(*found.core_s.values(), found.unsettled) >= 0.0


class Crowd:
    """Callers of all manners: patient, hurried, gone before the answer, and too many of them."""

    def __init__(self, stub: GRPCInferenceServiceStub) -> None:
        self.stub, self.stop = stub, False
        self.endings: dict[str, int] = {}

    async def call(self, seed: int) -> None:
        drawn = random.Random(seed)
        while not self.stop:
            timeout_s = drawn.choice([20.0, 20.0, 0.004, 0.02, 0.05])
            call = self.stub.ModelInfer(request(drawn.choice([1, 2, 7, 16])), timeout=timeout_s)
            if drawn.random() < 0.3:
                await asyncio.sleep(drawn.uniform(0.0, 0.06))
                call.cancel()
            try:
                await call
                self.note("OK")
            except asyncio.CancelledError:
                self.note("CANCELLED")
            except grpc.aio.AioRpcError as error:
                self.note(error.code().name)

    def note(self, ending: str) -> None:
        self.endings[ending] = self.endings.get(ending, 0) + 1


@asynccontextmanager
async def crowd(served: Served) -> AsyncIterator[Crowd]:
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        made = Crowd(GRPCInferenceServiceStub(channel))
        async with asyncio.TaskGroup() as group:
            for seed in range(CALLERS):
                group.create_task(made.call(seed))
            try:
                yield made
            finally:
                made.stop = True


async def leave_until_something_is_wasted(served: Served) -> None:
    """With a request in eight parts, of which the first have run."""
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        for _ in range(200):
            call = GRPCInferenceServiceStub(channel).ModelInfer(request(32), timeout=20)
            await asyncio.sleep(0.01)
            call.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call
            found = await asyncio.to_thread(scrape, served)
            if found.core_s["waste"] > 0.0 and found.unsettled == 0.0:
                return
    raise AssertionError("nobody who left wasted anything")


async def test_sum_holds_while_callers_leave_are_refused_and_late_and_models_change(
    served: Served, root: Path
) -> None:
    scrapes = [await asyncio.to_thread(scrape, served)]
    async with crowd(served) as callers:
        for version in (2, 3):
            await asyncio.sleep(1.0)
            put(root, version)
            wanted = pb.RepositoryModelLoadRequest(model_name="m")
            await callers.stub.RepositoryModelLoad(wanted, timeout=60)
            scrapes += [await asyncio.to_thread(scrape, served) for _ in range(3)]
    await leave_until_something_is_wasted(served)
    scrapes.append(scrape(served))
    ended = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert ended <= callers.endings.keys(), callers.endings
    for found in scrapes:
        check(found)
    for before, after in itertools.pairwise(scrapes):
        for kind in KINDS:
            assert after.core_s[kind] >= before.core_s[kind], f"{kind} fell"
    last = scrapes[-1]
    for kind in KINDS:
        assert last.core_s[kind] > scrapes[0].core_s[kind], kind
    assert last.unsettled == pytest.approx(0.0, abs=1e-9), "somebody never paid"
    for version in ("1", "2", "3"):  # those that are gone keep their lines
        lines = figures(served, model="m", version=version, kind="warm_up")
        assert lines["farthing_core_seconds_total"] > 0.0


async def trailing(served: Served, rows: int) -> dict[str, str]:
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        call = GRPCInferenceServiceStub(channel).ModelInfer(request(rows), timeout=20)
        await call
        return {key: str(value) for key, value in await call.trailing_metadata()}


async def test_client_is_told_what_its_answer_cost_where_that_is_switched_on(root: Path) -> None:
    with serving(root, "--cost-metadata", *PRICE) as served:
        small, large = await trailing(served, 1), await trailing(served, 16)
        busy = figures(served, kind="busy")["farthing_core_seconds_total"]
    costs = [float(told["farthing-core-seconds"]) for told in (small, large)]
    assert costs[1] > costs[0] > 0.0
    assert sum(costs) == pytest.approx(busy, rel=0.2)  # scaled where the front end was in the way
    for told, core_s in zip((small, large), costs, strict=True):
        usd = core_s * 0.17 / 3600 / hardware.cores()
        assert float(told["farthing-cost-usd"]) == pytest.approx(usd, rel=1e-4)


async def test_client_is_told_no_price_that_is_unknown_and_nothing_unless_switched_on(
    root: Path,
) -> None:
    with serving(root, "--cost-metadata") as served:
        assert {key for key in await trailing(served, 1) if key.startswith("farthing")} == {
            "farthing-core-seconds"
        }
        assert "farthing_price_usd_per_hour" not in figures(served)
    with serving(root, *PRICE) as served:
        assert not [key for key in await trailing(served, 1) if key.startswith("farthing")]
        told = figures(served, price="c6i.xlarge 2026-09-24")
        assert told["farthing_price_usd_per_hour"] == 0.17


SUM = (
    "(sum(farthing_core_seconds_total) + sum(farthing_unsettled_core_seconds))"
    " / sum(farthing_paid_core_seconds_total)"
)
# As README tells it, over a shorter time.
GOOD = '(sum(rate(farthing_goodput_requests_total{good="true"}[2s])) > 0)'
USD = (
    "sum(rate(farthing_paid_core_seconds_total[2s]) / on(instance) farthing_cores"
    " * on(instance) farthing_price_usd_per_hour) / 3600"
)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not there")
async def test_sum_and_the_price_of_a_good_answer_are_visible_in_prometheus(
    served: Served, tmp_path: Path
) -> None:
    with prometheus(served, tmp_path) as address:
        async with crowd(served):
            ratios: list[float] = []
            for _ in range(200):
                await asyncio.sleep(0.1)
                found = await asyncio.to_thread(value, address, SUM)
                ratios += [] if found is None else [found]
                if len(ratios) >= 20:
                    break
        bill, per_million = value(address, USD), value(address, f"1e6 * {USD} / {GOOD}")
    assert bill == pytest.approx(0.17 / 3600, rel=0.1)  # the rate of a clock
    assert per_million is not None and per_million > 0.0
    assert len(ratios) >= 20
    assert max(abs(ratio - 1.0) for ratio in ratios) < 0.001
