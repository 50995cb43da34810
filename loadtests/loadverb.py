"""The verb `load`."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtests import arrivals, client, energy
from loadtests.arrivals import SHAPES
from loadtests.histogram import samples_for
from loadtests.load import Plan, run
from loadtests.observed import GOOD, Observed
from loadtests.pricing import scrape
from loadtests.pricing.power import Meanwhile
from loadtests.pricing.power import drawn as draws
from loadtests.screen import WIDTH, all_or_nothing, shown
from service.errors import InvalidSetting

_PERCENTS = (50, 90, 95, 99, 99.9)


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
            "callers mean more load, up to what the server can do, and longer waits. Of an open "
            "loop these are connections.",
        ),
    ] = 8,
    think_ms: Annotated[
        float,
        typer.Option(
            min=0,
            max=3_600_000,
            help="Closed loop: a caller's mean pause after each answer in ms, 0 to 3600000. With "
            "pauses, callers are people; without, the load is as high as so many can make it.",
        ),
    ] = 0.0,
    thinking: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="Closed loop: exponential draws pauses around --think-ms; fixed makes all as "
            "long, and callers that began together stay together.",
        ),
    ] = "exponential",
    rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1_000_000,
            help="Open loop: calls per second, at the highest, up to 1000000; 0 is a closed loop. "
            "They are sent when they are due, whatever became of others, and the clock of each "
            "starts then: a server that stalls is seen by all who would have called.",
            show_default="closed loop",
        ),
    ] = 0.0,
    kind: Annotated[
        str,
        typer.Option(
            "--arrivals",
            metavar="KIND",
            help=f"Open loop: how calls come: {', '.join(SHAPES)} or replay. What is not constant "
            "is drawn from --seed.",
            show_default="poisson",
        ),
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="Open loop: of the draws; the same gives the same schedule.")
    ] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="X.csv",
            help="Open loop: arrivals to replay, from a column time_s, or drawn from the columns "
            "time_s,requests_per_s. --seconds cuts it off.",
        ),
    ] = None,
    limit_ms: Annotated[
        float,
        typer.Option(
            min=0,
            max=3_600_000,
            help="An answer that took longer is late, and not good, in ms, 0 to 3600000; 0 is "
            "none. Sends may be late by 5 % of it, and by 1 ms at least; if more than 1 % were "
            "later, the result is void.",
        ),
    ] = 0.0,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="That generate, 1 to 256. More are needed where one cannot keep its schedule, "
            "and take cores from a server on the same machine.",
        ),
    ] = 1,
    seconds: Annotated[
        float,
        typer.Option(
            min=1,
            max=86_400,
            help=f"Seconds to measure, 1 to 86400, after the warm-up. A p99 wants "
            f"{samples_for(99)} calls, a p99.9 {samples_for(99.9)}.",
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
            "failed. Without one, answers are waited for 10 s after the end.",
        ),
    ] = 0.0,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="URL[,...]",
            help="Of each replica's metrics, such as http://HOST:8002/metrics, where they are "
            "farthing's: brings what its GPUs draw for 1,000 answers, of ten seconds or more.",
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the histograms, instead of the table.")
    ] = False,
) -> None:
    """Load a running v2 server with Locust over gRPC, and measure it from outside.

    Closed loop: so many callers, each waits for its answer. With --rate, --arrivals or --trace an
    open loop: calls come as from strangers, who do not wait for each other. Exit code 1 if no call
    was answered, or if the result is void: the generator did not keep its schedule.
    """
    plan = Plan(
        target, model, version=model_version, users=users, seconds=seconds, warmup_s=warmup,
        rows=rows, rows_file=rows_file, deadline_ms=deadline_ms, limit_ms=limit_ms,
        think_ms=think_ms, thinking=thinking, rate=rate, arrivals=_kind(kind, rate, trace),
        seed=seed, trace=trace, processes=processes,
    )  # fmt: skip
    _check(plan)
    with client.connected(target) as caller:
        caller.check(model, version=model_version, rows_file=rows_file, rows=rows)
    console = Console(stderr=as_json, width=WIDTH)
    urls = tuple(filter(None, metrics.split(",")))
    meanwhile = Meanwhile(lambda: scrape.read(urls, model=model))
    with (
        all_or_nothing(),
        meanwhile,
        tempfile.TemporaryDirectory(prefix="farthing-load-") as directory,
        shown(
            f"loading {model} at {target}: {said(plan)}",
            warmup + seconds,
            drawn_per_s=2,
        ),
    ):
        seen = run(plan, log=Path(directory) / "locust.log")
    drawn = draws(meanwhile.looks, plan.warmup_s) if urls else None
    if as_json:
        told = {"energy": (asdict(drawn) | energy.figures(drawn)) if drawn else None}
        print(json.dumps(summary(plan, seen) | told, indent=2))
    else:
        console.print(table(plan, seen))
        if urls:
            said_of = drawn.said if drawn else energy.NOT_MEASURED
            console.print(f"Energy: {said_of}", highlight=False, markup=False)
    if seen.void:
        console.print(f"[bold]void:[/] {seen.void}; no figure above says anything of the server")
    if seen.void or not seen.answers:
        raise typer.Exit(1)


def _kind(kind: str, rate: float, trace: Path | None) -> str:
    """The arrivals that are meant; empty for a closed loop."""
    if kind:
        return kind
    if trace:
        return "replay"
    return "poisson" if rate else ""


def _check(plan: Plan) -> None:
    """Before anything is sent.

    Raises:
        InvalidSetting: something of it cannot be.
    """
    client.address(plan.target)
    if plan.rows_file is not None and not plan.rows_file.exists():
        raise InvalidSetting(f"{plan.rows_file} does not exist")
    if plan.thinking not in ("exponential", "fixed"):
        raise InvalidSetting(f"--thinking is '{plan.thinking}'; it takes exponential or fixed")
    if not plan.arrivals:
        return
    if plan.think_ms:
        raise InvalidSetting("--think-ms is for callers who wait; an open loop has none")
    if plan.arrivals != "replay" and not plan.rate:
        raise InvalidSetting(f"--arrivals {plan.arrivals} needs --rate, in calls per second")
    times = arrivals.schedule(
        plan.arrivals, rate=plan.rate, seconds=plan.seconds, seed=plan.seed, trace=plan.trace
    )
    if not times:
        raise InvalidSetting("no call is due in that time; give more --seconds, or more --rate")


def said(plan: Plan) -> str:
    """What is sent, in words."""
    if not plan.arrivals:
        thinks = f" who think {plan.think_ms:g} ms ({plan.thinking})" if plan.think_ms else ""
        return f"closed loop, {plan.users} callers{thinks}"
    if plan.arrivals == "replay":
        return f"open loop, replay of {plan.trace.name if plan.trace else ''}"
    return f"open loop, {plan.arrivals}, {plan.rate:g} calls/s, seed {plan.seed}"


def summary(plan: Plan, seen: Observed) -> dict[str, Any]:
    """Plain figures for JSON."""
    return {
        "target": plan.target,
        "model": plan.model,
        "loop": "open" if plan.arrivals else "closed",
        "arrivals": plan.arrivals or None,
        "rate": plan.rate if plan.arrivals else None,
        "seed": plan.seed if plan.arrivals else None,
        "users": plan.users,
        "processes": plan.processes,
        "rows_per_request": plan.rows,
        **seen.to_dict(),
    }


def table(plan: Plan, seen: Observed) -> Table:
    """What people see; of a void run, no figure that says anything of the server."""
    void = "void" if seen.void else ""
    table = Table(title=f"{plan.model}: {said(plan)}", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("calls offered / answered", f"{seen.offered} / {seen.answers}")
    for code, calls in sorted(seen.endings.items()):
        if code != GOOD:
            table.add_row(f"ended: {code}", str(calls))
    table.add_row("answers per second", void or f"{seen.answers_per_s:.1f}")
    if plan.limit_ms:
        table.add_row(
            f"good answers per second, within {plan.limit_ms:g} ms",
            void or f"{seen.good_per_s:.1f}",
        )
    for percent in _PERCENTS:
        table.add_row(f"p{percent:g}", void or _ms(seen.percentile_ms(percent)))
    if plan.arrivals:
        table.add_row("p99 of how late the generator sent", _ms(seen.lag_ms(99)))
    return table


def _ms(value: float | None) -> str:
    return "too few calls to say" if value is None else f"{value:.2f} ms"
