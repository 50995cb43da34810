"""ONNX files from anywhere: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from converter import graphs
from converter.graphs import BadGraph
from service.session import Session, SessionOptions
from tests import models

WEIGHTS = np.arange(400, dtype=np.float32).reshape(4, 100)


def with_weights_in(directory: Path, location: str, *, weights: bool = True) -> Path:
    """``y = x @ w``, the weights said to lie in another file, which is written or not."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 4), ("y", 100))
    ]
    w = numpy_helper.from_array(WEIGHTS, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "test", values[:1], values[1:], [w]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    tensor = model.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location)
    if weights:
        target = directory / location
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    path = directory / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/w.bin"])
def test_weights_beside_the_model_end_up_in_one_file(tmp_path: Path, location: str) -> None:
    (tmp_path / "source").mkdir()
    model = graphs.read(with_weights_in(tmp_path / "source", location))
    target = tmp_path / "alone" / "model.onnx"
    target.parent.mkdir()
    graphs.write(model, target)
    assert [path.name for path in target.parent.iterdir()] == ["model.onnx"]
    graphs.check(target, "it")
    x = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(Session(target, SessionOptions()).run({"x": x})["y"], WEIGHTS)


def test_weights_above_the_models_directory_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = with_weights_in(tmp_path / "inner", "../secret.bin")
    with pytest.raises(BadGraph, match=r"keeps weight 'w' in '\.\./secret\.bin', outside its own"):
        graphs.read(path)


def test_weights_at_an_absolute_path_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = with_weights_in(tmp_path / "inner", str(tmp_path / "secret.bin"))
    with pytest.raises(BadGraph, match=r"outside its own directory, which is not followed; move"):
        graphs.read(path)


@pytest.mark.parametrize("linked", ["file", "directory"])
def test_weights_behind_a_link_are_not_followed(tmp_path: Path, linked: str) -> None:
    home = tmp_path / "inner"
    path = with_weights_in(home, "weights/w.bin")
    (home / "weights").rename(tmp_path / "elsewhere")
    if linked == "directory":
        (home / "weights").symlink_to(tmp_path / "elsewhere")
    else:
        (home / "weights").mkdir()
        (home / "weights" / "w.bin").symlink_to(tmp_path / "elsewhere" / "w.bin")
    with pytest.raises(BadGraph, match=r"'weights/w\.bin', outside its own directory"):
        graphs.read(path)


def test_weights_of_a_branch_are_looked_at_as_well(tmp_path: Path) -> None:
    branch = onnx.load(with_weights_in(tmp_path, "../w.bin"), load_external_data=False).graph
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "test", [condition, branch.input[0]], list(branch.output))
    path = tmp_path / "branch.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(BadGraph, match=r"keeps weight 'w' in '\.\./w\.bin'"):
        graphs.read(path)


def test_weights_that_are_missing_or_too_short_are_named(tmp_path: Path) -> None:
    path = with_weights_in(tmp_path, "w.bin", weights=False)
    with pytest.raises(BadGraph, match=r"weight 'w' in 'w\.bin', which is not there"):
        graphs.read(path)
    (tmp_path / "w.bin").write_bytes(b"1234")
    with pytest.raises(BadGraph, match=r"weights") as error:
        graphs.write(graphs.read(path), tmp_path / "whole.onnx")
        graphs.check(tmp_path / "whole.onnx", "the weights' file")
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off_or_something_else_is_refused(tmp_path: Path) -> None:
    whole = models.classifier(tmp_path / "whole.onnx", channels=8).read_bytes()
    path = tmp_path / "bad.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadGraph, match=r"bad\.onnx is not an ONNX file, or is cut off"):
        graphs.read(path)
    path.write_text("no graph at all")
    with pytest.raises(BadGraph, match=r"bad\.onnx is not an ONNX file, or is cut off"):
        graphs.read(path)
    path.write_bytes(b"")
    graphs.write(graphs.read(path), path)
    with pytest.raises(BadGraph, match=r"the upload is not a valid ONNX graph"):
        graphs.check(path, "the upload")
    with pytest.raises(BadGraph, match=r"nowhere\.onnx cannot be read: No such file"):
        graphs.read(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    path = models.double(tmp_path / "model.onnx", factor=value)
    with pytest.raises(BadGraph, match=r"weight 'factor' of it holds NaN or infinity"):
        graphs.check(path, "it")


def test_a_graph_that_the_checker_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    path = models.double(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Erfc"
    onnx.save(model, path)
    with pytest.raises(BadGraph, match=r"it is not a valid ONNX graph: .*Erfc") as error:
        graphs.check(path, "it")
    assert "\n" not in str(error.value)


def test_a_graph_of_more_than_two_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(models.double(tmp_path / "model.onnx"))
    monkeypatch.setattr(graphs, "_LARGEST_BYTES", 100)
    with pytest.raises(BadGraph, match=r"one ONNX file holds 2; models of that size are not"):
        graphs.write(model, tmp_path / "large.onnx")
    assert not (tmp_path / "large.onnx").exists()


def graph_of(*shapes: list[int | str | None]) -> onnx.ModelProto:
    """Inputs and outputs of these shapes in turn, each passed through."""
    nodes, inputs, outputs = [], [], []
    for i, shape in enumerate(shapes):
        nodes.append(helper.make_node("Identity", [f"in{i}"], [f"out{i}"]))
        inputs.append(helper.make_tensor_value_info(f"in{i}", TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, shape))
    return helper.make_model(helper.make_graph(nodes, "test", inputs, outputs))


def dimensions(values: list[onnx.ValueInfoProto]) -> list[list[int | str]]:
    shapes = [value.type.tensor_type.shape.dim for value in values]
    return [[d.dim_value if d.HasField("dim_value") else d.dim_param for d in s] for s in shapes]


def test_free_first_dimensions_are_called_batch_and_later_ones_as_given() -> None:
    model = graph_of(["unk__1", "unk__2", 3], [None, 5, "unk__4"])
    model.graph.value_info.append(helper.make_tensor_value_info("v", 1, ["unk__1"]))
    graphs.name_dimensions(model, {"in0": ["length"]})
    assert dimensions(list(model.graph.input)) == [["batch", "length", 3], ["batch", 5, "unk__4"]]
    assert [shape[0] for shape in dimensions(list(model.graph.output))] == ["batch", "batch"]
    assert not model.graph.value_info


@pytest.mark.parametrize("other", [[], [7, 3]])
def test_first_dimensions_that_do_not_all_count_rows_keep_their_names(
    other: list[int | str | None],
) -> None:
    model = graph_of(["unk__1", 3], other)
    graphs.name_dimensions(model, {})
    assert dimensions(list(model.graph.input)) == [["unk__1", 3], other]
