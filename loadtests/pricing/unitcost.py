"""The verb `slo`: the highest rate at which it holds, and what a million answers cost there."""

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

from loadtests import client, prices, profile
from loadtests.observed import SHARED_LEAST_S
from loadtests.prices import Price
from loadtests.pricing import identity, measure, unittables
from loadtests.pricing.identity import Said
from loadtests.pricing.measure import Effort
from loadtests.pricing.rig import Work
from loadtests.screen import WIDTH, all_or_nothing, shown
from loadtests.slo import Slo, seconds_of
from service.errors import InvalidSetting

# Beside a generator in Python, a bar that is drawn ten times a second makes sends late.
_DRAWN_PER_S = 2


def slo(
    target: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT[,...]",
            help="gRPC address of any v2 server; of several replicas all, and the load is drawn "
            "over them. Those on this machine share the CPUs that are paid for; each other one is "
            "priced as a machine of its own.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model to call.")],
    p99: Annotated[
        str,
        typer.Option(
            metavar="LIMIT",
            help="What 99 of 100 answers must not take longer than, such as 100ms or 2s, counted "
            "from when a call was due. On cores shared with the server, limits under about 100ms "
            "leave most runs void, since the generator itself is late.",
        ),
    ] = "",
    percentile: Annotated[
        str,
        typer.Option(
            metavar="P=LIMIT",
            help="Another percentile instead of --p99, such as 95=50ms or 99.9=1s; the higher, "
            "the more calls it takes to show: 90, 459 and 4603 for 95, 99 and 99.9 without any "
            "violation.",
        ),
    ] = "",
    success: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=1.0,
            help="Share of all calls, 0.5 to 1, that must be answered; refused and failed calls "
            "stay in the count. Runs are as long as the percentile takes to be shown; a share that "
            "would take longer is seen, not shown, and the verdict says so.",
        ),
    ] = 0.999,
    model_version: Annotated[
        str, typer.Option(metavar="N", help="Its version; without it, the server's own pick.")
    ] = "",
    budget_s: Annotated[
        float,
        typer.Option(
            min=5,
            max=86_400,
            help="Seconds for all of it, about, 5 to 86400. With too few for a slow model, nothing "
            "can be confirmed, and the answer is none.",
        ),
    ] = 180.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Only search. Without the runs at shares and multiples of the rate, a report "
            "shows neither latency against rate nor goodput under overload.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the arrivals: equal seeds send at equal times.")
    ] = 1,
    rows: Annotated[
        int, typer.Option(min=1, max=4096, help="Rows in each request, 1 to 4096.")
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
            help="gRPC deadline of each call in ms; 0 is ten times the limit, at least 1000. A "
            "server may refuse what it cannot answer by then, so a tighter one changes what "
            "overload does.",
        ),
    ] = 0.0,
    price: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Entry of the price book (`farthing prices` lists it); without it no dollars.",
        ),
    ] = "",
    price_book: Annotated[
        Path | None,
        typer.Option("--prices", metavar="FILE", help="Your own prices, over the shipped ones."),
    ] = None,
    cpus: Annotated[
        float,
        typer.Option(
            min=0,
            max=4096,
            help="CPUs that are paid for: of a machine without accelerators that share of the "
            "price counts. 0 is all that this process may use where the server is local, else "
            "the whole machine's.",
        ),
    ] = 0.0,
    gpus: Annotated[
        float,
        typer.Option(
            min=0,
            max=1024,
            help="GPUs that are paid for: of a machine with accelerators that share of the price "
            "counts, such as 0.25 for a quarter of one, as a slice (MIG) or by turns. 0 is the "
            "whole machine.",
        ),
    ] = 0.0,
    hardware: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="The serving machine, in words; needed for dollars where the server is remote.",
        ),
    ] = "",
    variant: Annotated[
        str,
        typer.Option(help="Name of the model's variant, such as fp32, if the server tells none."),
    ] = "",
    model_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The model's file, for its digest, likewise."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="On held-out rows, 0 to 1, likewise.")
    ] = None,
    accuracy_change: Annotated[
        float | None,
        typer.Option(
            min=-100,
            max=100,
            help="Over the trained model, in points (-0.5 is half a percent lost), likewise; 0 if "
            "this is the trained model as it is.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="URL[,...]",
            help="Of each replica's metrics, such as http://HOST:8002/metrics, where they are "
            "farthing's: brings phases, memory and where the money goes.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(help="What tables call it; without it the variant's name.")
    ] = "",
    save_profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write all of it to this file, which `report`, `compare` and `plan` read.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the profile as JSON instead of tables.")
    ] = False,
) -> None:
    """Find the highest Poisson rate at which an SLO holds, and the dollars per million answers.

    Calls are sent when they are due, whether or not earlier ones were answered. Short runs find
    about where the SLO stops to hold; long ones, with answers enough to show it, confirm the rate.
    Let nothing else run on the machine. Exit code 1 if the SLO holds at no rate.
    """
    wanted = Slo(*_limit(p99, percentile), success)
    work = Work(
        tuple(map(client.address, target.split(","))), model, version=model_version,
        rows=rows, rows_file=rows_file, deadline_s=deadline_ms / 1e3,
        metrics=tuple(filter(None, metrics.split(","))),
    )  # fmt: skip
    work = work.placed()
    digest, size = identity.file_said(model_file) if model_file else (None, None)
    said = Said(
        variant=variant or None, sha256=digest, bytes=size, accuracy=accuracy,
        accuracy_change=accuracy_change, hardware=hardware, cpus=cpus or None,
        gpus=gpus, price=_price(price_book, price),
    )  # fmt: skip
    _check_files(rows_file, save_profile)
    console = Console(stderr=as_json, width=WIDTH)
    if work.shared and wanted.limit_s < SHARED_LEAST_S:
        _say(console, "note: the server shares this generator's cores, on which it can judge "
             f"limits from about {1e3 * SHARED_LEAST_S:g} ms up; void runs are repeated, then "
             "count as failed")  # fmt: skip
    effort = Effort(budget_s, seed, levels=not quick)
    what = f"searching for {wanted.said}"
    with all_or_nothing(), shown(what, budget_s, drawn_per_s=_DRAWN_PER_S) as told:
        found = measure.profile_of(work, said, wanted, effort, name=name, told=told, warned=_warn)
    if save_profile is not None:
        profile.write(found, save_profile)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        unittables.show(console, found)
    _say(console, unittables.verdict(found))
    if advice := unittables.advice(found, os.getloadavg()[0], os.cpu_count() or 1):
        _say(console, advice)
    if save_profile is not None:
        _say(console, f"The profile: {save_profile}")
    if found.rate is None:
        raise typer.Exit(1)


