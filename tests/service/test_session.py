"""A graph runs as it is, or is refused in one sentence; never a traceback of ONNX Runtime's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.datatypes import DATATYPES
from service.errors import ModelUnusable
from service.manifest import TensorSpec
from service.session import Session, SessionOptions
from tests import models

ONE_THREAD = SessionOptions(threads=1)


def refusal(path: Path) -> str:
    with pytest.raises(ModelUnusable) as refused:
        Session(path, ONE_THREAD)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def bfloat16(path: Path) -> Path:
    """A graph on a datatype that the wire of this server has no name for."""
    kind = TensorProto.BFLOAT16
    x, y = (helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.mark.parametrize("options", [ONE_THREAD, SessionOptions(), SessionOptions(2, spin=True)])
def test_graph_runs(tmp_path: Path, options: SessionOptions) -> None:
    session = Session(models.double(tmp_path / "m.onnx", factor=3.0), options)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = session.run({"x": x})
    assert list(answer) == ["y"]
    assert np.array_equal(answer["y"], x * 3)


def test_array_that_cannot_be_written_to_is_run(tmp_path: Path) -> None:
    session = Session(models.double(tmp_path / "m.onnx"), ONE_THREAD)
    view = np.frombuffer(np.ones(4, np.float32).tobytes(), np.float32).reshape(1, 4)
    assert session.run({"x": view})["y"].tolist() == [[2, 2, 2, 2]]


def test_every_datatype_of_the_wire_is_declared_and_returned(tmp_path: Path) -> None:
    session = Session(models.every_datatype(tmp_path / "m.onnx"), ONE_THREAD)
    assert {spec.datatype for spec in session.inputs} == {row.name for row in DATATYPES}
    feeds = {f"in_{row.name}": np.full((2, 3), "é" if row.name == "BYTES" else 1, row.dtype)
             for row in DATATYPES}  # fmt: skip
    answer = session.run(feeds)
    for row in DATATYPES:
        given, got = feeds[f"in_{row.name}"], answer[f"out_{row.name}"]
        assert (got.dtype, got.tolist()) == (given.dtype, given.tolist())


def test_session_is_run_by_several_threads_at_once(tmp_path: Path) -> None:
    session = Session(models.double(tmp_path / "m.onnx"), ONE_THREAD)
    with ThreadPoolExecutor(4) as threads:
        feeds = [{"x": np.full((1, 4), value, np.float32)} for value in range(50)]
        answers = list(threads.map(session.run, feeds))
    assert [answer["y"][0, 0] for answer in answers] == [2 * value for value in range(50)]


def test_free_first_dimension_of_every_tensor_counts_rows(tmp_path: Path) -> None:
    session = Session(models.double(tmp_path / "m.onnx", batch="batch"), ONE_THREAD)
    assert session.batched
    assert session.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert session.outputs == (TensorSpec("y", "FP32", (-1, 4)),)


def test_fixed_first_dimension_is_no_batch(tmp_path: Path) -> None:
    session = Session(models.double(tmp_path / "m.onnx", batch=1), ONE_THREAD)
    assert not session.batched
    assert session.inputs[0].shape == (1, 4)


def test_output_that_does_not_follow_the_rows_is_no_batch(tmp_path: Path) -> None:
    session = Session(models.not_batched(tmp_path / "m.onnx"), ONE_THREAD)
    assert not session.batched
    assert (session.inputs[0].shape, session.outputs[0].shape) == ((-1,), ())


@pytest.mark.parametrize("build", [models.double, models.every_datatype, models.not_batched])
def test_warm_up_runs_every_kind_of_input(tmp_path: Path, build: object) -> None:
    Session(build(tmp_path / "m.onnx"), ONE_THREAD).warm_up(1, 8)  # type: ignore[operator]


def test_graph_that_loads_but_cannot_run_fails_its_warm_up(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [3])
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph([reshape], "g", [x], [y], [shape])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    with pytest.raises(ModelUnusable, match=r"fails to run on 1 rows of zeros: .*") as refused:
        Session(path, ONE_THREAD).warm_up(1)
    assert "\n" not in str(refused.value)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = models.classifier(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot load" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"this is a text, not a graph\n" * 9, b"\xff" * 500])
def test_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "cannot load" in refusal(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot load" in refusal(tmp_path / "absent.onnx")


def test_directory_is_refused(tmp_path: Path) -> None:
    assert "cannot load" in refusal(tmp_path)


def test_datatype_that_the_wire_does_not_have_is_refused(tmp_path: Path) -> None:
    assert "tensor 'x' is a tensor(bfloat16)" in refusal(bfloat16(tmp_path / "m.onnx"))
