"""Run suites, print a table of each, and append it to loadtests/bench/RESULTS.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from loadtests import processes
from loadtests.bench import results, steps, suites
from loadtests.bench.results import Figure
from service.errors import FarthingError

_BUSY_PERCENT = 10.0
_COLUMNS = 100
_APPENDED = """
RESULTS.md is part of the repository: each run adds its figures, with the machine and the revision
they belong to. `git restore loadtests/bench/RESULTS.md` takes out what was not worth keeping.
Goals that were missed are marked, and do not change the exit code."""


def main(argv: list[str] | None = None) -> int:
    """Run the suites that are named, or all of them."""
    lines = (
        textwrap.fill(f"  {name:16} {_told(name)}", _COLUMNS, subsequent_indent=" " * 19)
        for name in suites.SUITES
    )
    parser = argparse.ArgumentParser(
        prog="make bench",
        usage="make bench [SUITE='NAME ...'], or python -m loadtests.bench [NAME ...]",
        description=f"{__doc__}\n{_APPENDED}",
        epilog="\n".join(("suites, in the order in which all are run:", *lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="*", help="which to run; all if none is named")
    chosen = parser.parse_args(argv).suite or list(suites.SUITES)
    unknown = [name for name in chosen if name not in suites.SUITES]
    if unknown:
        told = f"no suite {unknown[0]!r}; there are: {', '.join(suites.SUITES)}"
        print(textwrap.fill(told, _COLUMNS, break_on_hyphens=False), file=sys.stderr)
        return 2
    console = Console(width=_COLUMNS)
    try:
        return int(_run(chosen, console))
    except KeyboardInterrupt:
        console.print("interrupted: the servers have ended, and nothing of this suite is kept")
        return 130


def _run(chosen: Sequence[str], console: Console) -> bool:
    """Run these suites one after the other; gives whether one of them could not."""
    failed = False
    for name in chosen:
        busy_percent = psutil.cpu_percent(interval=1.0)
        if busy_percent > _BUSY_PERCENT:
            told = (
                f"other processes use {busy_percent:.0f} % of the CPUs, which the figures will show"
            )
            console.print(told, style="yellow")
        try:
            figures = _figures(name, console)
        except FarthingError as error:  # the next suite may do without what this one needs
            console.print(f"{name}: {error}", style="red", markup=False)
            failed = True
            continue
        console.print(_table(name, figures))
        results.append(name, figures, busy_percent=busy_percent)
        console.print(f"appended to {results.PATH}")
    return failed


def _told(name: str) -> str:
    return (suites.SUITES[name].__doc__ or "").splitlines()[0]


def _figures(name: str, console: Console) -> list[Figure]:
    suite, told = suites.SUITES[name], f"{name}: {_told(name)}"
    with ExitStack() as stack:
        if name not in suites.WATCHED:
            # Redrawn seldom: the screen shares the cores with what is measured.
            status = stack.enter_context(console.status(told, refresh_per_second=2))
            stack.enter_context(steps.told(lambda step: status.update(f"{told}\n  now: {step}")))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="farthing-bench-"))
        return suite(Path(directory))


def _table(name: str, figures: Sequence[Figure]) -> Table:
    table = Table(title=name, title_justify="left")
    for heading in ("measure", "figure", "goal"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for figure in figures:
        missed = figure.met is False
        goal = f"{figure.goal}, missed" if missed else figure.goal
        table.add_row(figure.measure, figure.text, goal, style="red" if missed else None)
    return table


if __name__ == "__main__":
    processes.end_with_make()
    sys.exit(main())
