"""What the check is told, in both of its halves: before its environment is made, and inside it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
_ENDS = """
It ends with 0; with 1 if a test failed or something could not be measured; with 2 and one sentence
if something is missing: a GPU, its driver, wheels. Goals that were missed are marked, and do not
change the exit code. Results are written after every step, so a run that is killed leaves what it
had.
"""


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make gpu-check",
        usage="make gpu-check [WHEELS=DIR] [OPTIONS='...'], or "
        "python3 -m loadtests.bench.gpu [OPTIONS]",
        description="Run tests/gpu, then measure bare ONNX Runtime and the server on a GPU.",
        epilog=_ENDS,
    )
    _add(parser)
    given = parser.parse_args(argv)
    try:
        given.lanes = tuple(int(each) for each in given.lanes.split(",") if each)
    except ValueError:
        parser.error(f"--lanes is '{given.lanes}'; it takes numbers, such as 1,2")
    given.only = given.only or ["tests", "table"]
    return given


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--wheels", type=Path, metavar="DIR", help="install from this folder and ask no network")
    add(
        "--system-packages",
        action="store_true",
        help="use what this Python already has where it suffices; else all is installed anew",
    )
    add(
        "--gpu",
        type=int,
        default=0,
        metavar="N",
        help="which GPU, as CUDA counts them; the tests use no other, and neither does the table",
    )
    add(
        "--budget-s",
        type=float,
        default=520.0,
        metavar="SECONDS",
        help="for all of it, the environment too; steps that do not fit are left out and named",
    )
    add("--tests-s", type=float, default=150.0, metavar="SECONDS", help="of it, for tests/gpu")
    add("--only", choices=("tests", "table"), action="append", help="leave the other out")
    add(
        "--price-usd-per-hour",
        type=float,
        default=0.0,
        metavar="USD",
        help="of this GPU with its share of the machine; 0 is not given, so no dollars are told",
    )
    add("--compare-nhwc", action="store_true", help="also bare fp16 without prefer_nhwc")
    add("--lanes", default="", metavar="N[,N]", help="also the server with so many lanes a GPU")
    add(
        "--out",
        type=Path,
        default=ROOT / "loadtests" / "bench",
        metavar="DIR",
        help="where RESULTS-gpu.md and RESULTS-gpu.json go; those that are there are replaced",
    )
    add(
        "--toy",
        action="store_true",
        help="on the CPU at toy size: proves that the check runs, and measures nothing",
    )
