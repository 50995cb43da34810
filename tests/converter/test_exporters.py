"""Trained models of every form, exported in real children and compared with their framework."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter import child, samples, sources
from converter.child import ChildFailed, Limits
from converter.exporters import KINDS, trained
from converter.exporters.trained import Request
from converter.sources import Exported, ExportRefused
from service.session import Session, SessionOptions
from tests import models

LIMITS = Limits(seconds=120, memory_bytes=6_000_000_000)
# file -> options of the request
FILES: dict[str, dict[str, Any]] = {
    "mlp.keras": {},
    "called.keras": {},
    "dicts.keras": {},
    "subclassed.keras": {"imports": ("mine",)},
    "bilstm.keras": {},
    "masked.keras": {},
    "states.keras": {},
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
    "gru.keras": {},
    "normalization.keras": {},
    "mixed_bfloat16.keras": {},
    "float.tflite": {},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    run = [sys.executable, "-m", "tests.converter.keras_files", str(directory)]
    done = subprocess.run(run, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return directory


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
    """Two at a time, since each spends seconds in imports; in the directory of the user's modules."""
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
    assert exported.expected is not None
    for output, wanted in answers.items():
        np.testing.assert_allclose(said[output], wanted, rtol=close, atol=close)
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


def test_bytes_stay_bytes_and_texts_texts(exports: dict[str, Exported | Exception]) -> None:
    for name, datatype in (("pixels.keras", "UINT8"), ("words.keras", "BYTES")):
        (spec,) = Session(found(exports, name).path, SessionOptions()).inputs
        assert spec.datatype == datatype


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("numbers.keras", "IntegerLookup, which has no ONNX form: look the numbers up before"),
        ("text.keras", "split the text into token ids before the model (its vocabulary is"),
        ("code.keras", "holds a Lambda layer, which is code; if you trust the file, add --trust"),
        (
            "unregistered.keras",
            "needs 'Unregistered', which is not registered; decorate it with "
            "@keras.saving.register_keras_serializable(), and name its module with --import",
        ),
        ("unregistered.h5", "needs 'Unregistered', which is not registered"),
        ("unbuilt.keras", "was saved before it was built, so its inputs are unknown; call it"),
        ("odd.keras", "input 'my input-1' of "),
        ("nan.keras", "weight 'broken/kernel' of "),
        ("prose.keras", "prose.keras is not a file of Keras, or is cut off"),
        ("prose.h5", "prose.h5 is not a file of Keras, or is cut off"),
        ("cut.keras", "cut.keras is not a file of Keras, or is cut off"),
        ("old.h5", "was written by Keras 2, and Keras 3 cannot load it"),
        ("old.keras", "pip install 'farthing[cpu,keras2]'"),
        ("mlp.keras with no such import", "--import no_such_module failed (ModuleNotFoundError"),
        ("mlp.keras with a faulty import", "--import faulty failed (ZeroDivisionError"),
        ("mlp.keras with wrong rows", "_rows.npz has no array 'x', which is an input"),
        ("ids.keras with ids out of range", "its own framework fails with "),
        ("two", "has several signatures; choose one with --signature: double, shifted"),
        ("two with no such signature", "has no signature 'third'; it has double, shifted"),
        ("none", "has no signatures; save it with tf.saved_model.save(model, path, signatures"),
        ("anything", "input 'x' may have any number of dimensions; give its tf.TensorSpec"),
        ("rotten", "TensorFlow cannot load "),
        ("prose.tflite", "TFLite cannot load "),
    ],
)
def test_what_cannot_be_exported_is_refused_with_what_to_do(
    built: Path, case: str, sentence: str
) -> None:
    code, said = json.loads((built / "refused.json").read_text())[case]
    assert sentence in said
    assert "\n" not in said
    assert code == 2  # of which no other route can help


def test_code_in_a_file_is_run_where_it_is_trusted(built: Path) -> None:
    assert json.loads((built / "refused.json").read_text())["code.keras trusted"] == [0, ""]


