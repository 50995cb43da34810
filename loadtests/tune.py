"""The verb `tune`: the options that one model runs best with here, for the server to take."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import measuring, search
from loadtests.measuring import Rig
from loadtests.screen import WIDTH, shown
from loadtests.trials import Outcome, Setting, Tried
from service import hardware, layout, log, session, tuned
from service.errors import InvalidSetting
from service.layout import Place
from service.tuned import Tuned

_CAPTION = (
    "at worst: just missed a run, so two of them, each the 95th percentile; x: rows/s over the "
    "first of its knob; CPU alone: of one request to an idle server; *: stays"
)

# Between quartiles; on a quiet shared machine it is some hundredths.
_NOISY = 0.2


def tune(
    repository: Annotated[
        Path, typer.Argument(metavar="REPO", help="The directory that is served: NAME/VERSION/...")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model to tune.")],
    version: Annotated[
        int, typer.Option(min=0, metavar="N", help="Its version, 1 or more; 0 is the newest.")
    ] = 0,
    target_ms: Annotated[
        float,
        typer.Option(
            min=0,
            max=3_600_000,
            help="Milliseconds within which a caller of a busy server is to be answered, 0 to "
            "3600000: twice the 95th percentile of a full run, since who has just missed a run "
            "waits for that one and then for its own. 0 is no target: throughput alone counts, and "
            "batches grow as long as they gain anything.",
        ),
    ] = 0.0,
    budget_s: Annotated[
        float,
        typer.Option(
            min=1,
            max=86_400,
            help="Seconds that the search may take, about, 1 to 86400. With fewer, large batches "
            "of slow models are left out, and small gains drown in the noise.",
        ),
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would win, and write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.")
    ] = False,
) -> None:
    """Find the variant, batch limit, instances, threads and spinning that serve a model best here.

    Measured in process, without the network, on this machine as it is now: let nothing else run.
    The winner is written beside the model, into tuned.json, and `farthing serve` takes it wherever
    the CPU and the number of CPUs are the same. Exit code 1 if nothing meets the target.
    """
    place, number = _found(repository, model, version)
    directory = place.version_directory(number)
    _check_writable(directory, dry_run=dry_run)
    options, cpus = place.options(), hardware.cpus()
    console = Console(stderr=as_json, width=WIDTH)
    rig = Rig(place, number, options)
    with (
        log.silent(),
        shown(console, f"tuning {model}/{number} on {cpus} CPUs", budget_s) as told,
    ):
        ends = rig.clocks.now() + budget_s
        defaults, variants = rig.defaults()
        steps = search.search(
            defaults, variants, cpus=cpus, target_s=target_ms / 1000 if target_ms else None
        )
        outcome = measuring.run(
            steps, rig, ends=ends, told=lambda knob: told(f"tuning {model}/{number}: {knob}")
        )
        entry = entry_of(
            outcome, rig, target_ms, datetime.datetime.now(datetime.UTC).date().isoformat()
        )
        rig.close()
    written = None if entry is None or dry_run else tuned.write(directory, entry)
    if as_json:
        print(json.dumps(_summary(outcome, entry, written), indent=2))
    else:
        console.print(_table(f"{model}/{number} on {cpus} CPUs", outcome))
    last = _last_words(outcome, entry, written, target_ms)
    console.print(escape(f"{last}{_noise(outcome)}"), highlight=False)
    if entry is None:
        raise typer.Exit(1)


def _found(repository: Path, model: str, version: int) -> tuple[Place, int]:
    """The place of a model, and its version's number."""
    if repository.is_file():
        raise InvalidSetting(
            f"{repository} is a file, and what is tuned is written beside the model in a "
            f"repository; put it into a directory as models/{repository.stem}/1/model.onnx"
        )
    place = layout.place(repository, model)
    if place is None:
        names = ", ".join(sorted(layout.places(repository))) or "none"
        raise InvalidSetting(f"{repository} has no model '{model}'; it has {names}")
    versions = place.available()
    if version and version not in versions:
        raise InvalidSetting(
            f"model '{model}' has no version {version}; it has {', '.join(map(str, versions))}"
        )
    return place, version or versions[-1]


