"""Trained models of every form, exported in real children and compared with their framework."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter import samples, sources
from converter.child import Limits
from converter.exporters.trained import Request
from converter.sources import Exported
from service.session import Session, SessionOptions

# Minutes, where the machine has other work.
pytestmark = pytest.mark.timeout(900)
LIMITS = Limits(seconds=300, memory_bytes=6_000_000_000)
# file -> options of the request
FILES: dict[str, dict[str, Any]] = {
    "mlp.keras": {},
    "dicts.keras": {},
    "subclassed.keras": {"imports": ("mine",)},
    "bilstm.keras": {},
    "masked.keras": {},
    "pixels.keras": {},
    "words.keras": {},
    "mixed_float16.keras": {},
    "encoder.keras": {},
    "ids.keras": {},
    "two": {"signature": "shifted"},
    "dynamic.tflite": {},
    "live": {},
}
# More of the same, for `make test-all`.
MORE: dict[str, dict[str, Any]] = {
    "mlp.h5": {},
    "called.keras": {},
    "states.keras": {},
    "gru.keras": {},
    "normalization.keras": {},
    "mixed_bfloat16.keras": {},
    "float.tflite": {},
}


def export(built: Path, name: str, options: dict[str, Any]) -> Exported | Exception:
    source = built / name
    request = Request(kind=sources.kind_of(source), source=source, route="", **options)
    shelf = built / "exports" / name
    shelf.mkdir(parents=True)
    rows = np.load(built / f"{source.stem}.npz")
    inputs = {key.removeprefix("in:"): rows[key] for key in rows.files if key.startswith("in:")}
    np.savez(shelf / "rows.npz", **inputs)
    try:
        return sources.export(replace(request, evaluate=shelf / "rows.npz"), shelf, LIMITS)
    except Exception as error:  # told by the test of this file
        return error


def all_exported(built: Path, files: dict[str, dict[str, Any]]) -> dict[str, Exported | Exception]:
    """Two at a time: each spends seconds in imports. Where the user's own modules lie."""
    with contextlib.chdir(built), ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(export, built, name, files[name]) for name in files}
        return {name: future.result() for name, future in futures.items()}


@pytest.fixture(scope="module")
def exports(built: Path) -> dict[str, Exported | Exception]:
    return all_exported(built, FILES)


@pytest.fixture(scope="module")
def more_exports(built: Path) -> dict[str, Exported | Exception]:
    return all_exported(built, MORE)


