"""A graph in plain form: constants as initializers, batch norms folded, a bias on every layer.

Nothing here changes an answer by more than rounding. It spares whoever analyses a graph the many
ways in which exporters say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

_SMALL = 16_384  # elements; what is shared and smaller gets a copy for each reader


def in_plain_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph in plain form.

    Args:
        model: with its weights; not changed.

    Returns:
        The same function, in which no node is a Constant, no Conv is followed by a
        BatchNormalization of its own, every Conv and Gemm has a bias, small constants are read
        once, and a Reshape that only flattens leaves the flat axis to be inferred.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _constants_to_initializers(result.graph)
    _unshare(result.graph)
    _fold_normalizations(result.graph)
    _complete_layers(result.graph)
    _free_reshapes(result)
    del result.graph.value_info[:]
    return result


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node, or the default."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def names_read(node: Any) -> list[str]:
    """Tensors that a node reads; with those that its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for entry in node.attribute:
        for graph in (entry.g, *entry.graphs):
            for inner in graph.node:
                names.extend(names_read(inner))
            names.extend(output.name for output in graph.output)
    return names


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all tensors where they can be inferred; None for a free dimension."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found: dict[str, tuple[int | None, ...]] = {
        value.name: tuple(
            size.dim_value if size.HasField("dim_value") else None
            for size in value.type.tensor_type.shape.dim
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    found.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    return found


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiply-adds of the Conv, Gemm and MatMul with weights, a row; a free dimension counts 1."""
    known = shapes(model)
    weights = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            shape = known.get(node.output[0], ())
            places = shape[2:] if node.op_type == "Conv" else shape[1:-1]
            total += weights[node.input[1]] * prod(size or 1 for size in places)
    return total


def replace_initializer(graph: onnx.GraphProto, name: str, values: Array) -> None:
    """Put other values under an initializer's name."""
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    nodes = []
    for node in graph.node:
        value = attribute(node, "value", None) if node.op_type == "Constant" else None
        if value is None:
            nodes.append(node)
        else:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
    _set_nodes(graph, nodes)


def _unshare(graph: onnx.GraphProto) -> None:
    """Exporters write equal vectors once, which says nothing about who belongs together."""
    small = {tensor.name: tensor for tensor in graph.initializer if prod(tensor.dims) <= _SMALL}
    outputs = {output.name for output in graph.output}
    uses = Counter(name for node in graph.node for name in names_read(node))
    for number, (node, place) in enumerate(list(_inputs(graph))):
        name = node.input[place]
        if name in small and uses[name] > 1 and name not in outputs:
            uses[name] -= 1
            tensor = graph.initializer.add()
            tensor.CopyFrom(small[name])
            tensor.name = node.input[place] = f"{name}.{number}"


def _inputs(graph: onnx.GraphProto) -> Iterator[tuple[Any, int]]:
    for node in graph.node:
        for place in range(len(node.input)):
            yield node, place


def _fold_normalizations(graph: onnx.GraphProto) -> None:
    """Conv, BatchNormalization -> Conv: w s and (b - mean) s + beta; s = gamma / sqrt(var + eps).

    Ioffe and Szegedy, Batch normalization (2015), algorithm 2.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in names_read(node))
    uses.update(output.name for output in graph.output)
    convs = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    folded = []
    for node in graph.node:
        conv = convs.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or uses[node.input[0]] != 1 or uses[conv.input[1]] != 1:
            continue
        if any(name not in tensors for name in (*conv.input[1:], *node.input[1:])):
            continue
        read = [numpy_helper.to_array(tensors[name]) for name in (*conv.input[1:], *node.input[1:])]
        weight, (gamma, beta, mean, variance) = read[0], read[-4:]
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        bias = (read[1] if len(conv.input) > 2 else 0) * scale + (beta - mean * scale)
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        replace_initializer(graph, conv.input[1], scaled.astype(weight.dtype))
        name = f"{node.output[0]}.bias"
        graph.initializer.append(numpy_helper.from_array(bias.astype(weight.dtype), name))
        del conv.input[2:]
        conv.input.append(name)
        conv.output[0] = node.output[0]
        folded.append(node)
    _set_nodes(graph, [node for node in graph.node if node not in folded])


def _complete_layers(graph: onnx.GraphProto) -> None:
    """Give a Conv and a Gemm what they may leave out: a bias, the shape of the kernel."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in weights:
            continue
        shape = weights[node.input[1]].dims
        if node.op_type == "Conv" and attribute(node, "kernel_shape", None) is None:
            node.attribute.append(helper.make_attribute("kernel_shape", list(shape[2:])))
        if len(node.input) < 3 or not node.input[2]:
            axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
            dtype = helper.tensor_dtype_to_np_dtype(weights[node.input[1]].data_type)
            name = f"{node.output[0]}.bias"
            graph.initializer.append(numpy_helper.from_array(np.zeros(shape[axis], dtype), name))
            del node.input[2:]
            node.input.append(name)


def _free_reshapes(model: onnx.ModelProto) -> None:
    known = shapes(model)
    for node in model.graph.node:
        before, after = (
            (known.get(name) for name in (node.input[:1] + node.output[:1]))
            if (node.op_type == "Reshape")
            else (None, None)
        )
        if not before or not after or None in before[1:] or None in after[1:] or len(after) < 2:
            continue
        elements = prod(size or 0 for size in before[1:])
        if before[0] == after[0] and sorted(size or 0 for size in after[1:])[-1] == elements > 1:
            axes = [0, *(-1 if size == elements else 1 for size in after[1:])]
            name = f"{node.output[0]}.shape"
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(axes, dtype=np.int64), name)
            )
            node.input[1] = name
            kept = [entry for entry in node.attribute if entry.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _set_nodes(graph: onnx.GraphProto, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
