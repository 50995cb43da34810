"""``python -m loadtests.bench [SUITE ...]``: run suites, print a table, append it to RESULTS.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from loadtests.bench import results, steps, suites
from loadtests.bench.results import Figure
from service.errors import FarthingError

_BUSY_PERCENT = 10.0


def main(argv: list[str] | None = None) -> int:
    """Run the suites that are named, or all of them."""
    lines = (f"  {name:16} {_told(name)}" for name in suites.SUITES)
    parser = argparse.ArgumentParser(
        prog="make bench SUITE=",
        description=__doc__,
        epilog="\n".join(("suites, in the order in which all are run:", *lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="*", choices=[*suites.SUITES, []], help="which to run")
    chosen = parser.parse_args(argv).suite or list(suites.SUITES)
    console, failed = Console(width=100), False
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
    return int(failed)


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
        table.add_row(figure.measure, figure.text, figure.goal)
    return table


if __name__ == "__main__":
    sys.exit(main())
