"""Real servers as processes of their own, on free loopback ports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A server that said it is ready."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str
    ready: dict[str, object]

    def end(self, timeout_s: float = 30.0) -> tuple[int, str]:
        """Send SIGTERM; the exit code, and the log."""
        self.process.terminate()
        _, log = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, log


@contextmanager
def serving(repository: Path, *options: str, log: Path | None = None) -> Iterator[Served]:
    """A server until the end of the block.

    Args:
        repository: what it serves.
        options: of the command line.
        log: takes the log; needed where it grows beyond what a pipe holds, which would stop it.
    """
    command = [
        sys.executable, "-m", "farthing", "serve", str(repository), "--host", "127.0.0.1",
        "--grpc-port", "0", "--metrics-port", "0", "--grace-s", "0", *options,
    ]  # fmt: skip
    with log.open("w") if log else nullcontext(subprocess.PIPE) as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, stdin=subprocess.DEVNULL
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        told = "" if line else log.read_text() if log else process.communicate()[1]
        assert line, f"the server did not start: {told}"
        ready = json.loads(line)
        yield Served(
            process,
            f"127.0.0.1:{ready['grpc_port']}",
            f"http://127.0.0.1:{ready['metrics_port']}/metrics",
            ready,
        )
    finally:
        if process.poll() is None:
            process.kill()
        with process:
            pass  # its pipes are closed, and it is waited for


def farthing(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        [sys.executable, "-m", "farthing", *arguments],
        capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