def recorded(built: Path, name: str, prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    """What the framework was given, and what it said, in the process that built the model."""
    with np.load(built / f"{Path(name).stem}.npz") as archive:
        return {
            key.removeprefix(prefix): archive[key]
            for key in archive.files
            if key.startswith(prefix)
        }


def check(built: Path, name: str, exported: Exported | Exception, close: float = 1e-5) -> None:
    assert isinstance(exported, Exported), exported
    assert exported.facts["routes_fallen"] == {}
    session = Session(exported.path, SessionOptions())
    feeds, answers = recorded(built, name, "in:"), recorded(built, name, "out:")
    assert {spec.name for spec in session.inputs} == set(feeds)
    assert {spec.name for spec in session.outputs} == set(answers)
    given = samples.read(built / "exports" / name / "rows.npz", session.inputs).feeds
    said = session.run(given)
    for output, wanted in answers.items():
        np.testing.assert_allclose(said[output], wanted, rtol=close, atol=close)
    if name != "dynamic.tflite":
        assert exported.expected is not None
        for output, wanted in answers.items():
            np.testing.assert_allclose(exported.expected[output], wanted, rtol=close, atol=close)
        assert exported.facts["largest_difference"] < 1e-4
    graph = onnx.load(exported.path).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


# Half precision's own noise, where the model was trained in it; and int8 weights.
NOISE = {"mixed_float16.keras": 5e-3, "mixed_bfloat16.keras": 5e-2, "dynamic.tflite": 2e-2}


@pytest.mark.parametrize("name", FILES)
def test_a_model_answers_as_its_framework_under_its_own_names(
    built: Path, exports: dict[str, Exported | Exception], name: str
) -> None:
    check(built, name, exports[name], NOISE.get(name, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_models_answer_as_their_framework(
    built: Path, more_exports: dict[str, Exported | Exception], name: str
) -> None:
    check(built, name, more_exports[name], NOISE.get(name, 1e-5))


def found(exports: dict[str, Exported | Exception], name: str) -> Exported:
    exported = exports[name]
    assert isinstance(exported, Exported), exported
    return exported


def operators(exported: Exported) -> set[str]:
    return {node.op_type for node in onnx.load(exported.path).graph.node}


def test_facts_say_by_which_route_and_with_what(exports: dict[str, Exported | Exception]) -> None:
    exported = found(exports, "mlp.keras")
    assert exported.facts["kind"] == "keras"
    assert exported.facts["route"] == "ExportArchive"
    assert exported.facts["notes"] == []
    assert set(exported.tools) == {"keras", "tensorflow", "tf2onnx"}


def test_an_lstm_is_one_operator_and_a_masked_one_a_loop_which_is_said(
    exports: dict[str, Exported | Exception],
) -> None:
    plain, masked = found(exports, "bilstm.keras"), found(exports, "masked.keras")
    assert "LSTM" in operators(plain) and "Loop" not in operators(plain)
    assert plain.facts["notes"] == []
    assert "Loop" in operators(masked)
    (note,) = masked.facts["notes"]
    assert "'lstm" in note and "gets a mask, so it becomes a Loop" in note


@pytest.mark.slow
def test_a_gru_is_a_loop_which_is_said(more_exports: dict[str, Exported | Exception]) -> None:
    (note,) = found(more_exports, "gru.keras").facts["notes"]
    assert "becomes a Loop" in note


def test_mixed_precision_is_exported_in_float32(exports: dict[str, Exported | Exception]) -> None:
    exported = found(exports, "mixed_float16.keras")
    graph = onnx.load(exported.path).graph
    assert {tensor.data_type for tensor in graph.initializer}.isdisjoint(
        {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    )
    assert "Cast" not in operators(exported)
    (note,) = exported.facts["notes"]
    assert note == "trained in mixed precision, and rebuilt in float32 for the export"


def test_exact_gelu_is_erf_at_any_length(exports: dict[str, Exported | Exception]) -> None:
    exported = found(exports, "encoder.keras")
    assert "Erf" in operators(exported) and "Erfc" not in operators(exported)
    session = Session(exported.path, SessionOptions())
    for length in (1, 5, 33):
        (answer,) = session.run({"tokens": np.ones((2, length), np.int32)}).values()
        assert answer.shape == (2, 3)


def test_ids_that_keras_takes_as_floats_are_whole_numbers(
    exports: dict[str, Exported | Exception],
) -> None:
    exported = found(exports, "ids.keras")
    (spec,) = Session(exported.path, SessionOptions()).inputs
    assert (spec.datatype, spec.shape) == ("INT32", (-1, 20))
    assert exported.facts["notes"] == ["ids: ids, so int32 instead of float32"]


def test_a_quantized_file_is_no_truth_for_others_which_is_said(
    exports: dict[str, Exported | Exception],
) -> None:
    exported = found(exports, "dynamic.tflite")
    assert exported.expected is None
    (note,) = exported.facts["notes"]
    assert note.startswith("holds int8 weights already")


def test_bytes_stay_bytes_and_texts_texts(exports: dict[str, Exported | Exception]) -> None:
    for name, datatype in (("pixels.keras", "UINT8"), ("words.keras", "BYTES")):
        (spec,) = Session(found(exports, name).path, SessionOptions()).inputs
        assert spec.datatype == datatype
