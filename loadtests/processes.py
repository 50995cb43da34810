"""Child processes that do not outlive us: servers, load generators, trainers."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from service.errors import FarthingError

_STOP_S = 15.0
_WATCH_S = 0.3


class ChildFailed(FarthingError):
    """A child process that did not do its work, with the end of its log."""


@dataclass(frozen=True)
class Endpoint:
    """A server of ours that is ready.

    Attributes:
        target: ``host:port`` for gRPC.
        metrics_port: its Prometheus port.
        model: name of the first model it serves.
        variant: which variant of it.
        sha256: digest of the file it serves.
    """

    target: str
    metrics_port: int
    model: str
    variant: str
    sha256: str


def _wrapped(command: Sequence[str]) -> list[str]:
    """The command, ended by the kernel should we be killed, where util-linux' setpriv is there.

    Not by a ``preexec_fn``: with one, Python forks instead of vforking, gRPC's fork handler then
    runs in the child and aborts it (grpc issue 43055).
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else list(command)


@contextmanager
def started(
    command: Sequence[str],
    *,
    log: Path,
    cpus: frozenset[int] | None = None,
    screen: IO[str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command; when the context ends, however it ends, the process is gone.

    Args:
        command: the program and its arguments.
        log: where its standard error goes.
        cpus: pin it to these CPUs; None leaves it where it may run.
        screen: where its standard output goes; None keeps it for the caller to read.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(
            _wrapped(command),
            stdin=subprocess.DEVNULL,
            stdout=screen or subprocess.PIPE,
            stderr=errors,
        )
        try:
            if cpus:
                # Before it has started any thread; those that it starts inherit this.
                os.sched_setaffinity(process.pid, cpus)
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def finish(
    command: Sequence[str],
    *,
    log: Path,
    cpus: frozenset[int] | None = None,
    screen: IO[str] | None = None,
    allowed: Sequence[int] = (0,),
) -> bytes:
    """Run a command to its end.

    Returns:
        What it wrote to standard output, unless it wrote to the screen.

    Raises:
        ChildFailed: it ended with a code that is not allowed.
    """
    before = log.stat().st_size if log.exists() else 0  # others wrote into it too
    with started(command, log=log, cpus=cpus, screen=screen) as process:
        output = process.communicate()[0] or b""
    if process.returncode not in allowed:
        raise ChildFailed(
            f"{command[2]} ended with code {process.returncode}: {_tail(log, before)}"
        )
    return output


@contextmanager
def serving(
    repository: Path,
    *,
    variant: str,
    log: Path,
    cpus: frozenset[int] | None = None,
    options: Sequence[str] = (),
    ready_s: float = 60.0,
) -> Iterator[Endpoint]:
    """`farthing serve` as a process of its own, on free loopback ports, until the context ends.

    Args:
        repository: what it serves.
        variant: of each model.
        log: where its standard error goes.
        cpus: pin it to these CPUs; None leaves it where it may run.
        options: more of `farthing serve`.
        ready_s: how long its start may take.

    Raises:
        ChildFailed: it did not become ready.
    """
    command = [
        sys.executable, "-m", "farthing", "serve", str(repository), "--host", "127.0.0.1",
        "--grpc-port", "0", "--metrics-port", "0", "--variant", variant,
        "--grace-s", "0", *options,
    ]  # fmt: skip
    with started(command, log=log, cpus=cpus) as process:
        assert process.stdout is not None  # because it does not write to the screen
        line = _first_line(process.stdout, timeout_s=ready_s)
        if not line:
            raise ChildFailed(f"`farthing serve` did not become ready: {_tail(log)}")
        ready = json.loads(line)
        model = ready["models"][0]
        yield Endpoint(
            target=f"127.0.0.1:{ready['grpc_port']}",
            metrics_port=ready["metrics_port"],
            model=model["name"],
            variant=model["variant"],
            sha256=model["sha256"],
        )


def end_with_make() -> None:
    """If make runs us and is interrupted alone (``kill -INT`` of make), be interrupted too.

    On Ctrl-C the terminal signals the whole group. Signalled alone, GNU make tells nobody and waits
    for its children; all that shows is that it no longer catches SIGINT (its job.c and commands.c).
    """
    parent = Path(f"/proc/{os.getppid()}")
    try:
        under_make = parent.joinpath("comm").read_text().strip() in ("make", "gmake")
    except OSError:  # no /proc: not Linux
        return
    if under_make and _catches_sigint(parent):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: Path) -> None:
    while _catches_sigint(parent):
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGINT)


def _catches_sigint(process: Path) -> bool:
    try:
        lines = process.joinpath("status").read_text().splitlines()
    except OSError:
        return False
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGINT - 1) & 1)


def _first_line(stream: IO[bytes], timeout_s: float) -> bytes:
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        part: Any = stream.read1(4096) if ready else b""  # type: ignore[attr-defined]
        if not part:
            return b""
        line += part
    return line


def _tail(log: Path, start: int = 0) -> str:
    lines = log.read_bytes()[start:].decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
