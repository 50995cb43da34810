"""The verb `tune`: the options that one model runs best with here, for the server to take."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.screen import WIDTH, all_or_nothing, shown
from loadtests.tuning import measuring, search
from loadtests.tuning.ending import Asked, Ending, figures, last_words, notes, store, summary
from loadtests.tuning.measuring import Rig
from loadtests.tuning.trials import Outcome, Tried
from service import layout, log, machine, manifest, session, tuned
from service.devices import CUDA
from service.errors import InvalidSetting
from service.layout import Place
from service.settings import Settings
from service.tuned import Tuned

_CAPTION = (
    "at worst: just missed a run, so two of them, each the 95th percentile; x: median of the "
    "rounds' ratios of its rows/s to those of what stays (*), or to the first where nothing does"
)
_SPUN = "; CPU alone: of one request to an idle server"


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
    allow_spin: Annotated[
        bool,
        typer.Option(
            "--allow-spin",
            help="Also try threads that wait in a busy loop. That gains some throughput and burns "
            "CPU between requests, for a lone one many times what its run takes: for machines that "
            "are paid for in any case. Without it, it is not tried, and never chosen.",
        ),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda[:N,...]|tensorrt[:N,...]",
            envvar="FARTHING_DEVICE",
            help="Where servers will run it, as their own --device says. On GPUs the batch limit, "
            "1 to 3 instances for each GPU are searched instead of threads, and CUDA graphs where "
            "they are off; tensorrt builds an engine for each setting: give it --budget-s.",
        ),
    ] = "auto",
    most_rows: Annotated[
        int,
        typer.Option(
            min=1,
            max=4096,
            help="No batch limit above it is tried, 1 to 4096. Lower it where requests are too few "
            "to fill larger batches, or their rows take too much of a GPU's memory.",
        ),
    ] = search.MOST_ROWS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would win, and write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.")
    ] = False,
) -> None:
    """Find the variant, batch limit, instances and threads that serve a model best here.

    Measured in process, without the network, on this machine as it is now: let nothing else run.
    The winner is written beside the model, into tuned.json, and `farthing serve` takes it wherever
    the CPU and the number of CPUs are the same, or the GPUs and theirs. Where nothing beats the
    defaults, nothing is written, and an earlier entry of this hardware is removed. Exit code 1 if
    nothing meets the target.
    """
    place, number = _found(repository, model, version)
    directory = place.version_directory(number)
    _check_writable(directory, dry_run=dry_run)
    here = machine.found(device)
    asked = Asked(
        model, number, here.units(), target_ms, budget_s, dry_run, mark=here.fingerprint()
    )
    console = Console(stderr=as_json, width=WIDTH)
    rig = Rig(place, number, place.options(), settings=Settings(device=device), here=here)
    with all_or_nothing():
        asked, ending = _searched(rig, asked, allow_spin=allow_spin, most_rows=most_rows)
    written, old = store(directory, ending.outcome, ending.entry, asked)
    ending = replace(ending, written=written, old=old)
    if as_json:
        print(json.dumps(summary(asked, ending), indent=2))
    else:
        console.print(_table(asked.title, ending.outcome))
    for text in (last_words(asked, ending), notes(asked, ending)):
        console.print(escape(text), highlight=False)
    if ending.outcome.winner is None:
        raise typer.Exit(1)


def _searched(rig: Rig, asked: Asked, *, allow_spin: bool, most_rows: int) -> tuple[Asked, Ending]:
    """Search, with a bar that shows it; where the model runs is only known once it is open."""
    what = f"tuning {asked.model}/{asked.version}"
    target_s = asked.target_ms / 1000 if asked.target_ms else None
    with log.silent(), shown(f"tuning {asked.title}", asked.budget_s) as told:
        begun = rig.clocks.now()
        defaults, variants = rig.defaults()
        asked = replace(asked, cpus=rig.units, mark=rig.mark)
        if rig.device.is_gpu:
            steps = search.search_on_gpus(
                defaults, variants, gpus=asked.cpus, target_s=target_s, most_rows=most_rows,
                graphs=rig.device.kind == CUDA,
            )  # fmt: skip
        else:
            steps = search.search(
                defaults, variants, cpus=asked.cpus, target_s=target_s, most_rows=most_rows,
                allow_spin=allow_spin,
            )  # fmt: skip
        outcome = measuring.run(
            steps, rig, ends=begun + asked.budget_s, told=lambda knob: told(f"{what}: {knob}")
        )
        entry = entry_of(
            outcome, rig, asked.target_ms, datetime.datetime.now(datetime.UTC).date().isoformat()
        )
        rig.close()
        return asked, Ending(outcome, entry, rig.held(), rig.clocks.now() - begun)


def _found(repository: Path, model: str, version: int) -> tuple[Place, int]:
    """The place of a model, and its version's number."""
    if not repository.is_dir():
        raise InvalidSetting(_no_directory(repository))
    place = layout.place(repository, model)
    if place is None:
        raise InvalidSetting(_no_model(repository, model))
    versions = place.available()
    if version and version not in versions:
        raise InvalidSetting(
            f"model '{model}' has no version {version}; it has {', '.join(map(str, versions))}"
        )
    return place, version or versions[-1]


