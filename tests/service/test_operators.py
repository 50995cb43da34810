"""Whether callers can make a run longer, so that it must not run where everybody waits for it."""

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
from service.latency import Latency
from service.manifest import Manifest, Variant
from service.opened import Opened
from service.session import Session, SessionOptions


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def saved(path: Path, *nodes: onnx.NodeProto, width: int | str = 4) -> Path:
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    times = numpy_helper.from_array(np.array([1], np.int64), "times")
    told = any("n" in node.input for node in nodes)
    more = [value("n", [2], TensorProto.INT64)] if told else []
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", ["n", width]), *more],
        [value("y", ["n", width])],
        [weights, times],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def opened(path: Path) -> Opened:
    session = Session(path, SessionOptions(threads=1))
    variant = Variant("as-is", accepted=True, reason="", file=path.name, sha256="0")
    contract = Manifest("m", session.batched, session.inputs, session.outputs, (variant,))
    return Opened(contract, choice.Chosen(variant, "only", ""), session)


def quick_rows(path: Path, one_row_s: float = 0.0) -> int:
    latency = Latency()
    latency.observe(1, one_row_s)
    with ThreadPoolExecutor(1) as executor:
        return opened(path).quick_rows(8, executor, time.perf_counter, latency)


CAST = helper.make_node("Cast", ["x"], ["k"], to=TensorProto.INT64)
TOLD = helper.make_node("Reshape", ["w", "k"], ["y"])
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])


def lstm(*, lengths: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Unsqueeze", ["x", "times"], ["steps"]),
        helper.make_node("LSTM", ["steps", "a", "b", "", lengths], ["h"], hidden_size=4),
        helper.make_node("Identity", ["x"], ["y"]),
    ]


@pytest.mark.parametrize(
    "nodes",
    [
        [PRODUCT],
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])],
        # Sizes that the model knows by itself, or by the shape of what it was given.
        [helper.make_node("Reshape", ["x", "times"], ["y"])],
        [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])],
        [helper.make_node("ReduceMax", ["x"], ["y"])],
        [helper.make_node("Split", ["x", ""], ["y"])],
        lstm(lengths=""),
        lstm(lengths="times"),
    ],
)
def test_graph_whose_sizes_are_its_own_is_steady(
    tmp_path: Path, nodes: list[onnx.NodeProto]
) -> None:
    assert operators.steady(saved(tmp_path / "m.onnx", *nodes))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Reshape", ["x", "n"], ["y"])],
        [CAST, TOLD],
        [helper.make_node("Slice", ["x", "times", "n"], ["y"])],
        [helper.make_node("ReduceSum", ["x", "n"], ["y"])],
        lstm(lengths="n"),
        # In another order than they run.
        [TOLD, CAST],
        [helper.make_node("Tile", ["x", "times"], ["y"])],
        [helper.make_node("Relu", ["x"], ["y"], domain="my.own")],
        [],
    ],
)  # fmt: skip
def test_graph_that_callers_could_tell_a_size_is_not_steady(
    tmp_path: Path, nodes: list[onnx.NodeProto]
) -> None:
    assert not operators.steady(saved(tmp_path / "m.onnx", *nodes))


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x3a\xff\xff\xff\x7f", b"\x80"])
def test_what_is_no_onnx_file_is_not_steady(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert not operators.steady(path)


def test_file_that_defines_operators_is_not_steady(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", PRODUCT)
    model = onnx.load(path)
    body = [helper.make_node("Identity", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "MatMul", ["a"], ["b"], body, opset))
    onnx.save(model, path)
    assert not operators.steady(path)


def test_missing_and_huge_files_are_not_looked_at(tmp_path: Path) -> None:
    assert not operators.steady(tmp_path / "absent.onnx")
    huge = saved(tmp_path / "huge.onnx", PRODUCT)
    with huge.open("ab") as file:
        file.truncate(2**24 + 1)
    assert not operators.steady(huge)


def test_small_product_of_fixed_width_runs_in_place(tmp_path: Path) -> None:
    assert quick_rows(saved(tmp_path / "m.onnx", PRODUCT)) >= 1


def test_model_that_was_slow_when_warmed_up_is_not_looked_at_again(tmp_path: Path) -> None:
    assert quick_rows(saved(tmp_path / "m.onnx", PRODUCT), one_row_s=0.01) == 0


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
