"""The verb `prices`: the price book, as it would be used."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import prices
from loadtests.prices import Price
from loadtests.screen import WIDTH


def show(
    price_book: Annotated[
        Path | None,
        typer.Option(
            "--prices",
            metavar="FILE",
            help="Your own price book, in YAML: a list of entries with id, usd_per_hour, cpus, "
            "region, purchase, date and source; of a family, and with an accelerator and how many "
            "accelerators, if it has them. An entry replaces the shipped one of the same id. "
            "One without a date is refused.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.")
    ] = False,
) -> None:
    """Show what machines cost by the hour: the shipped price book, with your own over it.

    `farthing slo --price ID` takes an entry. Those older than a year are marked: look them up anew.
    """
    entries = prices.book(price_book)
    if as_json:
        print(json.dumps([entry.to_dict() for entry in entries.values()], indent=2))
        return
    today = datetime.datetime.now(datetime.UTC).date()
    sources = list(dict.fromkeys(_source(entry) for entry in entries.values()))
    console = Console(width=WIDTH)
    console.print(_table(list(entries.values()), sources, today))
    for number, source in enumerate(sources, 1):
        console.print(f"({number}) {escape(source)}", highlight=False)
    if any(entry.is_old(today) for entry in entries.values()):
        console.print("! more than a year old: look it up anew, and give your file with --prices")


def _source(entry: Price) -> str:
    return f"{entry.purchase}; {entry.source}"


def _table(entries: list[Price], sources: list[str], today: datetime.date) -> Table:
    table = Table(title="Prices by the hour, of the whole machine", title_justify="left")
    for heading in ("id", "$/h", "CPUs", "$/CPU-h", "accelerator", "region", "date", "source"):
        table.add_column(heading, justify="right" if heading[0] in "$C" else "left")
    for entry in entries:
        chips = f"{entry.accelerators} x {entry.accelerator}" if entry.accelerators else "-"
        per_cpu = "-" if entry.accelerators else f"{entry.share_per_hour(1):.4f}"
        table.add_row(
            escape(entry.id), f"{entry.usd_per_hour:.4f}", f"{entry.cpus:g}", per_cpu,
            escape(chips), escape(entry.region),
            f"{entry.date}{' !' if entry.is_old(today) else ''}",
            f"({sources.index(_source(entry)) + 1})",
        )  # fmt: skip
    return table
