"""`make gpu-check`: say what is missing, or make an environment and run the check in it.

Runs on a bare Python 3.11 or later: nothing is imported that would have to be installed first.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtests.bench.gpu import arguments, driver, environment
from loadtests.bench.gpu.environment import Source
from loadtests.bench.gpu.wheels import WheelsMissing

_MISSING, _INTERRUPTED = 2, 130
HOME = arguments.ROOT / "build" / "gpu-check"


def main(
    argv: Sequence[str] | None = None,
    *,
    look: Callable[[], str] = driver.missing,
    home: Path = HOME,
) -> int:
    """Run the check.

    Args:
        argv: see ``arguments``.
        look: what is missing of GPU and driver.
        home: where the environment is made.

    Returns:
        As ``run.main``.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run(argv, look, home)
    except KeyboardInterrupt:
        print("gpu-check: interrupted before it began; the next run starts anew", file=sys.stderr)
        return _INTERRUPTED


def _run(argv: Sequence[str], look: Callable[[], str], home: Path) -> int:
    given, begun = arguments.read(argv), time.monotonic()
    source = Source(given.wheels, system=given.system_packages)
    try:
        why = "" if given.toy else look()
        why = why or environment.missing(source, home / "joined")
        if not why:
            python = environment.prepared(source, home)
    except WheelsMissing as error:
        why = f"{error}; without a network, give a folder of wheels: make gpu-check WHEELS=DIR"
    if why:
        print(f"gpu-check: {why}", file=sys.stderr)
        return _MISSING
    left = ("--budget-s", str(given.budget_s - (time.monotonic() - begun)))  # the last one counts
    command = environment.command(python, ["-m", "loadtests.bench.gpu.run", *argv, *left])
    try:
        return subprocess.run(command, cwd=arguments.ROOT, check=False).returncode
    except KeyboardInterrupt:  # the check got it too, and has told what it kept
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
