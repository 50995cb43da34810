"""`make gpu-wheels`: fetch what gpu-check needs, for a machine that has no network.

Runs on a bare Python with pip.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.bench.gpu import environment, wheels

# pip takes each tag literally: glibc's versions since manylinux2014's 2.17, and older names.
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(39, 16, -1)),
    "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the wheels, and cut large ones into parts if they have to travel so."""
    parser = argparse.ArgumentParser(
        prog="make gpu-wheels", usage="make gpu-wheels WHEELS=DIR [FOR=3.12] [PART_MB=48]"
    )
    add = parser.add_argument
    add("--wheels", type=Path, required=True, metavar="DIR", help="where they go; about 1.5 GB")
    add("--for", dest="version", default="3.12", help="Python of the machine with the GPU")
    add(
        "--part-mb", type=int, default=0,
        help="cut larger wheels into parts of so many MB, which gpu-check joins; 0 cuts none",
    )  # fmt: skip
    given = parser.parse_args(argv)
    given.wheels.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command(given.wheels, given.version), check=False)
    if done.returncode == 0 and given.part_mb:
        cut = wheels.split(given.wheels, part_bytes=given.part_mb * 10**6)
        print(f"{len(cut)} parts of wheels larger than {given.part_mb} MB")
    return done.returncode


def command(folder: Path, version: str) -> list[str]:
    """How pip is asked for wheels of another machine's Python, Linux on x86-64."""
    return [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--dest",
        str(folder), "--only-binary=:all:", "--implementation", "cp", "--python-version", version,
        "-c", str(environment.ROOT / "constraints.txt"),
        *(f"--platform={each}" for each in _PLATFORMS), *environment.needs(),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
