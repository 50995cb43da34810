"""One conversion, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

from converter import publish, samples, sources
from converter.judge import Judge, choose
from converter.recipe import ALL_VARIANTS, Recipe
from converter.samples import Samples
from service import hardware, manifest
from service.errors import FarthingError
from service.manifest import Manifest
from service.session import Session, SessionOptions

# Called with what is being done; the step lasts as long as the context.
Step = Callable[[str], AbstractContextManager[Any]]
_TOOLS = ("farthing", "numpy", "onnx", "onnxruntime")


def convert(
    source: Path | str,
    *,
    name: str,
    out: Path | str,
    calibration: Path | str | None = None,
    evaluate: Path | str | None = None,
    variants: tuple[str, ...] = ALL_VARIANTS,
    max_drop: float = 1.0,
    min_speedup: float = 1.1,
) -> Manifest:
    """Convert a trained model and publish what holds: ``farthing.convert``.

    Args:
        source: the trained model's file.
        name: what callers will call it.
        out: the model repository.
        calibration: .npz with rows for static int8.
        evaluate: .npz with held-out rows, and labels under ``y``.
        variants: which to build beside fp32.
        max_drop: points of accuracy that a variant may lose, at 95 % confidence.
        min_speedup: how many times faster than fp32 an int8 variant must be on this machine.

    Returns:
        The manifest as published, refused variants and their reasons among it.

    Raises:
        FarthingError: in one sentence, what to mend; the repository is as it was.
    """
    recipe = Recipe(
        source=Path(source),
        name=name,
        out=Path(out),
        calibration=None if calibration is None else Path(calibration),
        evaluate=None if evaluate is None else Path(evaluate),
        variants=variants,
        max_drop=max_drop,
        min_speedup=min_speedup,
    )
    return run(recipe)


def run(recipe: Recipe, step: Step = nullcontext) -> Manifest:
    """The story of one conversion; see ``convert``."""
    with publish.staging(recipe.out) as stage:
        with step(f"exporting {recipe.source.name} to ONNX, comparing with its framework"):
            exported = sources.export(recipe.source, stage, recipe.evaluate)
            reference = Session(exported.path, SessionOptions())
        if recipe.evaluate and not reference.batched:
            raise FarthingError(
                f"{recipe.source} has no batch dimension, so held-out rows cannot judge it; "
                "leave out --evaluate"
            )
        calibration = _rows(recipe.calibration, reference)
        held_out = _rows(recipe.evaluate, reference)
        if calibration and held_out:
            samples.check_disjoint(calibration, held_out)
        judge = Judge(recipe, exported, reference, calibration=calibration, held_out=held_out)
        judged, files = [], {}
        for name in recipe.wanted:
            with step(f"building and verifying {name}"):
                variant, path = judge.variant(name, stage)
            judged.append(variant)
            if variant.file:
                files[variant.file] = path
        contract = Manifest(
            name=recipe.name,
            batched=reference.batched,
            inputs=reference.inputs,
            outputs=reference.outputs,
            variants=tuple(judged),
            chosen={hardware.fingerprint(): choose(judged)},
            source={
                **exported.facts,
                "file": recipe.source.name,
                "sha256": manifest.sha256_of(recipe.source),
            },
            samples={
                key: rows.describe()
                for key, rows in (("calibration", calibration), ("held_out", held_out))
                if rows is not None
            },
            tools={tool: metadata.version(tool) for tool in _TOOLS} | exported.tools,
            reproduce=recipe.command(),
        )
        with step(f"publishing {recipe.name}"):
            publish.publish(contract, files, out=recipe.out, stage=stage)
    return contract


def _rows(path: Path | None, reference: Session) -> Samples | None:
    return None if path is None else samples.read(path, reference.inputs)
