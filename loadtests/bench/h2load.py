"""`h2load` as a load generator: C, so it costs far less than the servers that it measures.

It counts HTTP's status, which gRPC leaves at 200 when it refuses a call. So the bytes of all
answers are compared with those of one good answer: what was refused has none.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import grpc

from loadtests import processes
from loadtests.bench import calls, steps
from service.errors import FarthingError

_CONNECTIONS = 4
_STREAMS = 8
_FIRST = 400
_MISSING = (
    "h2load, which sends the requests of this suite, is missing: install the package "
    "nghttp2-client (`apt-get install nghttp2-client`), then try again"
)


class H2loadFailed(FarthingError):
    """h2load is missing, or what it measured does not count."""


@dataclass(frozen=True)
class Measured:
    """What h2load printed about one round.

    Attributes:
        rate: requests per second.
        succeeded: answers with HTTP status 2xx, which says nothing about gRPC's.
        failed: requests without one.
        data_bytes: bytes of the answers' messages, frames included.
    """

    rate: float
    succeeded: int
    failed: int
    data_bytes: int


def program() -> str:
    """Where h2load is.

    Raises:
        H2loadFailed: it is not installed; the sentence says how to.
    """
    found = shutil.which("h2load")
    if not found:
        raise H2loadFailed(_MISSING)
    return found


def parsed(output: str) -> Measured:
    """Read what h2load 1.x prints at the end.

    Raises:
        H2loadFailed: it printed something else.
    """
    ended = re.search(r"^finished in .*?, ([\d.]+) req/s", output, re.M)
    counts = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed", output, re.M)
    traffic = re.search(r"^traffic: .*\((\d+)\) data", output, re.M)
    if not (ended and counts and traffic):
        said = " ".join(output.split())[-300:] or "nothing"
        raise H2loadFailed(f"h2load did not print its figures, but: {said}")
    return Measured(
        rate=float(ended[1]), succeeded=int(counts[1]), failed=int(counts[2]),
        data_bytes=int(traffic[1]),
    )  # fmt: skip


def checked(measured: Measured, *, sent: int, answer_bytes: int) -> Measured:
    """The same figures, once it is sure that every request was answered as it should be.

    Args:
        measured: what h2load printed.
        sent: requests of the round.
        answer_bytes: size of one good answer's message.

    Raises:
        H2loadFailed: some were not.
    """
    expected = sent * len(calls.framed(b"\0" * answer_bytes))
    if (measured.succeeded, measured.failed, measured.data_bytes) != (sent, 0, expected):
        raise H2loadFailed(
            f"{measured.succeeded} of {sent} requests of h2load were answered over HTTP and "
            f"{measured.failed} failed, with {measured.data_bytes} bytes where good answers have "
            f"{expected}: not all were OK"
        )
    return measured


class Driver:
    """Rounds of h2load with one message against one server, 4 connections x 8 streams.

    Attributes:
        target: ``host:port`` of the server.
        label: what people call the server.
    """

    def __init__(self, target: str, message: bytes, directory: Path, *, label: str = "") -> None:
        """Write the framed message into the directory."""
        self.target, self.label = target, label or target
        self._message, self._log = message, directory / "h2load.txt"
        self._file = directory / "message.bin"
        self._file.write_bytes(calls.framed(message))
        self._requests = _FIRST

    def round(self, seconds: float) -> Measured:
        """Send for about so many seconds; the first round only learns how many that is.

        Raises:
            H2loadFailed: h2load is missing, or some answers were not OK.
        """
        steps.begun(f"{self._requests} requests of h2load to {self.label}")
        size = self._answer_bytes()
        measured = parsed(processes.finish(self._command(), log=self._log).decode())
        checked(measured, sent=self._requests, answer_bytes=size)
        if self._answer_bytes() != size:
            raise H2loadFailed(f"answers of {self.target} change in size: h2load cannot judge them")
        share = _CONNECTIONS * _STREAMS
        self._requests = max(_FIRST, round(measured.rate * seconds / share) * share)
        return measured

    def _answer_bytes(self) -> int:
        """Size of the answer to one call; gRPC's own client raises where it is not OK."""
        with grpc.insecure_channel(self.target, options=calls.LIMITS) as channel:
            infer: grpc.UnaryUnaryMultiCallable[bytes, bytes]
            infer = channel.unary_unary(calls.METHOD)
            return len(infer(self._message, timeout=60, wait_for_ready=True))

    def _command(self) -> list[str]:
        return [
            program(), "-n", str(self._requests), "-c", str(_CONNECTIONS), "-m", str(_STREAMS),
            "-d", str(self._file), "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://{self.target}{calls.METHOD}",
        ]  # fmt: skip
