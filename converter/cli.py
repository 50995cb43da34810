"""The verbs `convert` and `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from converter import pipeline, predecessor, tables
from converter.recipe import ALL_VARIANTS, METRICS, Bounds, Budget, Recipe, Source
from converter.zoo import material
from service import hardware, manifest, opening
from service.errors import InvalidSetting
from service.manifest import Manifest


def convert(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="The trained model: .keras, .h5, a SavedModel, .pt2, TorchScript, a Hugging Face "
            "folder, .joblib, .tflite, .onnx; or zoo:NAME, a model that is trained here first "
            "(`python -m converter.zoo --list`).",
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What callers will call it, and its directory: 1 to 128 letters, digits, '_', "
            "'-' or '.'; the file's name unless said. A name that exists gets a new version.",
        ),
    ] = "",
    out: Annotated[
        Path,
        typer.Option(
            metavar="REPO",
            help="Model repository to publish into; made if it is not there. Servers see the new "
            "version when they start next.",
        ),
    ] = Path("models"),
    calibration: Annotated[
        str,
        typer.Option(
            metavar="ROWS",
            help="Some 200 to 1000 typical rows: an .npz with one array per input under its name, "
            "or 'x' where there is one input; or pkg.mod:rows, a function that gives dictionaries "
            "of arrays, streamed. They set ranges and guide the search; without them only fp32 and "
            "int8-dynamic are built.",
        ),
    ] = "",
    evaluate: Annotated[
        str,
        typer.Option(
            metavar="ROWS",
            help="Held-out rows in the same form, labels under 'y'. Every variant is judged on "
            "them; without them only fp32 is published. 300 rows can prove a drop of 1 point, 600 "
            "one of 0.5.",
        ),
    ] = "",
    variants: Annotated[
        str, typer.Option(metavar="A,B,...", help="What to build beside fp32; fewer is faster.")
    ] = ",".join(ALL_VARIANTS),
    max_drop: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            help="Points of the metric a variant may lose, 0 to 100, at 95 % confidence. Smaller "
            "refuses more variants and needs more held-out rows.",
        ),
    ] = 1.0,
    min_speedup: Annotated[
        float,
        typer.Option(
            metavar="RATIO",
            help="How many times faster than fp32 a variant must be on --device, above 0 to 100; "
            "on a CPU that is not asked of fp16. Below 1 publishes what costs more than it saves.",
        ),
    ] = 1.1,
    metric: Annotated[
        str,
        typer.Option(
            metavar="|".join(METRICS),
            help="accuracy needs labels; agreement compares decisions with the trained model's; "
            "distance its numbers (regression, embeddings). auto takes the first that can be had.",
        ),
    ] = "auto",
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="For the metric distance: a row counts as lost where its answer moved by more "
            "than this share of the outputs' spread.",
        ),
    ] = 0.05,
    accept_unproven: Annotated[
        bool,
        typer.Option(
            "--accept-unproven",
            help="Publish also what too few held-out rows can neither prove nor refute; the "
            "manifest says so.",
        ),
    ] = False,
    budget: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="For each variant that does not hold at once: how long to search for one that "
            "does (equalization, other ranges, regions left in fp32).",
        ),
    ] = 60.0,
    prune: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the channels that the variant pruned cuts, above 0 to 0.9; less is "
            "tried where it loses too much.",
        ),
    ] = 0.3,
    uint8_input: Annotated[
        str,
        typer.Option(
            metavar="NAME:scale=1/255:mean=A,B,C:std=D,E,F:axis=N",
            help="Fold (x * scale - mean) / std into the graph, so that clients send bytes, a "
            "quarter of the traffic. Rows are then uint8 as well.",
        ),
    ] = "",
    top_k: Annotated[
        int,
        typer.Option(
            metavar="K",
            help="Answer with the K best classes and their indices in place of all scores; 0 for "
            "all.",
        ),
    ] = 0,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda[:N]|tensorrt[:N]",
            envvar="FARTHING_DEVICE",
            help="What variants are judged on, for accuracy and speed; servers take by themselves "
            "only what won on their own kind of hardware. auto is a GPU where there is one that "
            "can be used, else the CPU, where fp16's overflow and speed cannot be seen. int8 is "
            "for CPUs and tensorrt, which builds an engine for each trial: give it --budget.",
        ),
    ] = "auto",
    signature: Annotated[
        str,
        typer.Option(metavar="NAME", help="Which signature of a SavedModel that has several."),
    ] = "",
    factory: Annotated[
        str,
        typer.Option(
            metavar="pkg.mod:build",
            help="A function that builds the PyTorch module (or it and example inputs), for "
            "weights that were saved without it. Your code is run.",
        ),
    ] = "",
    weights: Annotated[
        str, typer.Option(metavar="F", help="The state_dict for --factory: .pt or .safetensors.")
    ] = "",
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="pkg.mod",
            help="A module to import first, that registers custom layers; may be repeated.",
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run code that the file holds (pickle, joblib, Lambda layers): it can do all that "
            "you can. Only for files of your own.",
        ),
    ] = False,
    memory_gb: Annotated[
        float,
        typer.Option(
            metavar="GB",
            help="Most resident memory of the export's process; beyond it the conversion ends with "
            "a sentence. 0 for four fifths of what this machine has.",
        ),
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON instead of the table.")
    ] = False,
) -> None:
    """Turn a trained model into verified ONNX variants, and publish those that hold.

    Each variant is compared with the trained model's own answers on the held-out rows, and timed
    beside fp32 on --device. What fails a bound is recorded with the reason, and not published.
    """
    given = ""
    if model.startswith(material.PREFIX):
        made = material.train(model, weights=Path(weights) if weights else None)
        given, model, trust, weights = model, str(made.model), True, ""
        name = name or made.name
        calibration = calibration or str(made.calibration)
        evaluate = evaluate or str(made.held_out)
    if model and (factory or weights):
        raise InvalidSetting("give either a model or --factory (with --weights), not both")
    if weights and not factory:
        raise InvalidSetting("--weights needs --factory pkg.mod:build, which builds their module")
    path = model or weights
    source = Source(
        path=Path(path) if path else None,
        signature=signature,
        factory=factory,
        imports=tuple(imports or ()),
        trust=trust,
        given=given,
        memory_gb=memory_gb or 0.8 * hardware.memory_bytes() / 1e9,
    )
    recipe = Recipe(
        source=source,
        name=name or (Path(path).stem if path else factory.rpartition(":")[2]),
        out=out,
        calibration=calibration or None,
        evaluate=evaluate or None,
        variants=tuple(part.strip() for part in variants.split(",") if part.strip()),
        bounds=Bounds(max_drop, min_speedup, metric, tolerance, accept_unproven),
        budget=Budget(seconds=budget),
        prune=prune,
        uint8=uint8_input,
        top_k=top_k,
        device=device,
    )
    console = Console(stderr=as_json, width=tables.WIDTH)
    contract = pipeline.run(recipe, _shown)
    if as_json:
        print(contract.to_json(), end="")
    else:
        tables.show(console, contract)


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
    """Print what a published model, or any ONNX file, holds, and why it is not faster."""
    contract, directory = _contract(path)
    if as_json:
        print(contract.to_json(), end="")
        return
    console = Console(width=tables.WIDTH)
    entry, others = tables.held(directory, contract) if path.is_dir() else (None, [])
    tables.show(console, contract, entry)
    for line in others:
        console.print(escape(line), highlight=False)
    for variant in contract.variants:
        # They are about a CPU's kernels.
        if variant.file and predecessor.JUDGED_ON not in variant.made:
            tables.show_findings(console, variant.name, directory / variant.file)


def _contract(path: Path) -> tuple[Manifest, Path]:
    if path.is_file():
        return opening.contract_of_file(path), path.parent
    if not path.is_dir():
        raise InvalidSetting(f"{path} does not exist")
    path = path.resolve()  # its name must be the model's or the version's, also for "."
    if manifest.is_version(path.name):
        return opening.contract_of(path), path
    versions = manifest.versions_in(path)
    if not versions:
        raise InvalidSetting(f"{path} holds no version of a model; expected {path}/1")
    latest = path / str(versions[-1])
    return opening.contract_of(latest), latest


@contextmanager
def _shown(what: str) -> Iterator[Callable[[str], None]]:
    """A moving bar and the time elapsed while a step lasts; a line when it is done.

    On standard error, so that standard output is the result alone; and only where someone looks,
    since programs find one sentence there if something is wrong.
    """
    console = Console(stderr=True, width=tables.WIDTH)
    columns = (TextColumn("  {task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda text: progress.update(task, description=text[:60])
        progress.update(task, description=what, total=1, completed=1)
