"""Servers to measure, under the same roof: ours, the floor, and the peers that are there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil

from loadtests import processes
from loadtests.bench import nets, peers, steps
from loadtests.bench.results import Figure

FARTHING = "farthing"
NOOP = "no-op on the same gRPC (bytes in, constant out)"
MODEL = "net"


@dataclass(frozen=True)
class Server:
    """A process that answers ModelInfer.

    Attributes:
        label: what tables call it.
        target: ``host:port`` of its gRPC.
        pid: its process.
        metrics_port: its Prometheus port; 0 where it has none.
    """

    label: str
    target: str
    pid: int
    metrics_port: int = 0

    def metric(self, name: str) -> float:
        """A sum over all labels of one of its metrics; 0 where it has no such metric."""
        return total(_scraped(self.metrics_port), name)

    def cpu_s(self) -> float:
        """CPU seconds of its process so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def threads_s(self) -> dict[int, float]:
        """CPU seconds of each of its threads so far, by the thread's id."""
        threads = psutil.Process(self.pid).threads()
        return {each.id: float(each.user_time + each.system_time) for each in threads}


def total(scraped: str, name: str) -> float:
    """A sum over all labels of one metric, in the text that Prometheus reads."""
    lines = (line for line in scraped.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def beside_busiest_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds between two looks at the threads, without the thread that used most meanwhile.

    In ours, with one instance on one thread, that is the one that runs graphs. What a thread used
    that ended in between is not known and left out.
    """
    spent = [seconds - before.get(thread, 0.0) for thread, seconds in after.items()]
    return sum(spent) - max(spent, default=0.0)


@contextmanager
def farthing(
    models: Path, *options: str, label: str = FARTHING, ready_s: float = 60.0
) -> Iterator[Server]:
    """`farthing serve` with its defaults and these options, until the context ends."""
    steps.begun(f"{label} starts")
    before = _children()
    log = models.parent / "log.txt"
    with processes.serving(
        models, variant="auto", log=log, options=options, ready_s=ready_s
    ) as endpoint:
        (pid,) = _children() - before
        yield Server(label, endpoint.target, pid, endpoint.metrics_port)


@contextmanager
def noop(constant: bytes, directory: Path) -> Iterator[Server]:
    """The floor of our gRPC stack, until the context ends."""
    file = directory / "constant.bin"
    file.write_bytes(constant)
    command = [sys.executable, "-m", "loadtests.bench.noop", str(file)]
    with processes.started(command, log=directory / "log.txt") as process:
        assert process.stdout is not None  # it does not write to the screen
        yield Server(NOOP, f"127.0.0.1:{int(process.stdout.readline())}", process.pid)


@contextmanager
def peer(one: peers.Peer, graph: Path, directory: Path) -> Iterator[Server]:
    """A peer that serves one graph, until the context ends.

    Raises:
        PeerMissing: it cannot be installed, or does not start.
    """
    steps.begun(f"{one.label} is installed, if need be, and starts")
    before = _children()
    with peers.serving(one, graph, directory) as target:
        (pid,) = _children() - before
        yield Server(one.label, target, pid)


def place(directory: Path, name: str = MODEL) -> Path:
    """Where a graph of this name belongs in a repository below the directory."""
    return directory / "models" / name / "1" / "model.onnx"


def legend(peers_: Sequence[peers.Peer]) -> list[Figure]:
    """Which versions the labels of peers stand for."""
    versions: dict[str, list[str]] = {}
    for one in peers_:
        versions.setdefault(one.version, []).append(one.label)
    return [
        Figure(f"version of {'; '.join(labels)}", version) for version, labels in versions.items()
    ]


def missing(one: peers.Peer, error: peers.PeerMissing) -> Figure:
    """The line of a peer that is not there."""
    return Figure(one.label, str(error))


def conv_30(directory: Path) -> Path:
    """The conv net of about 30 rows a second on two cores, 12 KB a row, in a repository."""
    return nets.convolutional(place(directory), channels=256, blocks=6)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _scraped(metrics_port: int) -> str:
    with urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
