"""Nets with random weights, for what does not depend on what a net has learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32


def identity(path: Path, *, width: int) -> Path:
    """Rows of floats, returned as they came: all that is left to measure is the way."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return _write(path, [node], width, width, [])


def dense(path: Path, *, width: int, seed: int = 0) -> Path:
    """One matrix of ``width`` x ``width`` float32 weights."""
    weights = np.random.default_rng(seed).random((width, width), np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _write(path, [node], width, width, [numpy_helper.from_array(weights, "w")])


def convolutional(path: Path, *, channels: int = 96, blocks: int = 4) -> Path:
    """A plain conv net on rows of [3, 32, 32]; some milliseconds a row on one core."""
    random = np.random.default_rng(0)
    nodes, weights, tensor, width = [], [], "x", 3
    for block in range(blocks):
        kernel = random.normal(size=(channels, width, 3, 3)) / np.sqrt(9 * width)
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{block}"))
        nodes.append(helper.make_node("Conv", [tensor, f"w{block}"], [f"c{block}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{block}"], [f"r{block}"]))
        tensor, width = f"r{block}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["scores"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "bench", [value("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [value("scores", TensorProto.FLOAT, ["batch", channels])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: int,
    outputs: int,
    weights: list[onnx.TensorProto],
) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "bench", [value("x", TensorProto.FLOAT, ["batch", inputs])],
        [value("y", TensorProto.FLOAT, ["batch", outputs])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
