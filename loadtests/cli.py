"""The verb `demo`."""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from loadtests import prices, processes
from loadtests.screen import WIDTH, shown


def demo(
    directory: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where data, models and the report are written; its models are made anew.",
        ),
    ] = Path("build/demo"),
    budget_s: Annotated[
        float,
        typer.Option(
            min=5,
            max=3600,
            help="Seconds to measure each variant, about, 5 to 3600: the search for the highest "
            "rate that holds the SLO, then runs below and above it. With fewer the search ends "
            "earlier, at a lower rate, and p99.9 lacks the answers to be told.",
        ),
    ] = 40.0,
    price: Annotated[
        str,
        typer.Option(metavar="ID", help="Entry of the price book that costs are computed from."),
    ] = "aws-c7i.xlarge",
    price_book: Annotated[
        Path | None,
        typer.Option(
            "--prices",
            metavar="FILE",
            help="Your own prices, in YAML; they win over the shipped ones of the same id.",
            show_default="the shipped ones",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Train a small net, for a first look in less time: its figures show more of "
            "the server's cost, and less of what a variant saves.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report's figures as JSON, not as a table.")
    ] = False,
) -> None:
    """Show the whole way on real data: train, convert, verify, serve, measure, price."""
    # Here, since it brings ONNX Runtime and plotly, which other verbs do without.
    from loadtests import demo as story
    from loadtests.reports import report

    screen = Console(stderr=True, width=WIDTH)
    chosen = prices.chosen(prices.book(price_book), price)
    if old := chosen.old_said(datetime.datetime.now(datetime.UTC).date()):
        screen.print(escape(f"warning: {old}"), highlight=False)
    processes.end_with_make()
    console = Console(stderr=as_json, width=WIDTH)
    cores = story.Cores.divided(frozenset(os.sched_getaffinity(0)))
    stage = story.Stage(directory, budget_s, cores, sys.stderr)
    found = story.run(stage, chosen, shown, quick=quick)
    written = report.write(
        found.profiles, directory, baseline=story.BASELINE, refused=found.refused,
        notes=found.notes, title="digits: from Keras to a priced server",
    )  # fmt: skip
    if as_json:
        print(json.dumps(written.figures, indent=2))
        return
    console.print()
    report.show(console, written.figures)
    console.print(escape(f"farthing would serve {found.served}: {found.why}."), highlight=False)
    console.print(
        f"\nThe report: {written.page}\nIts figures, beside it: {written.data.name} and "
        f"{written.sheet.name}",
        soft_wrap=True,
        highlight=False,
    )