def _warn(lacking: list[str]) -> None:
    if lacking:
        print(f"warning: no dollars without {unittables.mended(lacking)}", file=sys.stderr)


def _say(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False)


def _limit(p99: str, percentile: str) -> tuple[float, float]:
    """Percent and seconds."""
    if bool(p99) == bool(percentile):
        raise InvalidSetting(
            "give one of --p99 LIMIT and --percentile P=LIMIT, such as --p99 100ms"
        )
    percent, _, limit = ("99", "", p99) if p99 else percentile.partition("=")
    try:
        at = float(percent)
    except ValueError:
        at = 0.0
    if not 50 <= at < 100:
        raise InvalidSetting(f"'{percentile}' is no percentile from 50 to below 100, as 95=50ms")
    return at, seconds_of(limit)


def _price(own: Path | None, wanted: str) -> Price | None:
    if not wanted:
        return None
    found = prices.chosen(prices.book(own), wanted)
    if old := found.old_said(datetime.datetime.now(datetime.UTC).date()):
        print(f"warning: {old}", file=sys.stderr)
    return found


def _check_files(rows_file: Path | None, save_profile: Path | None) -> None:
    """Before anything is measured, which takes minutes."""
    if rows_file is not None and not rows_file.exists():
        raise InvalidSetting(f"{rows_file} does not exist")
    if save_profile is not None and (not save_profile.parent.is_dir() or save_profile.is_dir()):
        raise InvalidSetting(f"{save_profile} cannot be written; give a file in a directory")