def _check_writable(directory: Path, *, dry_run: bool) -> None:
    """Before anything is measured for nothing."""
    tuned.read(directory)
    if not dry_run and not os.access(directory, os.W_OK):
        raise InvalidSetting(
            f"{directory} cannot be written; tune where it can be, or give --dry-run"
        )


def entry_of(outcome: Outcome, rig: Rig, target_ms: float, date: str) -> Tuned | None:
    """What is written of a search; None if nothing meets the target."""
    winner, measured = outcome.winner, outcome.measured
    if winner is None or measured is None:
        return None
    figures = {
        "rows_per_s": round(measured.rate, 2),
        "run_ms": round(1e3 * measured.run_s_median, 4),
        "worst_ms": round(1e3 * measured.worst_s, 4),
        "over_defaults": round(outcome.over_defaults, 3),
    }
    return Tuned(
        fingerprint=hardware.fingerprint(),
        cpus=hardware.cpus(),
        sha256=rig.sha256(winner.variant),
        target_ms=target_ms,
        figures=figures,
        onnxruntime=session.ort_version(),
        date=date,
        **asdict(winner),
    )


def _summary(outcome: Outcome, entry: Tuned | None, written: Path | None) -> dict[str, Any]:
    return {
        "winner": None if entry is None else asdict(entry),
        "written": None if written is None else str(written),
        "tried": [
            {
                "knob": each.knob,
                **asdict(each.setting),
                "rows_per_s": each.measured.rate,
                "run_ms": 1e3 * each.measured.run_s_median,
                "worst_ms": 1e3 * each.measured.worst_s,
                "sparse_cpu_ms": None
                if each.measured.sparse_cpu_s is None
                else 1e3 * each.measured.sparse_cpu_s,
                "rounds": len(each.measured.rates),
                "spread": each.measured.spread,
                "verdict": each.verdict,
                "stays": each.stays,
            }
            for each in outcome.tried
        ],
    }


def _table(title: str, outcome: Outcome) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
                  caption=_CAPTION, caption_justify="left")  # fmt: skip
    for heading in ("knob", "variant"):
        table.add_column(heading)
    for heading in ("rows\na run", "instances\nx threads"):
        table.add_column(heading, justify="right")
    table.add_column("spin")
    for heading in ("rows/s", "run ms\nmedian", "latency ms\nat worst"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    before = ""
    for each in outcome.tried:
        if before not in ("", each.knob):
            table.add_section()
        table.add_row(
            "" if each.knob == before else each.knob, *_cells(each),
            style="bold" if each.stays else None,
        )  # fmt: skip
        before = each.knob
    return table


def _cells(each: Tried) -> tuple[str, ...]:
    setting, measured = each.setting, each.measured
    return (
        escape(setting.variant),
        str(setting.max_batch or "-"),
        f"{setting.instances} x {setting.threads}",
        "on" if setting.spin else "off",
        tuned.said_rate(measured.rate),
        f"{1e3 * measured.run_s_median:.3g}",
        f"{1e3 * measured.worst_s:.3g}",
        f"{'* ' if each.stays else ''}{each.verdict}",
    )


def _last_words(
    outcome: Outcome, entry: Tuned | None, written: Path | None, target_ms: float
) -> str:
    if entry is None:
        nearest = outcome.nearest
        return (
            f"Nothing that was tried answers within {target_ms:g} ms: the nearest, "
            f"{_said(nearest.setting)}, takes {1e3 * nearest.measured.worst_s:.3g} ms at worst; "
            "nothing was written."
        )
    assert outcome.winner is not None
    rate = tuned.said_rate(entry.figures["rows_per_s"])
    where = f"written to {written}" if written else "nothing was written (--dry-run)"
    return (
        f"* {_said(outcome.winner)}: {rate} rows/s, over the defaults: "
        f"{outcome.over_defaults:.2f}x; {where}."
    )


def _noise(outcome: Outcome) -> str:
    spread = max(each.measured.spread for each in outcome.tried)
    if spread <= _NOISY:
        return ""
    return (
        f"\nOne setting varied by {100 * spread:.0f} % from round to round: if something else runs "
        "on this machine, tune again when it is quiet; small differences mean little here."
    )


def _said(setting: Setting) -> str:
    options = asdict(setting)
    return f"{options.pop('variant')}, {tuned.said(**options)}"
