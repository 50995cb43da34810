"""Suites of the server: what our code adds to gRPC's own, and what reloads leave behind."""

from __future__ import annotations

import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np

from loadtests import processes
from loadtests.bench import nets
from loadtests.bench.results import Figure
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

_WIDTH = 150_000  # float32: 600 KB
_CALLS = 600
_RELOADS = 20
_DENSE = 5_000  # x 5,000 float32: 100 MB
_OPTIONS = [("grpc.max_receive_message_length", 2**27), ("grpc.max_send_message_length", 2**27)]


def echo(directory: Path) -> list[Figure]:
    """A 600 KB tensor there and back, beside a bare echo of the same bytes."""
    nets.identity(directory / "models" / "same" / "1" / "model.onnx", width=_WIDTH)
    log = directory / "log.txt"
    request = _request("same", _WIDTH)
    with (
        processes.serving(directory / "models", variant="auto", log=log) as endpoint,
        _echoing(log) as bare,
        _stub(endpoint.target) as ours,
        _stub(bare) as echoed,
    ):
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for number in range(_CALLS):
            for name, stub in (("ours", ours), ("bare", echoed)):
                begun = time.perf_counter()
                stub.ModelInfer(request)
                if number >= _CALLS // 10:
                    times[name].append(time.perf_counter() - begun)
    served, plain = (statistics.median(times[name]) * 1e3 for name in ("ours", "bare"))
    return [
        Figure("bare echo of 600 KB on gRPC, median", f"{plain:.2f} ms"),
        Figure("served by an identity model, median", f"{served:.2f} ms"),
        Figure("served over bare", f"{served / plain:.2f}", "<= 1.15"),
    ]


def reload(directory: Path) -> list[Figure]:
    """Twenty reloads of a 100 MB model under load: memory, and requests that failed."""
    models = directory / "models"
    file = nets.dense(directory / "dense.onnx", width=_DENSE)
    _place(file, models, 1)
    levels: list[float] = []
    load = _Load(_request("dense", _DENSE))
    options = ("--control", "repository")
    log = directory / "log.txt"
    with (
        processes.serving(models, variant="auto", log=log, options=options) as endpoint,
        _stub(endpoint.target) as stub,
        load.running(stub),
    ):
        for version in range(2, _RELOADS + 2):
            _place(file, models, version)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="dense"))
            shutil.rmtree(models / "dense" / str(version - 1))
            time.sleep(0.5)  # under load, and for the old one to finish
            levels.append(resident_mb(endpoint.metrics_port))
    return [
        Figure("resident after the first reload", f"{levels[0]:.0f} MB"),
        Figure(f"resident after {_RELOADS}", f"{levels[-1]:.0f} MB"),
        Figure("the last over the first", f"{levels[-1] / levels[0]:.2f}", "<= 1.10"),
        Figure("the highest after any", f"{max(levels):.0f} MB"),
        Figure("requests meanwhile", str(load.answered)),
        Figure("of them failed", str(len(load.failed)), "0"),
        Figure("the slowest of them", f"{load.slowest_s * 1e3:.0f} ms"),
    ]


class _Load:
    """One caller after another, on a thread."""

    def __init__(self, request: pb.ModelInferRequest) -> None:
        self.answered, self.slowest_s, self.failed = 0, 0.0, list[str]()
        self._request, self._stop = request, threading.Event()

    @contextmanager
    def running(self, stub: GRPCInferenceServiceStub) -> Iterator[None]:
        thread = threading.Thread(target=self._call, args=(stub,))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _call(self, stub: GRPCInferenceServiceStub) -> None:
        while not self._stop.is_set():
            begun = time.perf_counter()
            try:
                stub.ModelInfer(self._request, timeout=30)
                self.answered += 1
            except grpc.RpcError as error:
                self.failed.append(str(error))
            self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)


def _place(file: Path, models: Path, version: int) -> None:
    """Put a version into the repository, whole or not at all."""
    staged = models / f".staged-{version}"
    staged.mkdir(parents=True)
    shutil.copy(file, staged / "model.onnx")
    (models / "dense").mkdir(exist_ok=True)
    staged.rename(models / "dense" / str(version))


def _request(model: str, width: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, width])
    request.raw_input_contents.append(np.random.default_rng(0).random(width, np.float32).tobytes())
    return request


@contextmanager
def _stub(target: str) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        yield GRPCInferenceServiceStub(channel)


@contextmanager
def _echoing(log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "loadtests.bench.echo"]
    with processes.started(command, log=log) as process:
        assert process.stdout is not None  # it does not write to the screen
        yield f"127.0.0.1:{int(process.stdout.readline())}"


def resident_mb(metrics_port: int) -> float:
    """Resident memory of a server of ours, as its metrics tell it."""
    text = urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10).read().decode()
    line = next(
        line for line in text.splitlines() if line.startswith("process_resident_memory_bytes ")
    )
    return float(line.split()[1]) / 2**20
