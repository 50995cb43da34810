"""A graph runs as it is, or is refused in one sentence; never a traceback of ONNX Runtime's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

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
    rows = [row for row in DATATYPES if row.name != "BF16"]  # has tests of its own
    assert {spec.datatype for spec in session.inputs} == {row.name for row in rows}
    feeds = {f"in_{row.name}": np.full((2, 3), "é" if row.name == "BYTES" else 1, row.dtype)
             for row in rows}  # fmt: skip
    answer = session.run(feeds)
    for row in rows:
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


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = models.double(tmp_path / "m.onnx", batch="Batch")
    path.write_bytes(path.read_bytes().replace(b"Batch", b"B\xfftch"))
    assert "cannot load" in refusal(path)


def test_onnx_runtime_writes_no_lines_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = models.double(tmp_path / "m.onnx", batch="Batch")
    for old, new in ((b"Batch", b"B\xfftch"), (b"J\x04", b"J\x05"), (b"Mul", b"Nul")):
        (tmp_path / "bad.onnx").write_bytes(path.read_bytes().replace(old, new))
        refusal(tmp_path / "bad.onnx")
    session = Session(path, ONE_THREAD)
    with pytest.raises(Exception, match="x"):
        session.run({"x": np.zeros((2, 5), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot load" in refusal(tmp_path / "absent.onnx")


def test_directory_is_refused(tmp_path: Path) -> None:
    assert "cannot load" in refusal(tmp_path)


def test_datatype_that_the_wire_does_not_have_is_refused(tmp_path: Path) -> None:
    path = models.identities(tmp_path / "m.onnx", opset=19, a=TensorProto.FLOAT8E4M3FN)
    assert "tensor 'in_a' is a tensor(float8e4m3fn)" in refusal(path)


def test_input_that_the_graph_has_a_value_for_is_optional(tmp_path: Path) -> None:
    session = Session(models.optional_factor(tmp_path / "m.onnx"), ONE_THREAD)
    assert [spec.name for spec in session.inputs] == ["x"]
    assert session.optional == (TensorSpec("factor", "FP32", (-1, 4), optional=True),)
    x = np.ones((2, 4), np.float32)
    assert session.run({"x": x})["y"].tolist() == [[2] * 4] * 2
    assert session.run({"x": x, "factor": x * 5})["y"].tolist() == [[5] * 4] * 2


@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(1, inter_op_threads=2, parallel=True),
        SessionOptions(1, graph_level="ORT_DISABLE_ALL"),
        SessionOptions(1, mem_arena=False, mem_pattern=False),
        SessionOptions(1, config=(("session.disable_prepacking", "1"),)),
        SessionOptions(1, run_config=(("memory.enable_memory_arena_shrinkage", "cpu:0"),)),
    ],
)
def test_graph_runs_under_every_option(tmp_path: Path, options: SessionOptions) -> None:
    session = Session(models.double(tmp_path / "m.onnx"), options)
    assert session.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2] * 4]


@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(1, graph_level="ORT_ENABLE_MAGIC"),
        SessionOptions(1, config=(("x" * 2000, "1"),)),
        SessionOptions(1, run_config=(("x" * 2000, "1"),)),
    ],
)
def test_options_that_onnx_runtime_does_not_know_are_refused(
    tmp_path: Path, options: SessionOptions
) -> None:
    with pytest.raises(ModelUnusable, match="cannot load"):
        Session(models.double(tmp_path / "m.onnx"), options)


def test_run_options_reach_onnx_runtime(tmp_path: Path) -> None:
    options = SessionOptions(1, run_config=(("memory.enable_memory_arena_shrinkage", "tpu:0"),))
    session = Session(models.double(tmp_path / "m.onnx"), options)
    with pytest.raises(ModelUnusable, match=r"fails to run on its warm-up sample: .*tpu"):
        session.warm_up_with({"x": np.ones((1, 4), np.float32)})


def test_session_entries_reach_onnx_runtime(tmp_path: Path) -> None:
    entry = ("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(ModelUnusable, match="cannot load"):
        Session(models.double(tmp_path / "m.onnx"), SessionOptions(1, config=(entry,)))


def test_warm_up_sample_that_does_not_fit_is_refused_without_the_reason_for_strangers(
    tmp_path: Path,
) -> None:
    session = Session(models.double(tmp_path / "m.onnx"), ONE_THREAD)
    session.warm_up_with({"x": np.ones((3, 4), np.float32)})
    with pytest.raises(ModelUnusable, match="fails to run on its warm-up sample: ") as refused:
        session.warm_up_with({"x": np.ones((3, 5), np.float32)})
    assert refused.value.told == "the model loads but fails to run on its warm-up sample"


def test_rows_need_not_follow_where_the_contract_has_no_batch(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 4]) for n in "xy")
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 4])
    # Twice the rows: a batch by its shapes, none by its doing.
    nodes = [helper.make_node("Concat", ["x", "x"], ["two"], axis=0),
             helper.make_node("Reshape", ["two", "shape"], ["y"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [x], [y], [shape])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", ONE_THREAD)
    session.warm_up(1, batched=False)
    with pytest.raises(ModelUnusable, match="cannot be told apart"):
        session.warm_up(1)


def test_reloads_do_not_add_up_in_memory(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", layers=6)  # 24 MiB of weights
    resident = psutil.Process().memory_info
    before, old = resident().rss, Session(path, ONE_THREAD)
    for _ in range(10):
        new = Session(path, ONE_THREAD)
        new.warm_up(1, 16)
        old.close()
        old = new
    assert resident().rss - before < 2 * 24 * 2**20


def chain(path: Path, layers: int) -> Path:
    """Dense layers of 4 MiB each, one after the other."""
    weights = [numpy_helper.from_array(np.eye(1024, dtype=np.float32), f"w{i}")
               for i in range(layers)]  # fmt: skip
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    x, y = (helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["batch", 1024])
            for i in (0, layers))  # fmt: skip
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path
