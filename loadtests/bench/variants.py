"""The converter's suites: what its variants gain and lose, and what a conversion takes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from loadtests import processes
from loadtests.bench import damage, timing
from loadtests.bench.results import Figure
from service import manifest
from service.manifest import Manifest


def int8(directory: Path) -> list[Figure]:
    """int8 static over fp32 on one thread, of large nets with random weights."""
    figures = []
    for name, goals in (("resnet50", (2.7, 3.0)), ("mobilenetv2", (2.2, 2.2))):
        data = directory / name
        _run("loadtests.bench.keras_nets", name, str(data), log=directory)
        contract = _convert(
            data / f"{name}.keras", data, directory,
            "--variants", "int8-static", "--max-drop", "100", "--budget", "0",
        )  # fmt: skip
        for rows, goal in zip((1, 8), goals, strict=True):
            gain = _gain(directory, contract, "int8-static", data, rows)
            figures.append(
                Figure(f"{name}, int8-static over fp32, batch {rows}", f"{gain:.2f}", f">= {goal}")
            )
    return figures


def encoder(directory: Path) -> list[Figure]:
    """The zoo's BERT-style encoder: its best int8 over fp32 on one thread."""
    contract, data = _zoo("encoder", directory, "--variants", "int8-dynamic,int8-static")
    kept = [name for name in contract.published if name.startswith("int8")]
    gains = {
        name: min(_gain(directory, contract, name, data, rows) for rows in (1, 8)) for name in kept
    }
    best = max(gains, key=lambda name: gains[name], default="none was published")
    agreement = contract.variant(best).figures["agreement"] if gains else 0.0
    return [
        Figure(
            f"best int8 ({best}) over fp32, worse of 1, 8", f"{gains.get(best, 0):.2f}", ">= 1.6"
        ),
        Figure("its agreement with the trained model", f"{agreement:.2%}", ">= 99 %"),
    ]


def pruned(directory: Path) -> list[Figure]:
    """The zoo's small ResNet with 30 % of its channels cut, no training."""
    contract, data = _zoo("small-resnet", directory, "--variants", "pruned,pruned-int8")
    figures = []
    for variant in contract.variants:
        if variant.name == "fp32":
            continue
        drop = variant.figures.get("drop_points")
        told = "not judged" if drop is None else f"{drop:.2f}"
        figures.append(Figure(f"{variant.name}: points lost held out", told, "<= 1"))
        figures.append(Figure(f"{variant.name}: how", str(variant.made.get("how", variant.reason))))
        if variant.accepted:
            gain = min(_gain(directory, contract, variant.name, data, rows) for rows in (1, 8))
            figures.append(
                Figure(f"{variant.name} over fp32, worse of 1, 8", f"{gain:.2f}", ">= 1.4")
            )
        else:
            figures.append(Figure(f"{variant.name}: refused", variant.reason, "published"))
    return figures


def digits(directory: Path) -> list[Figure]:
    """What the published int8 of the trained digits nets loses."""
    figures = []
    for name in ("digits", "perceptron"):
        contract, _ = _zoo(name, directory)
        for variant in contract.variants:
            if variant.name.startswith("int8") and variant.accepted:
                lost = variant.figures["drop_points"]
                figures.append(
                    Figure(f"{name}, {variant.name}: points lost", f"{lost:.2f}", "<= 0.5")
                )
        figures.append(Figure(f"{name}: published", ", ".join(contract.published)))
    return figures


def damaged(directory: Path) -> list[Figure]:
    """Nets whose channel ranges were stretched 1000x: plain int8, and the gate's result."""
    trained, data = _zoo("digits", directory, "--variants", "fp32", quick=True)
    graph = directory / "models" / trained.name / "1" / "model.onnx"
    figures = []
    for behind in ("Relu", "Clip"):
        bad = damage.stretched(graph, directory / f"damaged-{behind}.onnx", behind=behind)
        for what, options in (
            ("plain int8", ("--budget", "0", "--max-drop", "100", "--min-speedup", "0.01")),
            ("the gate's int8-static", ("--max-drop", "1", "--min-speedup", "1.0")),
        ):
            out = directory / what.split()[0] / behind
            contract = _convert(bad, data, out, "--variants", "int8-static", *options)
            variant = next(v for v in contract.variants if v.name == "int8-static")
            lost = variant.figures.get("drop_points")
            told = (
                f"{lost:.2f}" if variant.accepted and lost is not None else "0, fp32 is published"
            )
            goal = "> 20" if what == "plain int8" else "<= 0.5"
            asked = f"min-speedup {options[-1]}"
            figures.append(Figure(f"behind {behind}, {what} ({asked}): points lost", told, goal))
            if what != "plain int8":
                how = variant.made.get("how", variant.reason)
                figures.append(Figure(f"behind {behind}: how", f"{how}; {_speed(variant)}"))
    return figures


def conversion(directory: Path) -> list[Figure]:
    """ResNet50 of the zoo with all variants and the gate: time and memory."""
    _train("resnet50", directory, quick=False)
    data = directory / "resnet50"
    begun = time.perf_counter()
    with timing.watched() as peak:
        contract = _convert(data / "model.keras", data, directory)
    seconds = time.perf_counter() - begun
    return [
        Figure("all variants and the gate", f"{seconds:.0f} s", "<= 240 s"),
        Figure("peak memory of all its processes", f"{peak.bytes / 1e9:.2f} GB", "< 3.5 GB"),
        Figure("published", ", ".join(contract.published)),
    ]


def _speed(variant: manifest.Variant) -> str:
    ratios = (variant.figures.get(f"speedup_batch_{rows}") for rows in (1, 8))
    return " / ".join("not timed" if ratio is None else f"{ratio:.2f}x" for ratio in ratios)


def _zoo(name: str, directory: Path, *options: str, quick: bool = False) -> tuple[Manifest, Path]:
    file = _train(name, directory, quick=quick)
    return _convert(file, directory / name, directory, *options), directory / name


def _train(name: str, directory: Path, *, quick: bool) -> Path:
    data = directory / name
    words = ["--quick"] if quick else []
    _run("converter.zoo", name, str(data), *words, log=directory)
    return next(path for path in data.iterdir() if path.stem == "model")


def _convert(model: Path, data: Path, directory: Path, *options: str) -> Manifest:
    directory.mkdir(parents=True, exist_ok=True)
    output = _run(
        "farthing", "convert", str(model), "--name", data.name, "--out",
        str(directory / "models"), "--calibration", str(data / "calibration.npz"),
        "--evaluate", str(data / "heldout.npz"), "--trust", "--json", *options, log=directory,
    )  # fmt: skip
    raw: dict[str, Any] = json.loads(output)
    versions = manifest.versions_in(directory / "models" / raw["name"])
    return manifest.load(directory / "models" / raw["name"] / str(versions[-1]))


def _gain(directory: Path, contract: Manifest, variant: str, data: Path, rows: int) -> float:
    version = manifest.versions_in(directory / "models" / contract.name)[-1]
    home = directory / "models" / contract.name / str(version)
    fp32, other = (home / str(contract.variant(name).file) for name in ("fp32", variant))
    return timing.ratio(fp32, other, timing.batch(data / "heldout.npz", rows))


def _run(module: str, *words: str, log: Path) -> bytes:
    command = [sys.executable, "-m", module, *words]
    return processes.finish(command, log=log / "log.txt")
