"""``farthing.convert``: a conversion as one call from Python."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter import live, pipeline, samples
from converter.recipe import ALL_VARIANTS, Bounds, Budget, Recipe, Source
from converter.zoo import material
from service.manifest import Manifest

Rows = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]


def convert(
    model: Any,
    *,
    name: str = "",
    out: Path | str = "models",
    calibration: Rows | None = None,
    evaluate: Rows | None = None,
    example: Rows | None = None,
    variants: Iterable[str] = ALL_VARIANTS,
    max_drop: float = 1.0,
    min_speedup: float = 1.1,
    metric: str = "auto",
    tolerance: float = 0.05,
    accept_unproven: bool = False,
    budget_s: float = 60.0,
    prune: float = 0.3,
    uint8_input: str = "",
    top_k: int = 0,
    device: str = "auto",
    signature: str = "",
    trust: bool = False,
    imports: Iterable[str] = (),
) -> Manifest:
    """Convert a trained model and publish what holds.

    Args:
        model: a path, ``zoo:NAME``, or a Keras model, PyTorch module or scikit-learn estimator.
        name: what callers will call it; the file's name if empty.
        out: the model repository.
        calibration: rows that set ranges: an .npz file, ``pkg.mod:rows``, a dictionary of arrays,
            or an iterable of such dictionaries, streamed to disk.
        evaluate: held-out rows in the same form, and labels under ``y``.
        example: some rows to trace a PyTorch module with; calibration or evaluate serve as well.
        variants: which to build beside fp32.
        max_drop: points of the metric that a variant may lose, at 95 % confidence.
        min_speedup: how many times faster than fp32 a variant must be on the device; on a CPU that
            is not asked of fp16.
        metric: ``auto``, ``accuracy``, ``agreement`` or ``distance``.
        tolerance: of ``distance``: how far a row's answer may move, as a share of the spread.
        accept_unproven: publish what too few rows can neither prove nor refute.
        budget_s: seconds of search for each variant that does not hold at once.
        prune: share of the channels that ``pruned`` cuts.
        uint8_input: normalisation to fold into the graph; see ``farthing convert --help``.
        top_k: answer with the best classes instead of all scores.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``tensorrt``: what variants are judged on.
        signature: of a SavedModel with several.
        trust: run code in the file (pickles, Lambda layers).
        imports: modules that register custom layers.

    Returns:
        The manifest as published, refused variants and their reasons among it.

    Raises:
        FarthingError: in one sentence, what to mend; the repository is as it was.
    """
    with ExitStack() as stack:
        shelf = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farthing-")))
        rows = {
            key: _named(value, shelf / f"{key}.npz")
            for key, value in (
                ("calibration", calibration), ("evaluate", evaluate), ("example", example)
            )
        }  # fmt: skip
        if isinstance(model, str) and model.startswith(material.PREFIX):
            made = material.train(model)
            source = Source(made.model, trust=True, given=model)
            rows["calibration"] = rows["calibration"] or str(made.calibration)
            rows["evaluate"] = rows["evaluate"] or str(made.held_out)
            name = name or made.name
        elif isinstance(model, str | Path):
            source = Source(Path(model), signature=signature, trust=trust, imports=tuple(imports))
            name = name or Path(model).stem
        else:
            given = rows["example"] or rows["calibration"] or rows["evaluate"]
            source = live.on_disk(model, shelf, samples.on_disk(given, shelf / "rows.npz"))
            name = name or str(getattr(model, "name", "") or type(model).__name__).lower()
        if any(not isinstance(each, str | Path | None) for each in (calibration, evaluate)):
            # Their files are gone when this returns: no command makes it again.
            source = replace(source, live=source.live or source.told)
        recipe = Recipe(
            source=source,
            name=name,
            out=Path(out),
            calibration=rows["calibration"],
            evaluate=rows["evaluate"],
            example=rows["example"],
            variants=tuple(variants),
            bounds=Bounds(max_drop, min_speedup, metric, tolerance, accept_unproven),
            budget=Budget(seconds=budget_s),
            prune=prune,
            uint8=uint8_input,
            top_k=top_k,
            device=device,
        )
        return pipeline.run(recipe)


def _named(rows: Rows | None, path: Path) -> str | None:
    """Rows as a recipe names them; what is in memory is written down first."""
    if rows is None or isinstance(rows, str | Path):
        return None if rows is None else str(rows)
    samples.write([rows] if isinstance(rows, Mapping) else rows, path)
    return str(path)
