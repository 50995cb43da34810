"""Other servers, each in an environment of its own, made once from the package index.

They run the same ONNX Runtime as ours, with the same number of threads. ``.peers`` in the
repository's root holds the environments; git ignores it, and removing it is always safe.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import grpc
import psutil

from loadtests import processes
from loadtests.bench import calls
from service import hardware
from service.errors import FarthingError

_HOME = Path(__file__).parents[2] / ".peers"
_HERE = Path(__file__).parent
_READY_S = 60.0
_BATCH = 16  # as farthing serves by default
_MODEL = "net"


class PeerMissing(FarthingError):
    """A peer that cannot be installed or does not start, and why."""


@dataclass(frozen=True)
class Peer:
    """A server of others, pinned.

    Attributes:
        name: directory of its environment.
        packages: what it needs, pinned; ONNX Runtime joins it at our own version.
        label: what tables call it.
        version: which, and the day of its release (of its file on the package index, as the index
            tells it; of Triton the month of its container, 24.10).
        workers: processes that run models beside the one that serves, where it asks for them.
    """

    name: str
    packages: tuple[str, ...]
    label: str
    version: str
    workers: int = 0

    @property
    def pins(self) -> tuple[str, ...]:
        """What is installed."""
        return (*self.packages, f"onnxruntime=={metadata.version('onnxruntime')}")


# Its worker processes do not start with uvloop 0.22, which its own pins allow.
_MLSERVER = ("mlserver==1.7.1", "uvloop<0.22")
_MLSERVER_IS = "MLServer 1.7.1 (2025-06-06)"
MLSERVER = Peer("mlserver", _MLSERVER, "MLServer, its default", _MLSERVER_IS, workers=1)
# Twice as fast with small requests; its event loop then stands still during runs.
MLSERVER_INLINE = Peer("mlserver", _MLSERVER, "MLServer, in one process", _MLSERVER_IS)
# Its wheel holds no backend but Python's, so the session sits in a Python callback.
PYTRITON = Peer(
    "pytriton",
    ("nvidia-pytriton==0.7.0",),
    "Triton, Python backend",
    "Triton 2.51 (2024-10), in nvidia-pytriton 0.7.0 (2025-08-13)",
)
ALL = (PYTRITON, MLSERVER, MLSERVER_INLINE)


def python_of(peer: Peer, home: Path = _HOME) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there.

    Raises:
        PeerMissing: it cannot be installed here.
    """
    directory = home / peer.name
    marker, python = directory / "installed.txt", directory / "bin" / "python"
    wanted = "\n".join(peer.pins)
    if marker.exists() and marker.read_text() == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for command in (
        [sys.executable, "-m", "venv", str(directory)],
        [str(python), "-m", "pip", "install", "--quiet", *peer.pins],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerMissing(f"not installed: {reason(done.stderr)}")
    marker.write_text(wanted)
    return python


def reason(said: str) -> str:
    """What pip complained about first, without the addresses of hosts."""
    lines = [line for line in said.splitlines() if line.startswith("ERROR:")] or said.splitlines()
    first = lines[0].removeprefix("ERROR:").strip() if lines else "it does not say why"
    return re.sub(r"\w+://\S+", "(address)", first)[:120]


@contextmanager
def serving(peer: Peer, graph: Path, directory: Path) -> Iterator[str]:
    """A peer that serves one graph as ``net``, until the context ends; gives ``host:port``.

    Args:
        peer: which.
        graph: an ONNX file with one input and one output.
        directory: for its settings and its log.

    Raises:
        PeerMissing: it cannot be installed, or does not start.
    """
    python, (grpc_port, *others) = python_of(peer), _free_ports(3)
    home = directory / f"{peer.name}-{peer.workers}"
    home.mkdir(exist_ok=True)
    if peer.name == MLSERVER.name:
        _write_settings(peer, home, graph, (grpc_port, *others))
        command = [str(python.with_name("mlserver")), "start", str(home)]
    else:
        numbers = map(str, (grpc_port, *others, hardware.cpus(), _BATCH))
        # Its backend is a program linked to libpython, which must be that of its environment.
        libraries = sysconfig.get_config_var("LIBDIR")
        command = [
            "env", f"LD_LIBRARY_PATH={libraries}", str(python),
            str(_HERE / "pytriton_server.py"), str(graph), _MODEL,
            str(home / "workspace"), *numbers,
        ]  # fmt: skip
    target, log = f"127.0.0.1:{grpc_port}", home / "log.txt"
    with (
        (home / "output.txt").open("w") as screen,
        _no_orphans() as own,
        processes.started(command, log=log, screen=screen) as process,
    ):
        try:
            _wait(process, target, peer)
            own.extend(_below(process))  # on Ctrl-C it may be gone before we look again
            yield target
        finally:
            own.extend(_below(process))


@contextmanager
def _no_orphans() -> Iterator[list[psutil.Process]]:
    """End the processes of this list that are still there afterwards.

    Triton is a child of PyTriton's Python, which leaves it behind if it is itself ended roughly.
    """
    own: list[psutil.Process] = []
    try:
        yield own
    finally:
        for process in own:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _write_settings(peer: Peer, home: Path, graph: Path, ports: tuple[int, ...]) -> None:
    """MLServer's settings: its defaults but for ports and workers, and no log of each call."""
    shutil.copy(_HERE / "mlserver_runtime.py", home)
    server = {
        "host": "127.0.0.1", **dict(zip(("grpc_port", "http_port", "metrics_port"), ports,
        strict=True)), "parallel_workers": peer.workers, "debug": False,
        "metrics_dir": str(home / "metrics"), "environments_dir": str(home / "environments"),
    }  # fmt: skip
    model = {
        "name": _MODEL, "implementation": "mlserver_runtime.OrtRuntime",
        "parameters": {"uri": str(graph), "extra": {"threads": hardware.cpus()}},
    }  # fmt: skip
    (home / "settings.json").write_text(json.dumps(server))
    (home / "model-settings.json").write_text(json.dumps(model))


def _wait(process: subprocess.Popen[bytes], target: str, peer: Peer) -> None:
    """Wait until the model is ready; both speak the protocol's own ModelReady.

    Raises:
        PeerMissing: it ended, or is not ready in time.
    """
    ready = calls.METHOD.replace("ModelInfer", "ModelReady")
    ends = time.monotonic() + _READY_S
    while time.monotonic() < ends and process.poll() is None:
        with grpc.insecure_channel(target) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ready)
            try:
                if ask(calls.ready(_MODEL), timeout=2) == calls.READY:
                    return
            except grpc.RpcError:
                pass
        time.sleep(0.2)
    raise PeerMissing(f"does not start here: see {peer.name}'s log")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; the peers cannot choose free ones themselves."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
