"""Work that may crash, leak or print at will, in a process of its own."""

from __future__ import annotations

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
    log = directory / _LOG_FILE
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{module} took longer than {timeout_s:.0f} seconds") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code == 0:
        return
    explained = directory / ERROR_FILE
    if explained.exists():
        raise ChildFailed(explained.read_text(encoding="utf-8").strip())
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise ChildFailed(f"{module} {ending}; its last line: {lines[-1][:300]}")
