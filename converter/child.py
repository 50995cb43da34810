"""Work that may crash, leak or print at will, in a process of its own."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from service.errors import FarthingError

ERROR_FILE = "error.txt"
_LOG_FILE = "log.txt"


class ChildFailed(FarthingError):
    """A child process that ended without doing its work."""


def run(module: str, arguments: Sequence[str], *, directory: Path, timeout_s: float) -> None:
    """Run ``python -m module`` to its end; whatever happens, it is gone afterwards.

    The child may explain a failure by writing one sentence to ``error.txt`` in the directory; its
    output goes to ``log.txt`` there.

    Raises:
        ChildFailed: with the child's sentence, or the end of its log.
    """
    with (directory / _LOG_FILE).open("wb") as output:
        process = subprocess.Popen(
            [*_end_with_us(), sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if not _ended_within(process, timeout_s):
                raise ChildFailed(f"{module} took longer than {timeout_s:.0f} seconds")
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        raise ChildFailed(_why(module, code, directory))


def _end_with_us() -> list[str]:
    """Let the kernel end the child should we be killed, where util-linux' setpriv is there."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _ended_within(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end of a process.

    Not by ``Popen.wait(timeout)``: interrupted at the wrong instruction it keeps its lock, and the
    next wait hangs for ever.
    """
    end = os.pidfd_open(process.pid)
    try:
        return bool(select.select([end], [], [], timeout_s)[0])
    finally:
        os.close(end)


def _why(module: str, code: int, directory: Path) -> str:
    """The child's own sentence, or the end of its log."""
    explained = directory / ERROR_FILE
    if explained.exists():
        return explained.read_text(encoding="utf-8").strip()
    log = (directory / _LOG_FILE).read_text(encoding="utf-8", errors="replace")
    lines = log.strip().splitlines() or ["no output"]
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"{module} {ending}; its last line: {lines[-1][:300]}"
