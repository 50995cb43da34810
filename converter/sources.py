"""The trained model, whatever it is -> an fp32 ONNX file that agrees with its framework."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter import child, keras_export, verify
from service.errors import FarthingError
from service.session import Session, SessionOptions

_EXPORT_TIMEOUT_S = 1800.0


class ExportRefused(FarthingError):
    """A source that is not known, or an export that does not do what its framework does."""


@dataclass(frozen=True)
class Exported:
    """An fp32 graph that has been checked.

    Attributes:
        path: the ONNX file.
        expected: output name -> the framework's own answers for the held-out rows; None where
            there were no such rows, or no framework to ask (an ONNX file).
        facts: kind, route, largest difference, for the manifest's source.
        tools: package -> version.
    """

    path: Path
    expected: verify.Arrays | None
    facts: dict[str, Any]
    tools: dict[str, str]


def export(source: Path, directory: Path, evaluate: Path | None) -> Exported:
    """Export by the file's kind.

    Args:
        source: the trained model.
        directory: where to write; the caller removes it.
        evaluate: held-out rows, or None.

    Raises:
        ExportRefused: the kind is unknown, or the result is not what the framework computes.
        ChildFailed: the exporter failed, with its reason.
    """
    kind = source.suffix.lower()
    if kind not in SOURCES:
        raise ExportRefused(
            f"{source} is none of the kinds that can be converted: {', '.join(sorted(SOURCES))}"
        )
    return SOURCES[kind](source, directory, evaluate)


def _from_keras(source: Path, directory: Path, evaluate: Path | None) -> Exported:
    arguments = [str(source), str(directory)]
    if evaluate is not None:
        arguments += ["--evaluate", str(evaluate)]
    child.run("converter.keras_export", arguments, directory=directory, timeout_s=_EXPORT_TIMEOUT_S)
    path = directory / keras_export.MODEL
    facts = json.loads((directory / keras_export.FACTS).read_text(encoding="utf-8"))
    inputs, answers = _answers(directory / keras_export.PROBE)
    _name_batch(path)
    _check_graph(path, "the export")
    difference = _check_numbers(path, inputs, answers)
    expected = None
    if evaluate is not None:
        _, expected = _answers(directory / keras_export.EXPECTED)
    return Exported(
        path,
        expected,
        {
            "kind": "keras",
            "route": f"ExportArchive -> tf2onnx, opset {keras_export.OPSET}",
            "largest_difference": difference,
        },
        facts["tools"],
    )


def _from_onnx(source: Path, directory: Path, evaluate: Path | None) -> Exported:
    path = directory / keras_export.MODEL
    shutil.copyfile(source, path)
    _check_graph(path, str(source))
    return Exported(path, None, {"kind": "onnx", "route": "as it is"}, {})


SOURCES: dict[str, Callable[[Path, Path, Path | None], Exported]] = {
    ".keras": _from_keras,
    ".h5": _from_keras,
    ".onnx": _from_onnx,
}


def _answers(path: Path) -> tuple[verify.Arrays, verify.Arrays]:
    """The inputs and the framework's answers that the child wrote down."""
    with np.load(path, allow_pickle=True) as archive:  # our own child's file; strings are objects
        arrays = {name: archive[name] for name in archive.files}
    inputs = {name[3:]: array for name, array in arrays.items() if name.startswith("in:")}
    return inputs, {name[4:]: array for name, array in arrays.items() if name.startswith("out:")}


def _name_batch(path: Path) -> None:
    """Call every free first dimension ``batch``; tf2onnx gives each its own unreadable name."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].HasField("dim_value"):
            dimensions[0].dim_param = "batch"
    # What was inferred with the old names would contradict the new ones.
    del model.graph.value_info[:]
    onnx.save(model, path)


def _check_graph(path: Path, what: str) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # checker and protobuf raise classes of their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportRefused(f"{what} is not a valid ONNX graph: {first}") from error


def _check_numbers(path: Path, inputs: verify.Arrays, expected: verify.Arrays) -> float:
    """Compare with the framework at each probe batch; the largest difference."""
    session = Session(path, SessionOptions())
    names = {spec.name for spec in session.inputs}
    if names != set(inputs) or {spec.name for spec in session.outputs} != set(expected):
        raise ExportRefused(
            f"the export takes {sorted(names)}, the trained model {sorted(inputs)}: the exporter "
            "added, lost or renamed tensors"
        )
    worst, start = 0.0, 0
    for batch in keras_export.PROBE_BATCHES:
        rows = slice(start, start + batch)
        start += batch
        answers = session.run({name: array[rows] for name, array in inputs.items()})
        wanted = {name: array[rows] for name, array in expected.items()}
        if not verify.close(answers, wanted):
            raise ExportRefused(
                f"the export's answers differ from the trained model's at batch {batch}; the graph "
                "is not what was trained"
            )
        worst = max(worst, verify.largest_difference(answers, wanted))
    return worst
