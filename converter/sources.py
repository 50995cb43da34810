"""The trained model, whatever it is -> an fp32 ONNX file that agrees with its framework."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter import child, compare, graphs
from converter.exporters import KINDS, trained
from converter.exporters.keras_version import is_keras_2
from converter.exporters.trained import Request
from service.errors import FarthingError
from service.session import Session, SessionOptions

ONNX = "onnx"
_BY_SUFFIX = {
    ".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".tflite": "tflite",
    ".pt2": "torch-program", ".pt": "torchscript", ".pth": "torchscript", ".ts": "torchscript",
    ".joblib": "sklearn", ".pkl": "sklearn", ".pickle": "sklearn", ".onnx": ONNX,
}  # fmt: skip
# Share of rows that may differ: rows on a tree's threshold, see ``compare.close``.
_TOLERATED = {"sklearn": 0.05}
# The child's exit code for "the model itself cannot be exported": no other route is tried.
_REFUSED = 2


class ExportRefused(FarthingError):
    """A source that is not known, or an export that does not do what its framework does."""


@dataclass(frozen=True)
class Exported:
    """An fp32 graph that has been checked.

    Attributes:
        path: the ONNX file.
        expected: output name -> the framework's own answers for the held-out rows; None where
            there were no such rows, or no framework to ask (an ONNX file).
        facts: kind, route, the routes that fell and why, largest difference, notes; for the
            manifest's source.
        tools: package -> version.
        tolerated: share of the rows whose answers may differ from the framework's.
    """

    path: Path
    expected: compare.Arrays | None
    facts: dict[str, Any]
    tools: dict[str, str] = field(default_factory=dict)
    tolerated: float = 0.0


def kind_of(source: Path, factory: str = "") -> str:
    """What a trained model is, by its path; see ``KINDS``.

    Raises:
        ExportRefused: it is nothing that can be converted.
    """
    if factory:
        return "torch-factory"
    if source.is_dir():
        if (source / "saved_model.pb").exists():
            return "saved-model"
        if (source / "config.json").exists() or (source / "modules.json").exists():
            return "huggingface"
        raise ExportRefused(
            f"{source} is neither a SavedModel (saved_model.pb) nor a Hugging Face folder "
            "(config.json)"
        )
    kind = _BY_SUFFIX.get(source.suffix.lower())
    if kind is None:
        raise ExportRefused(
            f"{source} is none of the kinds that can be converted: {', '.join(sorted(_BY_SUFFIX))},"
            " a SavedModel, a Hugging Face folder"
        )
    if kind == "keras" and importlib.util.find_spec("tf_keras") and is_keras_2(source):
        return "keras-2"
    return kind


def export(request: Request, directory: Path, limits: child.Limits) -> Exported:
    """Export by the first route that leads to a graph which does what the framework does.

    Args:
        request: what to export; its route is chosen here.
        directory: where to write; the caller removes it.
        limits: of each route's process.

    Raises:
        ExportRefused: no route does; each with its reason.
        ChildFailed: the model itself cannot be exported, with the reason.
    """
    if request.kind == ONNX:
        return _as_it_is(request.source, directory)
    fallen: dict[str, str] = {}
    for route in KINDS[request.kind].routes:
        try:
            exported = _by(route, request, directory, limits)
        except child.ChildFailed as error:
            if error.code == _REFUSED:
                raise
            fallen[route] = str(error)
        except FarthingError as error:
            fallen[route] = str(error)
        else:
            return replace(exported, facts={**exported.facts, "routes_fallen": fallen})
    reasons = "; ".join(f"{route}: {reason}" for route, reason in fallen.items())
    raise ExportRefused(f"{request.source} cannot be exported. {reasons}")


def _by(route: str, request: Request, directory: Path, limits: child.Limits) -> Exported:
    """Export by one route, and believe nothing of it.

    Raises:
        FarthingError: the route failed, or its graph is not what was trained.
    """
    asked = Request(**{**vars(request), "route": route})
    asked.write(directory)
    path = directory / trained.MODEL
    path.unlink(missing_ok=True)
    child.run("converter.exporters", [str(directory)], directory=directory, limits=limits)
    facts = json.loads((directory / trained.FACTS).read_text(encoding="utf-8"))
    model = graphs.read(path)
    graphs.name_dimensions(model, facts["dimensions"])
    graphs.write(model, path)
    del model
    graphs.check(path, "the export")
    noise = facts["noise"]
    difference = _check_numbers(path, directory / trained.PROBE, facts["batches"], noise)
    expected = directory / trained.EXPECTED
    return Exported(
        path,
        # Answers that a framework rounded in its own way are nothing to hold others to.
        _arrays(expected, "out:") if expected.exists() and not noise else None,
        {
            "kind": request.kind,
            "route": route,
            "largest_difference": difference,
            "notes": facts["notes"],
        },
        facts["tools"],
        _TOLERATED.get(request.kind, 0.0),
    )


def _as_it_is(source: Path, directory: Path) -> Exported:
    path = directory / trained.MODEL
    model = graphs.read(source)
    graphs.name_dimensions(model, {})
    graphs.write(model, path)
    del model
    graphs.check(path, str(source))
    facts = {"kind": ONNX, "route": "as it is", "notes": [], "routes_fallen": {}}
    return Exported(path, None, facts)


def _arrays(path: Path, prefix: str) -> compare.Arrays:
    with np.load(path, allow_pickle=False) as archive:
        return {
            name.removeprefix(prefix): _objects(archive[name])
            for name in archive.files
            if name.startswith(prefix)
        }


def _objects(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Texts as ONNX Runtime takes them."""
    return array.astype(np.object_) if array.dtype.kind == "U" else array


def _check_numbers(path: Path, probe: Path, batches: list[int], noise: float) -> float:
    """Compare with the framework at each probe batch; the largest difference."""
    session = Session(path, SessionOptions())
    inputs, expected = _arrays(probe, "in:"), _arrays(probe, "out:")
    names = {spec.name for spec in session.inputs}
    if names != set(inputs):
        raise ExportRefused(
            f"the export takes {sorted(names)}, the trained model {sorted(inputs)}: the exporter "
            "added, lost or renamed inputs"
        )
    outputs = {spec.name for spec in session.outputs}
    if outputs != set(expected):
        raise ExportRefused(
            f"the export gives {sorted(outputs)}, the trained model {sorted(expected)}: the "
            "exporter added, lost or renamed outputs"
        )
    worst, start = 0.0, 0
    for batch in batches:
        rows = slice(start, start + batch) if len(batches) > 1 else slice(None)
        start += batch
        try:
            answers = session.run({name: array[rows] for name, array in inputs.items()})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            first = trained.first_line(error)
            raise ExportRefused(f"the export fails at batch {batch}: {first}") from error
        wanted = {name: array[rows] for name, array in expected.items()}
        if not compare.close(answers, wanted) and not _within(answers, wanted, noise):
            raise ExportRefused(
                f"the export's answers differ from the trained model's at batch {batch}, by up to "
                f"{compare.largest_difference(answers, wanted):.1e}; the graph is not what was "
                "trained"
            )
        worst = max(worst, compare.largest_difference(answers, wanted))
    return worst


def _within(answers: compare.Arrays, wanted: compare.Arrays, noise: float) -> bool:
    """Whether answers differ by at most this share of each output's largest."""
    return noise > 0 and all(
        answers[name].shape == array.shape
        and np.abs(answers[name].astype(float) - array).max() <= noise * np.abs(array).max()
        for name, array in wanted.items()
    )
