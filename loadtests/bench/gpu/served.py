"""The server on that device: its rates and its latencies, over the wire and by shared memory."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np

from loadtests import processes
from loadtests.bench import servers, steps
from loadtests.bench.gpu import graphs
from loadtests.bench.gpu.caller import Order
from loadtests.bench.gpu.places import Place
from loadtests.observed import Observed
from service.proto import inference_pb2 as pb

_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
_READY_S = 120.0  # graphs are recorded, and their algorithms searched, before the ports open
_REGION = "rows"
_REGISTER = "/inference.GRPCInferenceService/SystemSharedMemoryRegister"
_SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        rows: of one call.
        callers: each with one call at a time; 0 for an open loop.
        rate: rows per second of an open loop.
        shared: whether the rows lie in system shared memory, so that calls carry next to nothing.
        seconds: how long.
        deadline_s: of each call.
    """

    rows: int = 1
    callers: int = 0
    rate: float = 0.0
    shared: bool = False
    seconds: float = 4.0
    deadline_s: float = 60.0

    def __str__(self) -> str:
        """As a table calls it."""
        way = "shared memory" if self.shared else "wire"
        if not self.callers:
            return f"open loop, {self.rate:.0f} rows/s in calls of {self.rows}, {way}"
        return f"closed loop, {self.callers} callers x {self.rows} rows, {way}"


@dataclass(frozen=True)
class Seen:
    """What a load came to: how its calls ended, and what the device used meanwhile."""

    load: Load
    calls: Observed
    joules: float | None

    @property
    def rows_per_s(self) -> float:
        """Rows that were answered."""
        return self.load.rows * self.calls.answers_per_s

    @property
    def good_rows_per_s(self) -> float:
        """Rows that were answered in time."""
        return self.load.rows * self.calls.good_per_s

    @property
    def joules_per_row(self) -> float | None:
        """Of the whole device, idle power included; None where nothing was measured or answered."""
        rows = self.load.rows * self.calls.answers
        return None if self.joules is None or not rows else self.joules / rows


@dataclass(frozen=True)
class Rig:
    """A server that is measured.

    Attributes:
        server: ours.
        place: where it runs.
        directory: for messages and logs.
        rows: one row of its model's input.
        generators: processes that send.
        ahead_s: what a generator needs to start.
        warm_s: of closed loops, uncounted.
    """

    server: servers.Server
    place: Place
    directory: Path
    rows: np.ndarray[Any, Any]
    generators: int
    ahead_s: float
    warm_s: float

    def seen(self, load: Load) -> Seen:
        """Send this load from all generators, and add up what they saw."""
        steps.begun(f"served: {load}")
        file = self.directory / f"message-{load.rows}-{load.shared}.bin"
        if not file.exists():
            file.write_bytes(message(self.rows, load))
        begin = time.monotonic() + self.ahead_s
        order = Order(
            self.server.target, str(file), load.seconds,
            deadline_s=load.deadline_s, begin_at=begin, warm_s=self.warm_s if load.callers else 0,
        )  # fmt: skip
        with ExitStack() as stack:
            running = [
                stack.enter_context(processes.started(command, log=self.directory / "calls.txt"))
                for command in map(_command, shares(order, load, self.generators))
            ]
            _until(begin + order.warm_s)
            before = self.place.joules()
            _until(begin + order.warm_s + load.seconds)
            after = self.place.joules()
            told = [process.communicate()[0] for process in running]
        calls = Observed.from_dict(_read(told[0], self.directory))
        for each in told[1:]:
            calls.merge(Observed.from_dict(_read(each, self.directory)))
        joules = None if before is None or after is None else after - before
        return Seen(load, calls, joules)


@contextmanager
def rig(
    graph: Path, place: Place, *, options: tuple[str, ...] = (), generators: int, ahead_s: float,
    warm_s: float, most_rows: int,
) -> Iterator[Rig]:  # fmt: skip
    """Serve one graph there until the context ends.

    Args:
        graph: in a repository, ``.../models/NAME/1/model.onnx``.
        place: where it runs.
        options: more of `farthing serve`.
        generators: processes that will send.
        ahead_s: what one needs to start.
        warm_s: of closed loops, uncounted.
        most_rows: the largest call.
    """
    models = graph.parents[2]
    always = ("--control", "shared-memory", "--max-queue-rows", "4096", "--max-calls", "4096")
    with (
        servers.farthing(models, *place.serve(), *always, *options, ready_s=_READY_S) as server,
        _shared(server.target, graphs.rows(graph, most_rows)),
    ):
        yield Rig(server, place, models.parent, graphs.rows(graph, 1), generators, ahead_s, warm_s)


def message(row: np.ndarray[Any, Any], load: Load) -> bytes:
    """One call of that load for the model that is served, as bytes."""
    request = pb.ModelInferRequest(model_name=servers.MODEL)
    tensor = request.inputs.add(
        name="x", datatype=_DATATYPES[row.dtype.name], shape=(load.rows, *row.shape[1:])
    )
    if load.shared:
        tensor.parameters["shared_memory_region"].string_param = _REGION
        tensor.parameters["shared_memory_byte_size"].int64_param = load.rows * row.nbytes
    else:
        request.raw_input_contents.append(np.repeat(row, load.rows, axis=0).tobytes())
    return request.SerializeToString()


def shares(order: Order, load: Load, generators: int) -> list[Order]:
    """One order for each generator; Poisson arrivals of several are Poisson arrivals together."""
    if not load.callers:
        rate = load.rate / load.rows / generators
        return [replace(order, rate=rate, seed=seed) for seed in range(1, generators + 1)]
    of_them = min(generators, load.callers)
    callers = [math.ceil((load.callers - number) / of_them) for number in range(of_them)]
    return [replace(order, callers=each) for each in callers]


@contextmanager
def _shared(target: str, rows: np.ndarray[Any, Any]) -> Iterator[None]:
    """Put these rows where the server may read them, and tell it."""
    file = _SHARED / f"farthing-check-{uuid4().hex}"
    file.write_bytes(rows.tobytes())
    try:
        with grpc.insecure_channel(target) as channel:
            register = channel.unary_unary(
                _REGISTER,
                request_serializer=pb.SystemSharedMemoryRegisterRequest.SerializeToString,
                response_deserializer=pb.SystemSharedMemoryRegisterResponse.FromString,
            )
            register(
                pb.SystemSharedMemoryRegisterRequest(
                    name=_REGION, key=f"/{file.name}", offset=0, byte_size=rows.nbytes
                ),
                timeout=30,
            )
        yield
    finally:
        file.unlink()


def _command(order: Order) -> list[str]:
    return [sys.executable, "-m", "loadtests.bench.gpu.caller", order.to_text()]


def _until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _read(told: bytes, directory: Path) -> dict[str, Any]:
    if not told:
        log = (directory / "calls.txt").read_text(encoding="utf-8").strip().splitlines()
        raise processes.ChildFailed(f"a generator ended early: {log[-1] if log else 'no word'}")
    return dict(json.loads(told))
