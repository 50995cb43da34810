"""The side-by-side: farthing and its peers under the same three loads, while one watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live

from loadtests.bench import board, calls, endings, generator, nets, peers, servers
from loadtests.bench.bare import Bare
from loadtests.bench.results import Figure
from loadtests.observed import Observed

_DEADLINE_S = 0.4
_SECONDS = 4.0  # with starts and drains it is a minute, which is long enough to watch
_LOADS = (1, 2, 5)
_DRAIN_S = 10.0
# One look falls on a moment; a pause between them lets a burst of others' work pass.
_LOOKS, _LOOK_S, _PAUSE_S = 4, 0.6, 0.6
_DRIFT = 0.15
_P99_NEEDS = 662  # answers, for one beyond it at 99 % confidence
# MLServer as it is at its best here.
_PEERS = (peers.PYTRITON, peers.MLSERVER_INLINE)

Opening = Callable[[], AbstractContextManager[servers.Server]]
Show = Callable[[str, int, str], None]


def versus(directory: Path) -> list[Figure]:
    """Farthing, Triton, MLServer at 1x, 2x, 5x of what the model can do; live, about 60 s."""
    console = Console(width=board.COLUMNS)
    lost = _installed(console)
    begun = time.perf_counter()
    row = calls.random_row(3, nets.SIDE, nets.SIDE)
    graph = servers.conv_30(directory)
    message = calls.request(servers.MODEL, row)
    with console.status("versus: how fast is the model alone?", refresh_per_second=2):
        # Everybody's load comes from the model alone, so that it favours nobody.
        rate = _alone(graph, row)
    openings = {
        label: opening
        for label, opening in _openings(graph, directory).items()
        if label not in lost
    }
    table = _board(list(openings), list(lost), rate)
    measured: dict[str, list[Observed]] = {}
    with Live(table.rich(), console=console, auto_refresh=False) as live:

        def show(label: str, column: int, text: str) -> None:
            table.set(label, column, text)
            live.update(table.rich(), refresh=True)

        for label, opening in openings.items():
            try:
                measured[label] = _measured(label, opening, message, rate, show)
            except peers.PeerMissing as error:
                show(label, 0, "missing")
                lost[label] = str(error)
    after = _alone(graph, row)
    took = f"{time.perf_counter() - begun:.0f} s"
    return [
        Figure("the model alone, before and after", f"{rate:.1f}, {after:.1f} rows/s"),
        *told(measured, drift=drift(rate, after)),
        *(Figure(label, why) for label, why in lost.items()),
        *servers.legend(_PEERS),
        Figure("all of it, with starts and drains", took, "about 60 s"),
    ]


def _installed(console: Console) -> dict[str, str]:
    """Make the peers' environments, which takes minutes the first time; who cannot be, and why."""
    lost: dict[str, str] = {}
    with console.status("versus", refresh_per_second=2) as status:
        for one in _PEERS:

            def show(passed_s: int, label: str = one.label) -> None:
                status.update(f"versus: installing {label} into .peers, once: {passed_s} s so far")

            try:
                with _ticking(show):
                    peers.python_of(one)
            except peers.PeerMissing as error:
                lost[one.label] = str(error)
    return lost


@contextmanager
def _ticking(show: Callable[[int], None]) -> Iterator[None]:
    """Show the seconds that passed, each second, until the context ends."""
    done, begun = Event(), time.perf_counter()

    def tick() -> None:
        while not done.wait(1.0):
            show(round(time.perf_counter() - begun))

    thread = Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _alone(graph: Path, row: np.ndarray[Any, Any]) -> float:
    """Rows per second of the model alone: the best of some looks with pauses between them."""
    session, looks_s = Bare(graph, row, batches=(1,)), list[float]()
    for number in range(_LOOKS):
        time.sleep(_PAUSE_S if number else 0.0)
        looks_s.append(session.median_s(seconds=_LOOK_S))
    return 1 / min(looks_s)


def _openings(graph: Path, directory: Path) -> dict[str, Opening]:
    found: dict[str, Opening] = {servers.FARTHING: lambda: servers.farthing(directory / "models")}
    for one in _PEERS:
        found[one.label] = lambda one=one: servers.peer(one, graph, directory)  # type: ignore[misc]
    return found


def _board(labels: Sequence[str], lost: Sequence[str], rate: float) -> board.Board:
    title = (
        f"answers within {_DEADLINE_S * 1e3:.0f} ms, per second, {_SECONDS:.0f} s for each load, "
        f"a minute in all; the model alone does {rate:.1f}"
    )
    sent = (round(load * rate * _SECONDS) for load in _LOADS)
    heads = [
        f"{load}x = {number / _SECONDS:.1f}/s" for load, number in zip(_LOADS, sent, strict=True)
    ]
    table = board.Board(title, heads, (*labels, *lost))
    for label in lost:
        table.set(label, 0, "missing")
    return table


def _measured(
    label: str, opening: Opening, message: bytes, rate: float, show: Show
) -> list[Observed]:
    outcomes = []
    with ExitStack() as stack:
        show(label, 0, "starting")
        with _ticking(lambda passed_s: show(label, 0, f"starting, {passed_s} s")):
            server = stack.enter_context(opening())
        for column, load in enumerate(_LOADS):
            if column:
                show(label, column, "draining")
                drain(server, message)
            stream = generator.stream(
                server.target, message, load * rate, seconds=_SECONDS, deadline_s=_DEADLINE_S
            )
            begun = time.perf_counter()

            def watch(seen: list[Observed], begun: float = begun, column: int = column) -> None:
                elapsed_s = min(_SECONDS, max(0.5, time.perf_counter() - begun))
                show(label, column, f"{seen[0].good / elapsed_s:.1f} ...")

            (outcome,) = generator.open_loop(stream, watch=watch)
            show(label, column, f"{outcome.good_per_s:.1f}{' void' if outcome.void else ''}")
            outcomes.append(outcome)
    return outcomes


def drain(server: servers.Server, message: bytes) -> None:
    """Wait until a call is answered as fast as by an idle server, at most 10 seconds."""
    ends = time.perf_counter() + _DRAIN_S
    with generator.blocking(server.target) as infer:
        while (begun := time.perf_counter()) < ends:
            if infer(message) and time.perf_counter() - begun < _DEADLINE_S:
                return


def drift(before: float, after: float) -> str:
    """Why the whole table says nothing: the machine changed meanwhile; empty where it did not."""
    apart = abs(after - before) / max(before, after)
    return f"void: drift {apart:.0%}" if apart > _DRIFT else ""


def told(measured: Mapping[str, Sequence[Observed]], *, drift: str = "") -> list[Figure]:
    """Two lines for each server and load; all of them void where there was a drift."""
    figures = []
    for label, outcomes in measured.items():
        for load, outcome in zip(_LOADS, outcomes, strict=True):
            text = f"{outcome.good_per_s:.1f}/s{latency(outcome)}"
            void = drift or endings.void(outcome)
            figures += [
                Figure(f"{label}, {load}x: good", f"{text} ({void})" if void else text),
                Figure(f"{label}, {load}x: of {outcome.offered} sent", endings.told(outcome)),
            ]
    return figures


def latency(outcome: Observed) -> str:
    """Median and p99 of the good answers, or their longest where they are too few for a p99."""
    good = endings.good_latency(outcome)
    if not len(good):
        return ""
    last = ("p99", 99) if len(good) >= _P99_NEEDS else ("longest", 100)
    median_ms, last_ms = (1e3 * (good.at(each) or 0.0) for each in (50, last[1]))
    return f", median {median_ms:.0f}, {last[0]} {last_ms:.0f} ms"
