"""The verb `plan`: replicas and dollars a month for a rate, from measured profiles."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from loadtests import prices, profile
from loadtests.plans import demand as demands
from loadtests.plans import overlay, plantables
from loadtests.plans.autoscaling import LAG_S
from loadtests.plans.capacity import TARGETS
from loadtests.plans.demand import Demand
from loadtests.plans.plan import Asked, Plan, check, plan, repriced
from loadtests.plans.planjson import to_dict
from loadtests.plans.scaling import Autoscaler
from loadtests.profile import Profile
from loadtests.screen import WIDTH, all_or_nothing, shown
from loadtests.slo import Slo, seconds_of
from service.errors import InvalidSetting


def make(
    profiles: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROFILE...",
            help="Files of `farthing slo --save-profile`: one for each variant on each machine.",
        ),
    ],
    rate: Annotated[
        float, typer.Option(min=0, help="Requests per second, always; Poisson arrivals.")
    ] = 0.0,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV with time_s, one arrival in each line, or with time_s,requests_per_s, a rate "
            "over time; replicas are for the busiest hour of it.",
        ),
    ] = None,
    day: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="PEAK",
            help="A day of an application that people use, with so many requests per second in "
            "its busiest hour and a fifth of them at night.",
        ),
    ] = 0.0,
    p99: Annotated[
        str,
        typer.Option(
            metavar="LIMIT",
            help="What 99 of 100 answers must not take longer than, such as 100ms, instead of what "
            "the profiles were measured for. What is laxer than that was only simulated.",
        ),
    ] = "",
    success: Annotated[
        float | None,
        typer.Option(min=0.5, max=1, help="Share of the requests that must be answered, likewise."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Entry of the price book that you ask about, any number of times; those without a "
            "profile are named as not measured. Without it, all of the book.",
        ),
    ] = None,
    price_book: Annotated[
        Path | None,
        typer.Option(
            "--prices",
            metavar="FILE",
            help="Your own prices; they replace those in the profiles, by their id.",
        ),
    ] = None,
    headroom: Annotated[
        float,
        typer.Option(
            min=0,
            max=10,
            help="So much more than comes must hold too, 0 to 10; 0.2 is a fifth. 0 leaves nothing "
            "for a replica that is lost or rolled.",
        ),
    ] = 0.2,
    least: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Replicas that there are at any time, 1 to 10000. With 1, whenever it is lost, "
            "or its machine is replaced, nobody is answered until another has started.",
        ),
    ] = 2,
    lag_s: Annotated[
        float,
        typer.Option(
            min=0,
            max=86_400,
            help="Seconds from a higher rate to replicas that serve, 0 to 86400: pods that start "
            "on machines that are there take one minute, new machines several.",
        ),
    ] = LAG_S,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 1,
    write_patch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the cheapest as a kustomize overlay of --base: replicas, CPUs, the "
            "variant, settings, and --autoscaler.",
        ),
    ] = None,
    autoscaler: Annotated[
        Autoscaler,
        typer.Option(
            help="What --write-patch writes where autoscaling pays: hpa scales by CPU; keda, by "
            "what Prometheus sees of CPU, refusals and waiting, with the component `keda` beside "
            "the base; none is a fixed number, and nothing else is planned for."
        ),
    ] = Autoscaler.HPA,
    base: Annotated[
        Path, typer.Option(metavar="DIR", help="The kustomize base for --write-patch.")
    ] = Path("k8s/base"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the tables.")
    ] = False,
) -> None:
    """Find what it takes to serve a rate, a day or a trace, and what that costs a month.

    One replica with its share of the requests is simulated with the server's own scheduler, by what
    the profiles say of its runs, at no higher rate than was measured to hold unless you ask for a
    laxer SLO; only bursts of less than a minute may exceed it. Machines without a profile of their
    own are named, and never win. Exit code 1 if the SLO holds with none.
    """
    asked_for = _demand(rate, trace, day)
    entries = prices.book(price_book)
    listed = [prices.chosen(entries, wanted).id for wanted in price] if price else list(entries)
    own = prices.read(price_book) if price_book else {}
    read = [repriced(profile.read(path), own) for path in profiles]
    wanted = check(read, _slo(read[0], p99, success))
    if write_patch is not None:
        overlay.check(base, autoscaler)
    targets = () if autoscaler is Autoscaler.NONE else TARGETS
    asked = Asked(asked_for, wanted, headroom, lag_s, seed, targets, least)
    console = Console(stderr=as_json, width=WIDTH)
    with all_or_nothing(), shown(f"planning for {asked_for.said}") as told:
        made = plan(read, asked, listed=listed, told=told)
    if as_json:
        print(json.dumps(to_dict(made) | {"verdict": plantables.verdict(made)}, indent=2))
    else:
        plantables.show(console, made)
    today = datetime.datetime.now(datetime.UTC).date()
    for text in (*plantables.notes(made, today), plantables.verdict(made),
                 *plantables.conditions(made)):  # fmt: skip
        console.print(escape(text), highlight=False)
    if write_patch is not None:
        _write(made, base, write_patch, autoscaler=autoscaler, console=console)
    if made.best is None:
        raise typer.Exit(1)


def _demand(rate: float, trace: Path | None, day: float) -> Demand:
    if sum((rate > 0, trace is not None, day > 0)) != 1:
        raise InvalidSetting("give one of --rate, --trace and --day, above 0")
    if trace is not None:
        return demands.traced(trace)
    return demands.steady(rate) if rate else demands.day(day)


def _slo(first: Profile, p99: str, success: float | None) -> Slo | None:
    """What was said must hold; None if nothing was."""
    if not p99 and success is None:
        return None
    said = Slo(99.0, seconds_of(p99), first.slo.success) if p99 else first.slo
    return said if success is None else replace(said, success=success)


def _write(
    made: Plan, base: Path, directory: Path, *, autoscaler: Autoscaler, console: Console
) -> None:
    if made.best is None:
        return
    files = overlay.write(made, made.best, base, directory, autoscaler=autoscaler)
    names = ", ".join(path.name for path in files)
    said = f"written to {directory}: {names}; `kubectl apply -k {directory}`"
    console.print(escape(said), highlight=False)
