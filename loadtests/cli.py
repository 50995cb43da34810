"""The verbs `load` and `demo`."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import client, prices, processes
from loadtests.load import P99_SAMPLES, Measured, Plan
from loadtests.load import run as run_load
from loadtests.prices import Price
from loadtests.screen import WIDTH, shown
from service.errors import InvalidSetting

if TYPE_CHECKING:
    from loadtests.results import Report


def load(
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="gRPC address of any v2 server.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model to call.")],
    model_version: Annotated[
        str, typer.Option(metavar="N", help="Its version; without it, the server's own pick.")
    ] = "",
    users: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Callers, 1 to 10000. Each waits for its answer before it sends again, so more "
            "callers mean more load, up to what the server can do, and longer waits.",
        ),
    ] = 8,
    seconds: Annotated[
        float,
        typer.Option(
            min=1,
            max=86_400,
            help="Seconds to measure, 1 to 86400, after the warm-up. A p99 wants 459 calls.",
        ),
    ] = 10.0,
    warmup: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds at the start that do not count, 0 to 3600."),
    ] = 1.0,
    rows: Annotated[
        int,
        typer.Option(
            min=1,
            max=4096,
            help="Rows in each request, 1 to 4096; a server may refuse more than it can queue.",
        ),
    ] = 1,
    rows_file: Annotated[
        Path | None,
        typer.Option(
            metavar="X.npz",
            help="Rows to send: one array per input under its name, or 'x'. Without it they are "
            "drawn for the model's inputs; real rows are better where the work depends on them.",
        ),
    ] = None,
    deadline_ms: Annotated[
        float,
        typer.Option(
            min=0,
            max=3_600_000,
            help="gRPC deadline of each call in ms, 0 to 3600000; 0 is none. A late call counts as "
            "failed.",
        ),
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.")
    ] = False,
) -> None:
    """Load a running server with Locust, closed loop over gRPC, and measure it from outside.

    Exit code 1 if no call succeeded.
    """
    if not re.fullmatch(r"[^/\s]+:\d{1,5}", target):
        raise InvalidSetting(f"--target is '{target}'; it takes HOST:PORT, without http://")
    if rows_file is not None and not rows_file.exists():
        raise InvalidSetting(f"{rows_file} does not exist")
    with client.connected(target) as caller:
        caller.check(model, version=model_version, rows_file=rows_file, rows=rows)
    plan = Plan(
        target, model, version=model_version, users=users, seconds=seconds, warmup_s=warmup,
        rows=rows, rows_file=rows_file, deadline_ms=deadline_ms,
    )  # fmt: skip
    console = Console(stderr=as_json, width=WIDTH)
    with (
        tempfile.TemporaryDirectory(prefix="farthing-load-") as directory,
        shown(console, f"loading {model} at {target} with {users} callers", warmup + seconds),
    ):
        measured = run_load(plan, log=Path(directory) / "locust.log")
    if as_json:
        print(json.dumps(measured.summary(), indent=2))
    else:
        _print_load(console, model, measured)
    if not len(measured.latencies_ms):
        raise typer.Exit(1)


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


def _print_load(console: Console, model: str, measured: Measured) -> None:
    table = Table(title=f"{model}: {measured.users} callers, closed loop", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    enough = len(measured.latencies_ms) >= P99_SAMPLES
    table.add_row(
        "requests offered / succeeded", f"{measured.offered} / {len(measured.latencies_ms)}"
    )
    for status, calls in sorted(measured.failures.items()):
        table.add_row(f"failed: {status}", str(calls))
    table.add_row("successful requests per second", f"{measured.rate:.1f}")
    for percent in (50, 90, 99):
        value = measured.percentile_ms(percent)
        said = "-" if value is None else f"{value:.2f} ms"
        table.add_row(f"p{percent}", said if percent < 99 or enough else "too few calls to say")
    console.print(table)


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
