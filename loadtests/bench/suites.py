"""The suites by name, and those of start and serving that need no file of their own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loadtests import load, processes
from loadtests.bench import (
    neighbours,
    nets,
    overload,
    planned,
    resnet,
    small,
    steady,
    variants,
    versus,
    wire,
)
from loadtests.bench.results import Figure
from service.session import Session, SessionOptions

_BARE = (
    "import sys; from pathlib import Path; from service.session import Session, SessionOptions\n"
    "session = Session(Path(sys.argv[1]), SessionOptions()); session.warm_up(1, 16)\n"
    "print(open('/proc/self/status').read())"
)


def start(directory: Path) -> list[Figure]:
    """Start to ready, and memory, beside a bare process with the same session."""
    model = nets.convolutional(directory / "models" / "net" / "1" / "model.onnx")
    log, imports, readies, memory = directory / "log.txt", [], [], 0.0
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import onnxruntime"], check=True)
        imports.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with processes.serving(directory / "models", variant="auto", log=log) as endpoint:
            readies.append(time.perf_counter() - begun)
            memory = wire.resident_mb(endpoint.metrics_port)
    bare = subprocess.run(
        [sys.executable, "-c", _BARE, str(model)], check=True, capture_output=True, text=True
    )
    bare_mb = next(
        int(line.split()[1]) / 1024 for line in bare.stdout.splitlines() if "VmRSS" in line
    )
    beyond = statistics.median(readies) - statistics.median(imports)
    return [
        Figure("import onnxruntime", f"{statistics.median(imports):.2f} s"),
        Figure("start to ready, beyond that import", f"{beyond:.2f} s", "<= 1.0 s"),
        Figure("a bare process with the same session", f"{bare_mb:.0f} MB"),
        Figure("the server, beyond that", f"{memory - bare_mb:.0f} MB", "<= 60 MB"),
    ]


def serving(directory: Path) -> list[Figure]:
    """A conv net served, beside bare ONNX Runtime in a loop; generator on the same cores."""
    path = nets.convolutional(directory / "models" / "net" / "1" / "model.onnx")
    bare_ms, bare_rate = _bare(path)
    log = directory / "log.txt"
    with processes.serving(directory / "models", variant="auto", log=log) as endpoint:
        plan = load.Plan(endpoint.target, "net", users=1, seconds=6)
        alone = load.run(plan, log=log)
        together = load.run(
            load.Plan(endpoint.target, "net", users=16, seconds=8, warmup_s=2), log=log
        )
    median = alone.percentile_ms(50) or 0.0
    return [
        Figure("bare ONNX Runtime, one row", f"{bare_ms:.2f} ms"),
        Figure("bare ONNX Runtime, best batch", f"{bare_rate:.0f} rows/s"),
        Figure("served, 1 caller, median", f"{median:.2f} ms"),
        Figure(
            "served, 16 callers (Locust on the same cores)", f"{together.answers_per_s:.0f} rows/s"
        ),
        Figure("served over bare, 16 callers", f"{together.answers_per_s / bare_rate:.2f}"),
    ]


def _bare(path: Path) -> tuple[float, float]:
    """Median milliseconds of one row, and rows per second at the best batch."""
    session = Session(path, SessionOptions())
    best, single = 0.0, 0.0
    for batch in (1, 4, 8, 16):
        rows = np.random.default_rng(0).random((batch, 3, nets.SIDE, nets.SIDE), np.float32)
        session.run({"x": rows})
        times = []
        for _ in range(max(20, 200 // batch)):
            begun = time.perf_counter()
            session.run({"x": rows})
            times.append(time.perf_counter() - begun)
        middle = statistics.median(times)
        single = middle * 1e3 if batch == 1 else single
        best = max(best, batch / middle)
    return single, best


# These show themselves while they run; two displays cannot share a screen.
WATCHED = frozenset({"versus"})
# Serving first, so that a run that is broken off has the figures that most people want.
SUITES: dict[str, Callable[[Path], list[Figure]]] = {
    "versus": versus.versus,
    "small": small.small,
    "resnet": resnet.resnet,
    "overload": overload.overload,
    "overload-resnet": overload.overload_resnet,
    "half": steady.half,
    "neighbour": neighbours.neighbour,
    "refusal": neighbours.refusal,
    "spinning": steady.spinning,
    "start": start,
    "serving": serving,
    "plan": planned.plan,
    "echo": wire.echo,
    "reload": wire.reload,
    "int8": variants.int8,
    "encoder": variants.encoder,
    "pruned": variants.pruned,
    "digits": variants.digits,
    "damaged": variants.damaged,
    "conversion": variants.conversion,
}
