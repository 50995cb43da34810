"""Locust as a user starts it: alone, as a master with workers, or with its web page."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from loadtests import priority
from loadtests.observed import Observed
from loadtests.swarm import page

HEADLESS = ("--headless", "--only-summary")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@contextmanager
def swarm(*options: str) -> Iterator[subprocess.Popen[str]]:
    """One process of Locust with our users; it is gone when the context ends."""
    command = [sys.executable, "-m", "loadtests.swarm", "--loglevel", "ERROR", *options]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Here, since what is killed could not put it back.
    with priority.session_first():
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def results_of(process: subprocess.Popen[str], results: Path) -> dict[str, Any]:
    """What it wrote when it has ended by itself."""
    told, said = process.communicate(timeout=60)
    assert results.exists(), said
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    assert told.rstrip().endswith(page.text(found)), told
    return found


@contextmanager
def distributed(
    options: Sequence[str], *, workers: int
) -> Iterator[tuple[subprocess.Popen[str], list[subprocess.Popen[str]]]]:
    """A master, and its workers, on loopback."""
    port = free_port()
    with ExitStack() as stack:
        helpers = [
            stack.enter_context(
                swarm("--worker", "--master-host", "127.0.0.1", "--master-port", port)
            )
            for _ in range(workers)
        ]
        master = stack.enter_context(
            swarm(
                "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port",
                port, "--expect-workers", str(workers), *options,
            )
        )  # fmt: skip
        yield master, helpers


def observed(figures: dict[str, Any]) -> Observed:
    return Observed.from_dict(figures["observed"])


def fetched(url: str, form: dict[str, Any] | None = None) -> str:
    """What a page says; it is waited for until it is there."""
    data = urllib.parse.urlencode(form).encode() if form else None
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, data, timeout=10) as answer:
                return str(answer.read().decode())
        except ConnectionError:
            time.sleep(0.1)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
            time.sleep(0.1)
    raise AssertionError(f"{url} never answered")
