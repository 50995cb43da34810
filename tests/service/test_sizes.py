"""Which nodes of a file compute sizes alone: by what they are given, not by their operator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from service import sizes
from service.sizes import Nodes


def saved(path: Path, nodes: list[onnx.NodeProto]) -> Path:
    """A graph from x of float32 to y, with the weight w of one int64."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.INT64, [1], [4])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_sizes_are_what_shape_tells_and_what_is_made_of_it_and_of_weights(tmp_path: Path) -> None:
    found = sizes.nodes(saved(tmp_path / "m.onnx", [
        helper.make_node("Shape", ["x"], ["s"], name="tell"),
        helper.make_node("Mul", ["s", "w"], ["t"]),
        helper.make_node("Mul", ["x", "x"], ["u"]),
        helper.make_node("Clip", ["u", "", ""], ["v"], name="clip"),
        helper.make_node("Reshape", ["v", "t"], ["y"], name="last"),
    ]))  # fmt: skip
    assert found.sizes == Counter({("tell", "Shape"): 1, ("", "Mul"): 1})
    rows = Counter({("", "Mul"): 1, ("clip", "Clip"): 1, ("last", "Reshape"): 1})
    assert found.all == found.sizes + rows


def test_nodes_of_subgraphs_are_told_apart_too_and_what_is_theirs_stays_there(
    tmp_path: Path,
) -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Add", ["s", "s"], [f"{name}-twice"], name=f"{name} of sizes"),
            helper.make_node("Neg", ["x"], [f"{name}-out"], name=f"{name} of rows"),
        ]
        out = helper.make_tensor_value_info(f"{name}-out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out])

    found = sizes.nodes(saved(tmp_path / "m.onnx", [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("Not", ["a-twice"], ["z"], name="outside"),
    ]))  # fmt: skip
    assert {name for name, _ in found.sizes} == {"", "a of sizes", "b of sizes"}
    assert found.sizes.total() == 3 and found.all.total() == 8


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"no onnx"])
def test_what_is_no_onnx_file_has_no_nodes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert sizes.nodes(path) == sizes.nodes(tmp_path / "absent.onnx") == Nodes()
