"""The side-by-side: farthing and its peers under the same three loads, while one watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtests.bench import arrivals, calls, generator, nets, peers, servers
from loadtests.bench.arrivals import Outcome
from loadtests.bench.bare import Bare
from loadtests.bench.results import Figure

_DEADLINE_S = 0.4
_SECONDS = 4.0  # with starts and drains it is a minute, which is long enough to watch
_LOADS = (1, 2, 5)
_DRAIN_S = 10.0
# MLServer as it is at its best here.
_PEERS = (peers.PYTRITON, peers.MLSERVER_INLINE)

Opening = Callable[[], AbstractContextManager[servers.Server]]


class Board:
    """What is known so far: server and load -> text; shown while it changes."""

    def __init__(self, labels: Sequence[str], rows_per_s: float) -> None:
        self._cells = {label: ["" for _ in _LOADS] for label in labels}
        self._rate = rows_per_s

    def set(self, label: str, column: int, text: str) -> None:
        """Write one cell."""
        self._cells[label][column] = text

    def rich(self) -> Table:
        """Good answers per second by server and load."""
        title = (
            f"answers within {_DEADLINE_S * 1e3:.0f} ms, per second, {_SECONDS:.0f} s for each "
            f"load, a minute in all; the model alone does {self._rate:.0f}"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("server", max_width=40)
        for load in _LOADS:
            table.add_column(f"{load}x = {load * self._rate:.0f}/s offered", justify="right")
        for label, cells in self._cells.items():
            table.add_row(label, *cells)
        return table


def versus(directory: Path) -> list[Figure]:
    """Farthing, Triton, MLServer at 1x, 2x, 5x of what the model can do; live, about 60 s."""
    begun = time.perf_counter()
    row = calls.random_row(3, nets.SIDE, nets.SIDE)
    graph = servers.conv_30(directory)
    message = calls.request(servers.MODEL, row)
    # Everybody's load comes from the model alone, so that it favours nobody.
    rate = 1 / Bare(graph, row, batches=(1,)).median_s(seconds=2.0)
    openings = _openings(graph, directory)
    board, lost = Board(list(openings), rate), list[Figure]()
    measured: dict[str, list[Outcome]] = {}
    with Live(board.rich(), console=Console(width=100), auto_refresh=False) as live:

        def show(label: str, column: int, text: str) -> None:
            board.set(label, column, text)
            live.update(board.rich(), refresh=True)

        for label, opening in openings.items():
            show(label, 0, "starting")
            try:
                with opening() as server:
                    measured[label] = _loads(server, message, rate, show)
            except peers.PeerMissing as error:
                show(label, 0, str(error))
                lost.append(Figure(label, str(error)))
    took = f"{time.perf_counter() - begun:.0f} s"
    return [
        Figure("bare ONNX Runtime, 1x", f"{rate:.1f} rows/s"),
        *_told(measured),
        *lost,
        Figure(f"all of it: {_SECONDS:.0f} s for each load, starts, drains", took, "about 60 s"),
    ]


def _openings(graph: Path, directory: Path) -> dict[str, Opening]:
    found: dict[str, Opening] = {servers.FARTHING: lambda: servers.farthing(directory / "models")}
    for one in _PEERS:
        found[one.label] = lambda one=one: servers.peer(one, graph, directory)  # type: ignore[misc]
    return found


def _loads(
    server: servers.Server, message: bytes, rate: float, show: Callable[[str, int, str], None]
) -> list[Outcome]:
    outcomes = []
    for column, load in enumerate(_LOADS):
        if column:
            show(server.label, column, "waiting for its backlog")
            drain(server, message)
        stream = generator.Stream(server.target, message, load * rate, _SECONDS, _DEADLINE_S)
        begun = time.perf_counter()

        def watch(seen: list[Outcome], begun: float = begun, column: int = column) -> None:
            elapsed_s = min(_SECONDS, max(0.5, time.perf_counter() - begun))
            show(server.label, column, f"{seen[0].endings[arrivals.GOOD] / elapsed_s:.1f} ...")

        (outcome,) = generator.open_loop(stream, watch=watch)
        show(server.label, column, arrivals.marked(f"{outcome.good_per_s:.1f}", outcome))
        outcomes.append(outcome)
    return outcomes


def drain(server: servers.Server, message: bytes) -> None:
    """Wait until a call is answered as fast as by an idle server, at most 10 seconds."""
    ends = time.perf_counter() + _DRAIN_S
    with generator.blocking(server.target) as infer:
        while (begun := time.perf_counter()) < ends:
            if infer(message) and time.perf_counter() - begun < _DEADLINE_S:
                return


def _told(measured: dict[str, list[Outcome]]) -> list[Figure]:
    figures = []
    for label, outcomes in measured.items():
        told = " / ".join(f"{outcome.good_per_s:.1f}" for outcome in outcomes)
        loads = ", ".join(f"{load}x" for load in _LOADS)
        text = arrivals.marked(f"{told} per second", *outcomes)
        figures.append(Figure(f"{label}: good answers at {loads}", text))
        late = sum(outcome.endings[arrivals.LATE] for outcome in outcomes)
        if late:
            figures.append(Figure(f"{label}: answers that came late", str(late)))
    return figures
