"""The suite of small requests: what a server does to 16 bytes besides running the model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from loadtests.bench import calls, generator, h2load, nets, peers, servers
from loadtests.bench.bare import Bare
from loadtests.bench.results import Figure

_ROUNDS = 7
_ROUND_S = 1.5
_FEW, _CROWD, _DEADLINE_S = 32, 256, 0.1
_CROWD_ROUNDS, _CROWD_S = 3, 2.0
_WIDTH = 4  # float32: 16 bytes
_GOALS = (
    (servers.NOOP, "the no-op", ">= 0.6"),
    (peers.MLSERVER.label, peers.MLSERVER.label, ">= 2.0"),
    (peers.MLSERVER_INLINE.label, peers.MLSERVER_INLINE.label, ">= 2.0"),
    (peers.PYTRITON.label, peers.PYTRITON.label, ""),
)
_SHORT = {label: short for label, short, _ in _GOALS}


def small(directory: Path) -> list[Figure]:
    """16-byte requests of h2load, 4 connections x 8 streams, beside the no-op and the peers."""
    h2load.program()  # before anything is started
    row = calls.random_row(_WIDTH)
    graph = nets.dense(servers.place(directory), width=_WIDTH)
    lost: list[Figure] = []
    with ExitStack() as stack:
        running = [
            stack.enter_context(servers.farthing(directory / "models")),
            stack.enter_context(servers.noop(calls.answer(row), directory)),
        ]
        for one in peers.ALL:
            try:
                running.append(stack.enter_context(servers.peer(one, graph, directory)))
            except peers.PeerMissing as error:
                lost.append(servers.missing(one, error))
        message = calls.request(servers.MODEL, row)
        rates = _measured(running, message, directory)
        crowded = _crowded(running[:2], message)
    bare_s = Bare(graph, row, batches=(1,)).median_s(seconds=0.5)
    return [
        Figure("bare ONNX Runtime in a loop", f"{1 / bare_s:.0f} runs/s"),
        *(Figure(label, f"{statistics.median(seen):.0f}/s") for label, seen in rates.items()),
        *(
            Figure(f"farthing over {short}", f"{_over(rates, label):.2f}", goal)
            for label, short, goal in _GOALS
            if label in rates
        ),
        *crowded,
        *lost,
        *servers.legend(peers.ALL),
    ]


def _crowded(running: Sequence[servers.Server], message: bytes) -> list[Figure]:
    """What callers leave of a server's good answers who are more than can be answered in time.

    Offered ten times what it can do is out of reach: our generator shares its cores, and costs more
    than a call does, so the no-op beside it tells what of this is the generator's own. Who is
    refused here calls again at once, which takes the server's CPU too.
    """
    ratios: dict[str, list[float]] = {one.label: [] for one in running}
    for _ in range(_CROWD_ROUNDS):
        for one in running:
            few = generator.closed(one.target, message, callers=_FEW, seconds=_CROWD_S)
            many = generator.closed(
                one.target, message, callers=_CROWD, seconds=_CROWD_S, deadline_s=_DEADLINE_S
            )
            ratios[one.label].append(many.answers_per_s / few.answers_per_s)
    what = (
        f"share of {_FEW} callers' good answers kept with {_CROWD} callers and "
        f"{_DEADLINE_S * 1e3:.0f} ms deadlines"
    )
    return [
        Figure(f"{what}: {_SHORT.get(label, label)}", f"{statistics.median(seen):.2f}")
        for label, seen in ratios.items()
    ]


def _over(rates: dict[str, list[float]], label: str) -> float:
    """The median of the ratios of rounds that came after each other."""
    pairs = zip(rates[servers.FARTHING], rates[label], strict=True)
    return statistics.median(ours / other for ours, other in pairs)


def _measured(
    running: list[servers.Server], message: bytes, directory: Path
) -> dict[str, list[float]]:
    """Requests per second of each, round by round, one round of each after the other."""
    drivers = {
        one.label: h2load.Driver(one.target, message, directory, label=one.label) for one in running
    }
    rates: dict[str, list[float]] = {label: [] for label in drivers}
    for number in range(_ROUNDS + 2):
        for label, driver in drivers.items():
            measured = driver.round(_ROUND_S)
            if number >= 2:  # the first learns how much to send, the second warms up
                rates[label].append(measured.rate)
    return rates
