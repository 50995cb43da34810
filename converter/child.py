"""Work that may crash, leak or print at will, in a process of its own."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import FarthingError

ERROR_FILE = "error.txt"
_LOG_FILE = "log.txt"
_LOOK_EVERY_S = 0.1


class ChildFailed(FarthingError):
    """A child process that ended without doing its work.

    Attributes:
        code: its exit code; negative for a signal; None where we ended it.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Attributes:
        seconds: from start to end.
        memory_bytes: resident, at any moment.
    """

    seconds: float
    memory_bytes: int


def run(module: str, arguments: Sequence[str], *, directory: Path, limits: Limits) -> None:
    """Run ``python -m module`` to its end; whatever happens, it is gone afterwards.

    The child may explain a failure by writing one sentence to ``error.txt`` in the directory; its
    output goes to ``log.txt`` there.

    Raises:
        ChildFailed: with the child's sentence, or the end of its log; or it took too much.
    """
    (directory / ERROR_FILE).unlink(missing_ok=True)
    with (directory / _LOG_FILE).open("wb") as output:
        process = subprocess.Popen(
            # -P: what lies in the current directory must not stand in for a package.
            [*_end_with_us(), sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(process, module, limits)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        raise ChildFailed(_why(module, code, directory), code)


def _end_with_us() -> list[str]:
    """Let the kernel end the child should we be killed, where util-linux' setpriv is there."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _wait(process: subprocess.Popen[bytes], module: str, limits: Limits) -> None:
    """Wait for the end of a process, within its limits.

    Not by ``Popen.wait(timeout)``: interrupted at the wrong instruction it keeps its lock, and the
    next wait hangs for ever. Resident memory is looked at, not limited by the kernel: a limit on
    addresses (RLIMIT_AS) would refuse what frameworks only reserve.

    Raises:
        ChildFailed: it took too long, or too much memory.
    """
    until = time.monotonic() + limits.seconds
    end = os.pidfd_open(process.pid)
    try:
        while not select.select([end], [], [], _LOOK_EVERY_S)[0]:
            if time.monotonic() > until:
                raise ChildFailed(f"{module} took longer than {limits.seconds:.0f} seconds")
            if _resident_bytes(process.pid) > limits.memory_bytes:
                raise ChildFailed(
                    f"{module} took more than {limits.memory_bytes / 1e9:.1f} GB of memory, its "
                    "limit (--memory-gb)"
                )
    finally:
        os.close(end)


def _resident_bytes(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:  # it has just ended
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _why(module: str, code: int, directory: Path) -> str:
    """The child's own sentence, or the end of its log."""
    explained = directory / ERROR_FILE
    if explained.exists():
        return explained.read_text(encoding="utf-8").strip()
    log = (directory / _LOG_FILE).read_text(encoding="utf-8", errors="replace")
    lines = log.strip().splitlines() or ["no output"]
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"{module} {ending}; its last line: {lines[-1][:300]}"
