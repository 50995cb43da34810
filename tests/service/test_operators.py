"""The operators of an ONNX file, and which of them may run where everybody waits for them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import choice, operators
from service.manifest import Manifest, Variant
from service.opened import Opened
from service.session import Session, SessionOptions


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def saved(path: Path, *nodes: onnx.NodeProto, width: int | str = 4) -> Path:
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    times = numpy_helper.from_array(np.array([1], np.int64), "times")
    graph = helper.make_graph(
        list(nodes), "g", [value("x", ["n", width])], [value("y", ["n", width])], [weights, times]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def opened(path: Path) -> Opened:
    session = Session(path, SessionOptions(threads=1))
    variant = Variant("as-is", accepted=True, reason="", file=path.name, sha256="0")
    contract = Manifest("m", session.batched, session.inputs, session.outputs, (variant,))
    return Opened(contract, choice.Chosen(variant, "only", ""), session)


def quick_rows(path: Path) -> int:
    with ThreadPoolExecutor(1) as executor:
        return opened(path).quick_rows(8, executor, time.perf_counter)


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])


def test_operators_are_those_that_onnx_itself_reads(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", helper.make_node("MatMul", ["x", "w"], ["z"]),
                 helper.make_node("Relu", ["z"], ["y"]))  # fmt: skip
    assert operators.of(path) == {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x3a\xff\xff\xff\x7f", b"\x80"])
def test_what_is_no_onnx_file_has_none_that_could_be_trusted(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert operators.of(path) is None


def test_operator_of_another_domain_is_not_taken_for_its_namesake(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="my.own")
    assert operators.of(saved(tmp_path / "m.onnx", node)) == {"my.own:Relu"}


def test_file_that_defines_operators_is_not_trusted(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", PRODUCT)
    model = onnx.load(path)
    body = [helper.make_node("Identity", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "MatMul", ["a"], ["b"], body, opset))
    onnx.save(model, path)
    assert operators.of(path) is None


def test_missing_and_huge_files_are_not_looked_at(tmp_path: Path) -> None:
    assert operators.of(tmp_path / "absent.onnx") is None
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2**24 + 1)
    assert operators.of(tmp_path / "huge.onnx") is None


def test_small_product_of_fixed_width_runs_in_place(tmp_path: Path) -> None:
    assert quick_rows(saved(tmp_path / "m.onnx", PRODUCT)) >= 1


def test_model_whose_contents_could_decide_how_long_it_takes_does_not(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", helper.make_node("Tile", ["x", "twice"], ["z"]),
                 helper.make_node("MatMul", ["z", "w"], ["y"]),
                 helper.make_node("Identity", ["x"], ["unused"]))  # fmt: skip
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1], np.int64), "twice"))
    onnx.save(model, path)
    assert quick_rows(path) == 0


def test_model_of_free_width_does_not(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", helper.make_node("Relu", ["x"], ["y"]), width="width")
    assert quick_rows(path) == 0


def test_model_that_takes_longer_than_a_thread_does_not(tmp_path: Path) -> None:
    names = ["x", *(f"z{n}" for n in range(3000)), "y"]
    nodes = [helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)]
    assert quick_rows(saved(tmp_path / "m.onnx", *nodes)) == 0
