"""The verb `compare`: what changed from one measurement to another, beyond noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.reports import comparison, report
from loadtests.reports.changes import ANSWERED_MAY, BETTER, GOODPUT_MAY, POINTS, WORSE, Change
from loadtests.reports.columns import UNKNOWN, signed, three_digits
from loadtests.reports.comparison import Comparison
from loadtests.reports.resampling import CONFIDENCE
from loadtests.screen import WIDTH
from service.errors import InvalidSetting

_CAPTION = (
    "The interval is where the change lies: for latency by drawing the calls anew, for rate and "
    "dollars by how well searches repeat themselves; of equal things anything of these is called "
    f"changed in {100 * (1 - CONFIDENCE):.0f} % of all comparisons at most. What a machine does "
    "from one hour to the next is not in it: the threshold is for that. The noise of what has no "
    f"interval is not known; bounds are {100 * GOODPUT_MAY:.0f} % of the goodput under overload, "
    f"{100 * ANSWERED_MAY:.0f} % of the answers, and those of --accuracy. The p99 of one "
    "caller is told only, with no say in the exit code: it is of one run of seconds, and a minute "
    "later it may be another."
)
_STYLES = {BETTER: "green", WORSE: "red"}


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="A", help="Before: a saved profile, or a report.json.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="After: as above.")],
    threshold: Annotated[
        str,
        typer.Option(
            metavar="PERCENT",
            help="What is worse by more than this, and beyond noise, ends with exit code 1. "
            "Smaller ones alarm at the moods of a shared machine, which are 2 to 3 %. The goodput "
            "under overload must fall by a third at least: stalls alone make it vary by less.",
        ),
    ] = "5%",
    accuracy: Annotated[
        str,
        typer.Option(
            metavar="POINTS",
            help="An accuracy that is lower by more points than this ends with exit code 1, too; "
            "0 for any loss.",
        ),
    ] = f"{POINTS:g}",
    only: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Compare this profile alone, by its name in A; others may then be void.",
            show_default="all",
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.")
    ] = False,
) -> None:
    """Say what changed from A to B beyond noise; profiles are paired by name, else by variant.

    Exit code 1 if anything is worse by more than the threshold and beyond noise, or the accuracy
    by more than its own, so that a pipeline can stop there (the p99 of one caller is told only, and
    what cannot be told is counted in the last sentence); 2 if they are not of the same work, or
    void.
    """
    most, points = share(threshold), points_of(accuracy)
    found = comparison.compare(
        report.read_all(before), report.read_all(after), only=only, points=points
    )
    if as_json:
        print(json.dumps(found.to_dict(most), indent=2))
    else:
        show(Console(width=WIDTH), found, most)
    if found.regressions(most):
        raise typer.Exit(1)


def share(text: str) -> float:
    """A percentage as a share: `5%` and `5` are 0.05.

    Raises:
        InvalidSetting: it is none.
    """
    value = _number(text.strip().removesuffix("%"))
    if value is None:
        raise InvalidSetting(f"--threshold is '{text}'; it takes a percentage such as 5%")
    return value / 100


def points_of(text: str) -> float:
    """Points of accuracy: `0.5`.

    Raises:
        InvalidSetting: it is none.
    """
    value = _number(text)
    if value is None:
        raise InvalidSetting(f"--accuracy is '{text}'; it takes points such as 0.5")
    return value


def _number(text: str) -> float | None:
    """One that is not negative; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def show(console: Console, found: Comparison, threshold: float) -> None:
    """Print the table, what else is not the same, and the end of it in a sentence."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_CAPTION,
                  caption_justify="left")  # fmt: skip
    table.add_column("variant", max_width=20, overflow="fold")
    table.add_column("figure", no_wrap=True)
    for heading in ("before", "after", "change", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    name = None
    for each in found.changes:
        if name not in (None, each.name):
            table.add_section()
        table.add_row("" if each.name == name else escape(each.name), *_cells(each),
                      style=_STYLES.get(each.verdict))  # fmt: skip
        name = each.name
    console.print(table)
    for each in found.changes:
        if each.why:
            text = f"· {each.name}, {each.figure}: cannot be told: {each.why}"
            console.print(escape(text), highlight=False)
    for name in found.unpaired:
        console.print(escape(f"· only on one side: {name}"), highlight=False)
    for text in found.differences:
        console.print(escape(f"· not the same: {text}"), highlight=False)
    console.print(f"\n[bold]{escape(found.said(threshold))}[/]", highlight=False)


def _cells(each: Change) -> tuple[str, ...]:
    figure = each.figure
    if figure.startswith("answered"):
        values = ["-" if v is None else f"{100 * v:.2f} %" for v in (each.before, each.after)]
    else:
        values = [
            UNKNOWN if value is None else f"{bound}{three_digits(value)}"
            for value, bound in zip((each.before, each.after), each.bounds, strict=True)
        ]
    interval = each.interval
    return (
        figure,
        *values,
        each.said.replace("points", "pt") or UNKNOWN,
        " to ".join(_end(each) for each in interval.ends) + " %" if interval else UNKNOWN,
        each.verdict,
    )


def _end(value: float | None) -> str:
    return "?" if value is None else signed(100 * value, 1)
