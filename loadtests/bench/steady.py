"""Suites below the capacity: latency at half of it, and what spinning costs and saves."""

from __future__ import annotations

import statistics
from pathlib import Path

from loadtests.bench import calls, endings, generator, nets, servers
from loadtests.bench.bare import Bare
from loadtests.bench.results import Figure
from loadtests.histogram import Histogram
from loadtests.observed import Observed

_CALLERS = 8
_REQUESTS = 1000  # a p99 needs 662 with one beyond, at 99 % confidence
_PATIENT_S = 10.0
_ROUNDS = 3
_ROUND_S = 4.0
_SPARSE = 10.0  # requests per second


def half(directory: Path) -> list[Figure]:
    """p99 at half of closed-loop capacity, Poisson, over the batch-1 run on the same threads."""
    row = calls.random_row(3, nets.SIDE, nets.SIDE)
    graph = servers.conv_30(directory)
    message = calls.request(servers.MODEL, row)
    session = Bare(graph, row, batches=(1,))
    runs_s, rates, outcomes = list[float](), list[float](), list[Observed]()
    with servers.farthing(directory / "models") as server:
        for seed in range(1, _ROUNDS + 1):
            runs_s.append(session.median_s(seconds=2.0))
            seen = generator.closed(server.target, message, callers=_CALLERS, seconds=_ROUND_S)
            rates.append(seen.answers_per_s)
            rate = seen.answers_per_s / 2
            outcomes += generator.open_loop(
                generator.stream(
                    server.target,
                    message,
                    rate,
                    seconds=_REQUESTS / _ROUNDS / rate,
                    deadline_s=_PATIENT_S,
                    seed=seed,
                )
            )
    # All rounds in one: a p99 of a third of the requests would be a matter of luck.
    latencies, ratios = Histogram(), Histogram()
    for seen, run_s in zip(outcomes, runs_s, strict=True):
        latencies.merge(seen.latency)
        for taken_s, number in seen.latency.values():
            for _ in range(number):
                ratios.add(taken_s / run_s)
    middle, high = (1e3 * (latencies.at(p) or 0.0) for p in (50, 99))
    by_round = (1e3 * (seen.latency.at(99) or 0.0) for seen in outcomes)
    run_ms = statistics.median(runs_s) * 1e3
    over = f"{ratios.at(99) or 0.0:.1f}x"
    return [
        Figure("batch-1 run, bare ONNX Runtime, median", f"{run_ms:.1f} ms"),
        Figure(f"capacity, closed loop of {_CALLERS} callers", f"{statistics.median(rates):.1f}/s"),
        Figure(f"median of {len(latencies)} at half of it", f"{middle:.0f} ms"),
        Figure("p99 of each round", " / ".join(f"{each:.0f}" for each in by_round) + " ms"),
        Figure("p99 of all", f"{high:.0f} ms"),
        Figure("p99 over the run of its round", endings.marked(over, *outcomes), "<= 6x"),
        Figure("not answered in 10 s", "; ".join(endings.others(outcome) for outcome in outcomes)),
    ]


def spinning(directory: Path) -> list[Figure]:
    """With and without --spin: throughput, and CPU per request when requests are sparse."""
    row = calls.random_row(3, nets.SIDE, nets.SIDE)
    nets.convolutional(servers.place(directory))
    message = calls.request(servers.MODEL, row)
    rates: dict[str, list[float]] = {"--no-spin": [], "--spin": []}
    cpu_ms: dict[str, list[float]] = {flag: [] for flag in rates}
    for _ in range(_ROUNDS):
        for flag in ("--no-spin", "--spin"):
            with servers.farthing(directory / "models", flag) as server:
                seen = generator.closed(server.target, message, callers=_CALLERS, seconds=_ROUND_S)
                rates[flag].append(seen.answers_per_s)
                before = server.cpu_s()
                stream = generator.stream(
                    server.target, message, _SPARSE, seconds=_ROUND_S, deadline_s=_PATIENT_S
                )
                (outcome,) = generator.open_loop(stream)
                spent = (server.cpu_s() - before) / outcome.answers
                cpu_ms[flag].append(spent * 1e3)
    figures = [
        Figure(f"{_CALLERS} callers, {flag}", f"{statistics.median(seen):.0f}/s")
        for flag, seen in rates.items()
    ]
    figures += [
        Figure(f"CPU of a request at {_SPARSE:.0f}/s, {flag}", f"{statistics.median(seen):.1f} ms")
        for flag, seen in cpu_ms.items()
    ]
    gain, cost = (
        statistics.median(seen["--spin"]) / statistics.median(seen["--no-spin"])
        for seen in (rates, cpu_ms)
    )
    return [
        *figures,
        Figure("throughput with --spin over without", f"{gain:.2f}"),
        Figure("CPU of a sparse request with --spin over without", f"{cost:.2f}"),
    ]
