"""The verb `demo`."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import prices, processes
from loadtests.prices import Price
from loadtests.screen import WIDTH, shown
from service.errors import InvalidSetting

if TYPE_CHECKING:
    from loadtests.results import Report


def demo(
    directory: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where data, models and the report are written; its models are made anew.",
        ),
    ] = Path("build/demo"),
    seconds: Annotated[
        float,
        typer.Option(
            min=1,
            max=600,
            help="Seconds to load each variant, 1 to 600, twice: with one caller and with eight. "
            "Fewer may leave p99 without enough calls to print it.",
        ),
    ] = 5.0,
    price: Annotated[
        str,
        typer.Option(metavar="ID", help="Entry of the price book that costs are computed from."),
    ] = "aws-c7i.xlarge",
    price_book: Annotated[
        Path,
        typer.Option(
            "--prices",
            metavar="FILE",
            help="Your own price book, in YAML.",
            show_default="the one that is shipped",
        ),
    ] = prices.SHIPPED,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Train a small net, for a first look in half the time: its figures show more of "
            "the server's cost, and less of what a variant saves.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of the table.")
    ] = False,
) -> None:
    """Show the whole way on real data: train, convert, verify, serve, load, price."""
    # Here, since it brings ONNX Runtime and plotly, which `load` does without.
    from loadtests import demo as story
    from loadtests import demopage

    chosen = _price(price_book, price)
    processes.end_with_make()
    console = Console(stderr=as_json, width=WIDTH)
    cores = story.Cores.divided(frozenset(os.sched_getaffinity(0)))
    screen = sys.stderr if as_json else sys.stdout
    stage = story.Stage(directory, seconds, cores, screen)
    found = story.run(stage, chosen, lambda what: shown(console, what), quick=quick)
    page, data = demopage.write(found, directory)
    if as_json:
        print(data.read_text(encoding="utf-8"), end="")
        return
    _print_demo(console, found)
    console.print(f"\nThe report: {page}\nIts figures: {data}", soft_wrap=True)


def _price(book: Path, wanted: str) -> Price:
    entries = prices.read(book)
    if wanted not in entries:
        raise InvalidSetting(f"{book} has no price '{wanted}'; it has {', '.join(sorted(entries))}")
    if entries[wanted].is_old(datetime.datetime.now(datetime.UTC).date()):
        Console(stderr=True).print(
            f"warning: the price of {wanted} is of {entries[wanted].date}, more than a year old"
        )
    return entries[wanted]


def _print_demo(console: Console, found: Report) -> None:
    from loadtests import demopage

    table = Table(title="digits: from Keras to a priced server", title_justify="left")
    table.add_column("variant")
    for heading in demopage.headings(found.conditions.users):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in found.rows:
        mark = "refused *" if row.refused else "served" if row.name == found.chosen else ""
        style = "bold" if row.name == found.chosen else "dim" if row.refused else None
        table.add_row(row.name, *demopage.cells(found, row), mark, style=style)
    console.print()
    console.print(table)
    for row in found.rows:
        if row.refused:
            console.print(escape(f"* {row.name}: {row.refused}."), highlight=False)
        if row.failures:
            console.print(f"! {row.name}: failed calls {row.failures}.")
    for sentence in found.conditions.sentences():
        console.print(escape(f"· {sentence}"), highlight=False)
    console.print(f"\n[bold]{escape(found.verdict())}[/]", highlight=False)
