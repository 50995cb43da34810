"""Trained nets damaged on purpose: the same answers in fp32, hardly any in plain int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_STRETCH = 1000.0
_BELOW_SIX = 0.01


def stretched(source: Path, target: Path, *, behind: str) -> Path:
    """Stretch the ranges of channels 1000x between convolutions that follow each other.

    One channel in eight stays as it is, the others become a thousandth, and the next convolution
    makes up for it. Per-tensor activations then have no steps left for the small ones.

    Args:
        source: a graph with chains of Conv, Relu, Conv.
        target: where to write.
        behind: ``Relu``: between all of them, and a rescaling mends it; or ``Clip``: once, behind
            a ReLU6 in the Relu's place, through which no rescaling passes (all numbers there are
            made small enough that it cuts none off).
    """
    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = 0
    for node in list(model.graph.node):
        followers = readers.get(node.output[0], [])
        if node.op_type != "Conv" or len(followers) != 1 or followers[0].op_type != "Relu":
            continue
        consumers = readers.get(followers[0].output[0], [])
        if len(consumers) != 1 or consumers[0].op_type != "Conv":
            continue
        first, second = weights[node.input[1]], weights[consumers[0].input[1]]
        scale = np.where(np.arange(first.dims[0]) % 8 == 0, 1.0, 1 / _STRETCH)
        scale *= _BELOW_SIX if behind == "Clip" else 1.0
        _scale(first, scale.reshape(-1, 1, 1, 1))
        if len(node.input) > 2:
            _scale(weights[node.input[2]], scale)
        _scale(second, 1 / scale.reshape(1, -1, 1, 1))
        if behind == "Clip":
            _clip(model, followers[0])
        found += 1
        if behind == "Clip":
            break
    if not found:
        raise ValueError(f"{source} has no chain of Conv, Relu, Conv to damage")
    onnx.save(model, target)
    return target


def _scale(tensor: onnx.TensorProto, factor: Any) -> None:
    values = numpy_helper.to_array(tensor) * factor
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _clip(model: onnx.ModelProto, relu: onnx.NodeProto) -> None:
    """Turn a Relu into a ReLU6."""
    for name, value in (("clip_low", 0.0), ("clip_high", 6.0)):
        if name not in {tensor.name for tensor in model.graph.initializer}:
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(value, np.float32), name)
            )
    clip = helper.make_node("Clip", [relu.input[0], "clip_low", "clip_high"], list(relu.output))
    relu.CopyFrom(clip)
