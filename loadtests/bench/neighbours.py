"""Suites of a model under siege: what its neighbour feels, and what a refusal costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.bench import calls, endings, generator, nets, servers
from loadtests.bench.results import Figure
from loadtests.observed import Observed

_DEADLINE_S = 0.4
_SECONDS = 12.0
_ROUNDS = 2
_CALLERS = 8
_QUARTER = 0.25
_OVERLOAD = 10.0
_TURNS, _TURN_S = 3, 4.0


def neighbour(directory: Path) -> list[Figure]:
    """Goodput of a model at a quarter of capacity, alone and beside one overloaded ten times."""
    for name in ("calm", "stormy"):
        nets.convolutional(servers.place(directory, name), channels=256, blocks=6)
    row = calls.random_row(3, nets.SIDE, nets.SIDE)
    calm, stormy = (calls.request(name, row) for name in ("calm", "stormy"))
    alone, beside, storms = list[Observed](), list[Observed](), list[Observed]()
    with servers.farthing(directory / "models") as server:
        capacity = generator.closed(
            server.target, calm, callers=_CALLERS, seconds=_SECONDS / 2
        ).answers_per_s
        for seed in range(1, _ROUNDS + 1):
            quiet = generator.stream(
                server.target, calm, _QUARTER * capacity, seconds=_SECONDS,
                deadline_s=_DEADLINE_S, seed=seed,
            )  # fmt: skip
            storm = generator.stream(
                server.target, stormy, _OVERLOAD * capacity, seconds=_SECONDS,
                deadline_s=_DEADLINE_S, seed=seed + 100,
            )  # fmt: skip
            alone += generator.open_loop(quiet)
            together = generator.open_loop(quiet, storm)
            beside.append(together[0])
            storms.append(together[1])
    good, good_beside, good_storm = (
        sum(outcome.good_per_s for outcome in seen) / _ROUNDS for seen in (alone, beside, storms)
    )
    text = endings.marked(f"{good_beside / good:.2f}", *alone, *beside, *storms)
    lost = "; ".join(endings.others(outcome) for outcome in beside)
    return [
        Figure(f"capacity of either model, closed loop of {_CALLERS} callers", f"{capacity:.1f}/s"),
        Figure("good answers of a model offered a quarter of it, alone", f"{good:.2f}/s"),
        Figure("the same beside a model offered ten times of it", f"{good_beside:.2f}/s"),
        Figure("beside over alone", text, ">= 0.9"),
        Figure("its other calls then", lost),
        Figure("good answers of the overloaded model", f"{good_storm:.1f}/s"),
    ]


def refusal(directory: Path) -> list[Figure]:
    """CPU of a refusal, beside that of an answer by the no-op; the model's own runs excluded.

    One thread runs the graph all the time, for callers who wait in a queue of one row; all the
    others together are what refusing costs, with the metrics that it is counted in. The no-op
    takes turns with them, so that both share the cores with those runs.
    """
    servers.conv_30(directory)
    row = calls.random_row(3, nets.SIDE, nets.SIDE)
    message = calls.request(servers.MODEL, row)
    options = ("--max-queue-rows", "1", "--threads", "1", "--instances", "1", "--max-batch", "1")
    with (
        servers.farthing(directory / "models", *options) as server,
        servers.noop(calls.answer(calls.random_row(256)), directory) as floor,
    ):
        spent, calls_made = {"refused": 0.0, "floor": 0.0}, {"refused": 0, "floor": 0}
        answered = 0
        with _besieged(server, message):
            for _ in range(_TURNS):
                threads = server.threads_s()
                seen = generator.closed(server.target, message, callers=16, seconds=_TURN_S)
                spent["refused"] += servers.beside_busiest_s(threads, server.threads_s())
                calls_made["refused"] += seen.offered - seen.answers
                answered += seen.answers
                before = floor.cpu_s()
                seen = generator.closed(floor.target, message, callers=16, seconds=_TURN_S)
                spent["floor"] += floor.cpu_s() - before
                calls_made["floor"] += seen.answers
    refused_s, floor_s = (spent[what] / max(1, calls_made[what]) for what in spent)
    refused = calls_made["refused"]
    return [
        Figure("calls refused while the queue was full", f"{refused / _TURNS / _TURN_S:.0f}/s"),
        Figure("of all calls", f"{refused / max(1, refused + answered):.1%}"),
        Figure("server CPU of a refusal", f"{refused_s * 1e6:.0f} us"),
        Figure("CPU of an answer by the no-op, the same bytes", f"{floor_s * 1e6:.0f} us"),
        Figure("refusal over the no-op's answer", f"{refused_s / floor_s:.2f}"),
    ]


@contextmanager
def _besieged(server: servers.Server, message: bytes) -> Iterator[None]:
    """Callers without end who keep the instance busy and the queue full."""
    stop = threading.Event()

    def call() -> None:
        with generator.blocking(server.target) as infer:
            while not stop.is_set():
                infer(message)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