def test_a_refusal_comes_out_of_the_child_and_no_other_route_is_tried(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = []
    run = child.run

    def counted(module: str, arguments: list[str], **named: Any) -> None:
        routes.append(Request.read(tmp_path).route)
        run(module, arguments, **named)

    monkeypatch.setattr(child, "run", counted)
    request = Request("keras", built / "nan.keras", "")
    with pytest.raises(ChildFailed, match="weight 'broken/kernel' of .* holds NaN or infinity"):
        sources.export(request, tmp_path, LIMITS)
    assert routes == ["ExportArchive"]


def test_a_missing_framework_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "tensorflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'tensorflow'\")"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    with pytest.raises(ChildFailed) as error:
        sources.export(Request("saved-model", tmp_path / "model", ""), tmp_path, LIMITS)
    assert str(error.value) == (
        f"{tmp_path / 'model'} needs a package that is not installed (No module named "
        "'tensorflow'); pip install 'farthing[cpu,keras]' brings its framework"
    )


class Exporter:
    """In place of the child: what each route leaves behind, or how it ends."""

    def __init__(self, **routes: Any) -> None:
        self.routes = routes
        self.asked: list[str] = []

    def run(self, module: str, arguments: list[str], *, directory: Path, limits: Limits) -> None:
        assert module == "converter.exporters"
        route = Request.read(Path(arguments[0])).route
        self.asked.append(route)
        ending = self.routes[route]
        if isinstance(ending, Exception):
            raise ending
        if ending is None:
            return
        ending(directory)


def doubled(directory: Path, *, factor: float = 2.0, probe: str = "x") -> None:
    """A graph that multiplies by a factor, of a framework that doubles."""
    models.double(directory / trained.MODEL, factor=factor)
    rows = np.random.default_rng(0).random((10, 4), np.float32)
    np.savez(directory / trained.PROBE, **{f"in:{probe}": rows, "out:y": 2 * rows})
    facts = {"batches": [1, 2, 7], "notes": [], "dimensions": {}, "tools": {"framework": "1"}}
    (directory / trained.FACTS).write_text(json.dumps(facts))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kind = replace(KINDS["keras"], routes=("first", "second"))
    monkeypatch.setitem(KINDS, "keras", kind)
    return tmp_path


def exported_by(monkeypatch: pytest.MonkeyPatch, shelf: Path, **routes: Any) -> Exported:
    monkeypatch.setattr(child, "run", Exporter(**routes).run)
    return sources.export(Request("keras", shelf / "m.keras", ""), shelf, LIMITS)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (ChildFailed("converter.exporters was killed by signal 11", -11), "killed by signal 11"),
        (ChildFailed("converter.exporters took more than 1 GB", None), "took more than 1 GB"),
        (ChildFailed("tf2onnx cannot convert it", 3), "tf2onnx cannot convert it"),
        (lambda d: doubled(d, factor=2.1), "answers differ from the trained model's at batch 1"),
        (lambda d: doubled(d, probe="z"), "the export takes ['x'], the trained model ['z']"),
        (lambda d: doubled(d, factor=np.nan), "weight 'factor' of the export holds NaN"),
    ],
)
def test_a_route_that_falls_is_recorded_and_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, first: Any, reason: str
) -> None:
    exported = exported_by(monkeypatch, shelf, first=first, second=doubled)
    assert exported.facts["route"] == "second"
    assert list(exported.facts["routes_fallen"]) == ["first"]
    assert reason in exported.facts["routes_fallen"]["first"]
    assert exported.facts["largest_difference"] == 0
    assert exported.tools == {"framework": "1"}
    assert exported.expected is None


def test_a_route_that_writes_nothing_does_not_leave_the_graph_of_another(
    monkeypatch: pytest.MonkeyPatch, shelf: Path
) -> None:
    doubled(shelf)
    with pytest.raises(ExportRefused, match=r"exported\.onnx cannot be read"):
        exported_by(monkeypatch, shelf, first=None, second=None)


def test_a_batch_that_was_baked_in_is_found(monkeypatch: pytest.MonkeyPatch, shelf: Path) -> None:
    def baked(directory: Path) -> None:
        doubled(directory)
        models.double(directory / trained.MODEL, batch=1)

    exported = exported_by(monkeypatch, shelf, first=baked, second=doubled)
    assert "the export fails at batch 2" in exported.facts["routes_fallen"]["first"]


def test_where_all_routes_fall_each_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, shelf: Path
) -> None:
    with pytest.raises(ExportRefused) as error:
        exported_by(
            monkeypatch, shelf, first=ChildFailed("it broke", 3), second=ChildFailed("it too", -9)
        )
    assert str(error.value) == (
        f"{shelf / 'm.keras'} cannot be exported. first: it broke; second: it too"
    )


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = models.double(tmp_path / "double.onnx")
    assert sources.kind_of(source) == sources.ONNX
    exported = sources.export(Request(sources.ONNX, source, ""), tmp_path, LIMITS)
    assert exported.facts["route"] == "as it is"
    assert exported.path.read_bytes() != b"" and exported.expected is None


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("m.keras", "keras"), ("m.H5", "keras"), ("m.tflite", "tflite"), ("m.pt2", "torch-program"),
        ("m.pt", "torchscript"), ("m.joblib", "sklearn"), ("m.onnx", "onnx"),
        ("d/saved_model.pb", "saved-model"), ("d/config.json", "huggingface"),
    ],
)  # fmt: skip
def test_what_a_model_is_shows_in_its_path(tmp_path: Path, made: str, kind: str) -> None:
    path = tmp_path / made
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert sources.kind_of(path.parent if made.startswith("d/") else path) == kind


def test_what_is_no_model_is_refused_with_what_can_be_converted(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="neither a SavedModel .* nor a Hugging Face folder"):
        sources.kind_of(tmp_path)
    with pytest.raises(ExportRefused, match=r"none of the kinds that can be converted: \.h5,"):
        sources.kind_of(tmp_path / "model.zip")