def _no_directory(path: Path) -> str:
    """What to give instead of what is no directory."""
    if not path.exists():
        return f"{path} does not exist; give the model repository that is served"
    holder = path.absolute().parent
    if manifest.is_version(holder.name):
        root = path.parents[2] if len(path.parents) > 3 else holder.parent.parent
        return (
            f"{path} is a file of a model in a repository; give both: "
            f"farthing tune {root} --model {holder.parent.name}"
        )
    return (
        f"{path} is a file, and what is tuned is written beside the model in a repository; put it "
        f"into a directory as models/{path.stem}/1/model.onnx"
    )


def _no_model(repository: Path, model: str) -> str:
    """What to give instead of a repository that has not this model."""
    if manifest.versions_in(repository):
        root = repository.parent if repository.name else repository.absolute().parent
        return f"{repository} is one model; give the repository it lies in: {root}"
    names = ", ".join(sorted(layout.places(repository)))
    has = f"it has {names}" if names else "it has no models (NAME/VERSION/model.onnx)"
    return f"{repository} has no model '{model}'; {has}"


def _check_writable(directory: Path, *, dry_run: bool) -> None:
    """Before anything is measured for nothing."""
    tuned.read(directory)
    if not dry_run and not os.access(directory, os.W_OK):
        raise InvalidSetting(
            f"{directory} cannot be written; tune where it can be, or give --dry-run"
        )


def entry_of(outcome: Outcome, rig: Rig, target_ms: float, date: str) -> Tuned | None:
    """What is written of a search; None if nothing meets the target, or the defaults stay."""
    winner = outcome.winner
    if winner is None or outcome.defaults_stay:
        return None
    return Tuned(
        fingerprint=rig.mark,
        cpus=rig.units,
        sha256=rig.sha256(winner.variant),
        target_ms=target_ms,
        figures=figures(outcome),
        onnxruntime=session.ort_version(),
        date=date,
        **asdict(winner),
    )


def _table(title: str, outcome: Outcome) -> Table:
    caption = _CAPTION + (_SPUN if outcome.sparse_cpu_s else "")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
                  caption=caption, caption_justify="left")  # fmt: skip
    for heading in ("knob", "variant"):
        table.add_column(heading)
    on_gpu = outcome.defaults.cuda_graphs is not None
    for heading in ("rows\na run", "instances" if on_gpu else "instances\nx threads"):
        table.add_column(heading, justify="right")
    table.add_column("CUDA\ngraphs" if on_gpu else "spin")
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
    on_cpu = setting.cuda_graphs is None
    return (
        escape(setting.variant),
        str(setting.max_batch or "-"),
        f"{setting.instances} x {setting.threads}" if on_cpu else str(setting.instances),
        "on" if setting.spin or setting.cuda_graphs else "off",
        tuned.said_rate(measured.rate),
        f"{1e3 * measured.run_s_median:.3g}",
        f"{1e3 * measured.worst_s:.3g}",
        f"{'* ' if each.stays else ''}{each.verdict}",
    )
