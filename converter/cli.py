"""The verbs `convert` and `inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from converter import pipeline
from converter.recipe import ALL_VARIANTS, Recipe
from service import hardware, manifest, repository
from service.errors import InvalidSetting
from service.manifest import Manifest, Variant

_WIDTH = 100


def convert(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The trained model: .keras, .h5, .onnx.")
    ],
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What callers will call it, and its directory: 1 to 128 letters, digits, '_', "
            "'-' or '.'. A name that exists gets a new version.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="REPO",
            help="Model repository to publish into; made if it is not there. Servers see the new "
            "version when they start next.",
        ),
    ] = Path("models"),
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="X.npz",
            help="Some 100 to 1000 typical rows, that set the ranges of int8-static: one array per "
            "input under its name, or 'x' where there is one input. Without it int8-static is not "
            "built.",
        ),
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option(
            metavar="XY.npz",
            help="Held-out rows in the same form, labels under 'y'. Every variant is judged on "
            "them; without it only fp32 is published. 300 rows can prove a drop of 1 point, 600 "
            "one of 0.5.",
        ),
    ] = None,
    variants: Annotated[
        str, typer.Option(metavar="A,B,...", help="What to build beside fp32; fewer is faster.")
    ] = ",".join(ALL_VARIANTS),
    max_drop: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            min=0,
            max=100,
            help="Points of accuracy a variant may lose, 0 to 100, at 95 % confidence. Smaller "
            "refuses more variants and needs more held-out rows.",
        ),
    ] = 1.0,
    min_speedup: Annotated[
        float,
        typer.Option(
            metavar="RATIO",
            help="How many times faster than fp32 an int8 variant must be on this machine, above 0 "
            "to 100. Below 1 publishes what costs more than it saves.",
        ),
    ] = 1.1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON instead of the table.")
    ] = False,
) -> None:
    """Turn a trained model into verified ONNX variants, and publish those that hold.

    Each variant is compared with the trained model's own answers on the held-out rows, and timed
    beside fp32 on this machine. What fails a bound is recorded with the reason, and not published.
    """
    recipe = Recipe(
        source=model,
        name=name,
        out=out,
        calibration=calibration,
        evaluate=evaluate,
        variants=tuple(part.strip() for part in variants.split(",") if part.strip()),
        max_drop=max_drop,
        min_speedup=min_speedup,
    )
    console = Console(stderr=as_json, width=_WIDTH)
    contract = pipeline.run(recipe, lambda what: _shown(console, what))
    if as_json:
        print(contract.to_json(), end="")
    else:
        _print(console, contract)


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A published version's or model's directory, or an .onnx file."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.")
    ] = False,
) -> None:
    """Print what a published model, or any ONNX file, holds."""
    contract = _contract(path)
    if as_json:
        print(contract.to_json(), end="")
    else:
        _print(Console(width=_WIDTH), contract)


def _contract(path: Path) -> Manifest:
    if path.is_file():
        return repository.plain(path)
    if not path.is_dir():
        raise InvalidSetting(f"{path} does not exist")
    path = path.resolve()  # its name must be the model's or the version's, also for "."
    if manifest.is_version(path.name):
        return repository.read(path)
    versions = manifest.versions_in(path)
    if not versions:
        raise InvalidSetting(f"{path} holds no version of a model; expected {path}/1")
    return repository.read(path / str(versions[-1]))


@contextmanager
def _shown(console: Console, what: str) -> Iterator[None]:
    """A moving bar and the time elapsed while a step lasts; a line when it is done."""
    columns = (TextColumn("  {task.description}"), BarColumn(30), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield
        progress.update(task, total=1, completed=1)


def _print(console: Console, contract: Manifest) -> None:
    table = Table(title=f"{contract.name}: variants", title_justify="left")
    table.add_column("variant")
    for heading in ("MB", "accuracy", "agrees", "speed-up\nbatch 1 / 8"):
        table.add_column(heading, justify="right")
    table.add_column("published, or why not", overflow="fold")
    for variant in contract.variants:
        table.add_row(
            variant.name,
            f"{variant.bytes / 1e6:.2f}" if variant.bytes else "-",
            _percent(variant, "accuracy"),
            _percent(variant, "agreement"),
            _ratios(variant),
            escape(variant.reason)
            if variant.accepted
            else f"[red]refused[/]: {escape(variant.reason)}",
        )
    console.print(table)
    for kind, specs in (("takes", contract.inputs), ("gives", contract.outputs)):
        tensors = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in specs)
        console.print(escape(f"It {kind} {tensors}, where -1 is free."), highlight=False)
    choice = contract.chosen.get(hardware.fingerprint())
    if choice:
        said = f"On this hardware `farthing serve` takes {choice.variant}: {choice.reason}."
        console.print(escape(said), highlight=False)


def _percent(variant: Variant, figure: str) -> str:
    value = variant.figures.get(figure)
    return "-" if value is None else f"{100 * value:.2f} %"


def _ratios(variant: Variant) -> str:
    ratios = [variant.figures.get(f"speedup_batch_{batch}") for batch in (1, 8)]
    return " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
