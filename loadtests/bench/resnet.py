"""The suite of a large model: what 600 KB a call cost beside a run of tens of milliseconds."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from loadtests.bench import calls, generator, resnet50, servers
from loadtests.bench.bare import Bare
from loadtests.bench.results import Figure

_BATCHES = (1, 4, 8, 16)
_CALLERS = 16
_ROUNDS = 3
_ROUND_S = 8.0
_CALLS = 60


def resnet(directory: Path) -> list[Figure]:
    """ResNet50 (random weights) and 600 KB a row: 16 callers and one, beside bare ONNX Runtime."""
    graph = resnet50.write(servers.place(directory))
    row = calls.random_row(*resnet50.SHAPE)
    session = Bare(graph, row, batches=_BATCHES)
    with (
        servers.farthing(directory / "models") as server,
        servers.noop(calls.answer(calls.random_row(1000)), directory) as floor,
    ):
        message = calls.request(servers.MODEL, row)
        return [
            *_throughput(session, server, message),
            *_latency(session, server, floor, message),
        ]


def _throughput(session: Bare, server: servers.Server, message: bytes) -> list[Figure]:
    best, _ = session.best(seconds=_ROUND_S)
    bare, served = [], []
    for _ in range(_ROUNDS):
        bare.append(best / session.median_s(seconds=_ROUND_S / 2, batch=best))
        seen = generator.closed(server.target, message, callers=_CALLERS, seconds=_ROUND_S)
        served.append(seen.answers_per_s)
    ratio = statistics.median(ours / ceiling for ours, ceiling in zip(served, bare, strict=True))
    return [
        Figure(f"bare ONNX Runtime, best batch ({best})", f"{statistics.median(bare):.1f} rows/s"),
        Figure(f"served, {_CALLERS} callers", f"{statistics.median(served):.1f} rows/s"),
        Figure("served over bare", f"{ratio:.2f}", ">= 0.92"),
    ]


def _latency(
    session: Bare, server: servers.Server, floor: servers.Server, message: bytes
) -> list[Figure]:
    """One call of each after the other, so that whatever slows one slows all."""
    times: dict[str, list[float]] = {"bare": [], "floor": [], "served": []}
    with (
        generator.blocking(floor.target) as empty,
        generator.blocking(server.target) as infer,
    ):
        for number in range(_CALLS + 5):
            taken = {"bare": session.run_s()}
            for name, call in (("floor", empty), ("served", infer)):
                begun = time.perf_counter()
                call(message)
                taken[name] = time.perf_counter() - begun
            if number >= 5:
                for name, seconds in taken.items():
                    times[name].append(seconds)
    bare, empty_ms, served = (statistics.median(times[name]) * 1e3 for name in times)
    return [
        Figure("bare run of one row, median", f"{bare:.2f} ms"),
        Figure("no-op that receives the same bytes, 1 caller, median", f"{empty_ms:.2f} ms"),
        Figure("served, 1 caller, median", f"{served:.2f} ms"),
        Figure("served beyond the no-op", f"{served - empty_ms:.2f} ms", f"<= {bare + 0.5:.2f} ms"),
    ]
