"""Which nodes are quantized, or left in fp32, as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import quantize
from converter.regions import Region, regions
from tests.converter import nets
from tests.converter.nets import node

KERNEL = np.zeros((4, 4, 1, 1), np.float32)
MATRIX = np.zeros((4, 4), np.float32)
IMAGE, ROW = ["batch", 4, 2, 2], ["batch", 4]


def found(path: Path, nodes: list[onnx.NodeProto], *, image: bool = True) -> list[Region]:
    """The regions of a graph from x to y, whose nodes are called by their operators and index."""
    ends = IMAGE if image else ROW
    weights = {"k1": KERNEL, "k2": KERNEL, "m1": MATRIX, "m2": MATRIX, "b": np.ones(4, np.float32)}
    read = {name for each in nodes for name in each.input}
    weights = {name: array for name, array in weights.items() if name in read}
    model = onnx.load(nets.build(path / "net.onnx", nodes, {"x": ends}, {"y": ends}, weights))
    quantize.name_nodes(model)
    return regions(model)


def names(path: Path, nodes: list[onnx.NodeProto], *, image: bool = True) -> list[tuple[str, ...]]:
    return [region.nodes for region in found(path, nodes, image=image)]


def test_a_convolution_its_activation_and_the_residual_add_are_one(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x k1", "c"), node("Relu", "c", "r"), node("Add", "r x", "a"),
        node("Relu", "a", "y"),
    ]  # fmt: skip
    assert names(tmp_path, nodes) == [("Conv_0", "Relu_1", "Add_2", "Relu_3")]


def test_swish_is_one_with_its_convolution(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k1", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s", "y")]
    (swish,) = found(tmp_path, nodes)
    assert sorted(swish.nodes) == ["Conv_0", "Mul_2", "Sigmoid_1"]


def test_a_bias_is_one_with_its_matrix_product(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x m1", "p"), node("Add", "p b", "y")]
    assert names(tmp_path, nodes, image=False) == [("MatMul_0", "Add_1")]


def test_a_region_ends_where_the_next_product_begins(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k1", "c"), node("Relu", "c", "r"), node("Conv", "r k2", "y")]
    assert names(tmp_path, nodes) == [("Conv_0", "Relu_1"), ("Conv_2",)]


def test_a_region_ends_where_something_else_reads_it(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k1", "c"), node("Softmax", "c", "s", axis=1), node("Relu", "s", "y")]
    assert names(tmp_path, nodes) == [("Conv_0",)]


def test_a_node_belongs_to_the_first_product_that_reaches_it_and_to_no_other(
    tmp_path: Path,
) -> None:
    nodes = [node("Conv", "x k1", "c1"), node("Conv", "x k2", "c2"), node("Add", "c1 c2", "y")]
    assert names(tmp_path, nodes) == [("Conv_0", "Add_2"), ("Conv_1",)]


def test_a_node_that_is_reached_twice_is_taken_once(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x k1", "c"), node("Relu", "c", "r"), node("Tanh", "c", "t"),
        node("Add", "r t", "y"),
    ]  # fmt: skip
    (region,) = names(tmp_path, nodes)
    assert sorted(region) == ["Add_3", "Conv_0", "Relu_1", "Tanh_2"]


def test_a_product_of_two_results_belongs_to_one_of_them(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x m1", "p"), node("Add", "p b", "a"), node("MatMul", "a m2", "y")]
    assert names(tmp_path, nodes, image=False) == [("MatMul_0", "Add_1"), ("MatMul_2",)]


def test_work_is_the_number_of_the_weights(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k1", "c"), node("MatMul", "c m1", "y")]
    model = nets.build(
        tmp_path / "net.onnx", nodes, {"x": ["batch", 4, 4, 4]}, {"y": ["batch", 4, 4, 4]},
        {"k1": KERNEL, "m1": np.zeros((4, 4), np.float32)},
    )  # fmt: skip
    named = onnx.load(model)
    quantize.name_nodes(named)
    assert [(region.name, region.work) for region in regions(named)] == [
        ("Conv_0", 16), ("MatMul_1", 16)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["Relu", "Softmax"])
def test_a_graph_without_products_has_no_regions(tmp_path: Path, kind: str) -> None:
    assert names(tmp_path, [node(kind, "x", "y")], image=False) == []
