"""What a layer reads and answers on calibration rows, at sampled places of its output.

Each row gives a few places: neighbours in an image say nearly the same. The places depend on the
layer and the rows only, so that two graphs can be compared where they mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from converter import graphs
from converter.pruning.channels import Mixer
from converter.pruning.plain import attribute, names_read
from converter.pruning.tracks import Array
from converter.samples import Samples
from service.session import Session, SessionOptions

_ROWS_A_RUN = 2


@dataclass(frozen=True)
class Room:
    """Where graphs are run, and on what.

    Attributes:
        scratch: a directory for files nobody wants to keep.
        rows: calibration rows.
        places: places of a layer's output that are read in each row, at most.
    """

    scratch: Path
    rows: Samples
    places: int


def run(model: onnx.ModelProto, names: set[str], room: Room) -> Iterator[dict[str, Array]]:
    """Tensors of a graph by name, for a few rows at a time.

    Inputs and initializers may be asked for as well. Only what leads to these tensors is run.
    """
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    fed = names & set(inputs)
    fixed = [shape[0].dim_value for shape in inputs.values() if shape and shape[0].dim_value]
    step = fixed[0] if fixed else _ROWS_A_RUN
    session = None
    if names - fed:
        path = room.scratch / "part.onnx"
        graphs.write(_up_to(model, names - fed), path)
        session = Session(path, SessionOptions())
    for start in range(0, len(room.rows) - step + 1, step):
        tensors = room.rows.slice(start, start + step)
        found = {name: tensors[name] for name in fed}
        if session:
            found |= session.run({spec.name: tensors[spec.name] for spec in session.inputs})
        yield found


def columns(values: Array, node: Any, grid: tuple[int, ...], places: Array) -> Array:
    """What a layer reads for some places of its output, in the order of its weights.

    Args:
        values: its input, [rows, channels, ...] for a Conv, [rows, ..., channels] else.
        node: the layer.
        grid: shape of its output without rows and channels.
        places: flat indices into the grid.

    Returns:
        [rows * places, inputs]; for a Conv the inputs are channels times taps (im2col).
    """
    if node.op_type != "Conv":
        return at_places(values, node, places)
    size = values.shape[2:]
    kernel = attribute(node, "kernel_shape", None)
    strides = attribute(node, "strides", [1] * len(size))
    dilations = attribute(node, "dilations", [1] * len(size))
    before, after = _pads(node, size, grid, kernel)
    padded = np.pad(values, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    taps = np.unravel_index(np.arange(prod(kernel)), kernel)
    starts = np.unravel_index(places, grid)
    picks = tuple(
        start[:, None] * stride + tap * dilation
        for start, stride, tap, dilation in zip(starts, strides, taps, dilations, strict=True)
    )
    patches = padded[(slice(None), slice(None), *picks)].swapaxes(1, 2)
    return patches.reshape(len(values) * len(places), -1)


def at_places(values: Array, node: Any, places: Array) -> Array:
    """[rows * places, channels] of a tensor as a layer reads or writes it."""
    flat = _channels_last(values, node)
    return flat[:, places].reshape(-1, flat.shape[-1])


def grid_of(values: Array, node: Any) -> tuple[int, ...]:
    """Shape of a layer's output without rows and channels."""
    shape = tuple(values.shape)
    return shape[2:] if node.op_type == "Conv" else shape[1:-1]


def places_for(mixer: Mixer, grid: tuple[int, ...], turn: int, room: Room) -> Array:
    """The places to read in these rows: all, or a sample drawn for this layer and this turn."""
    chance = np.random.default_rng((mixer.index, turn))
    return chance.permutation(prod(grid))[: room.places]


def _channels_last(values: Array, node: Any) -> Array:
    """[rows, places, channels]."""
    if node.op_type == "Conv":
        return values.reshape(*values.shape[:2], -1).swapaxes(1, 2)
    return values.reshape(len(values), -1, values.shape[-1])


def _pads(
    node: Any, size: tuple[int, ...], grid: tuple[int, ...], kernel: list[int]
) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial axis (onnx/defs/nn: auto_pad)."""
    mode = attribute(node, "auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", "VALID"):
        pads = attribute(node, "pads", [0] * 2 * len(size)) if mode == "NOTSET" else [0] * 8
        return list(pads[: len(size)]), list(pads[len(size) : 2 * len(size)])
    strides = attribute(node, "strides", [1] * len(size))
    dilations = attribute(node, "dilations", [1] * len(size))
    totals = [
        max((out - 1) * stride + (taps - 1) * dilation + 1 - length, 0)
        for out, stride, taps, dilation, length in zip(
            grid, strides, kernel, dilations, size, strict=True
        )
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _up_to(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """The part of a graph that computes these tensors."""
    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(names_read(node))
            nodes.append(node)
    graph = helper.make_graph(
        nodes[::-1],
        "part",
        [value for value in model.graph.input if value.name in wanted],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(names)],
        [tensor for tensor in model.graph.initializer if tensor.name in wanted],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    return part
