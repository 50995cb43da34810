"""Cross-layer equalization: channels of equal range, so that eight bits serve all of them.

Nagel, van Baalen, Blankevoort, Welling: Data-free quantization through weight equalization and bias
correction (ICCV 2019), section 4.1. A channel between two linear layers may be divided by s > 0 in
the first and multiplied by s in the second, if all that lies between commutes with it. With r1 and
r2 the largest absolute weights of the channel in the two layers, s = sqrt(r1 r2) / r2 makes both
sqrt(r1 r2); pairs that share a layer are visited in turn until nothing changes.

Here s is the nearest power of two. That leaves the ranges within a factor of two of each other,
and it only moves exponents: every product and every sum of the fp32 graph keeps its digits, so the
answers stay the same bit for bit, and a difference after it is a mistake and no rounding.

Not crossed: what does not commute (Clip and so ReLU6, Sigmoid, Swish, Softmax), and tensors that
somebody else reads. The ranges are those of the weights; biases and activations follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

Array = np.ndarray[Any, Any]

_MOST_SWEEPS = 100
# f(s x) = s f(x) for each channel, whose place does not change.
_COMMUTING = {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"}
_POOLS = {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}
_RESHAPES = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_LAYERS = {"Conv", "Gemm", "MatMul"}


@dataclass(frozen=True)
class _Part:
    """A weight or a bias; ``channel`` broadcasts against it: which channel an element is of."""

    name: str
    channel: Array


@dataclass(frozen=True)
class _Pair:
    """Channels between two layers: ``before`` are divided (the weight is first), ``after`` not."""

    channels: int
    before: list[_Part]
    after: _Part


@dataclass(frozen=True)
class _Place:
    """Where channels are in a tensor: index k of ``axis`` is of channel (k // inner) % channels."""

    channels: int
    axis: int
    inner: int = 1

    def of(self, size: int) -> Array | None:
        """The channel of each index of that axis, if they fit it."""
        if size % (self.inner * self.channels):
            return None
        return np.arange(size) // self.inner % self.channels


def equalize(model: onnx.ModelProto) -> int:
    """Balance the ranges of weights over the channels between layers; the answers stay.

    Args:
        model: an fp32 graph, changed in place. Layers are Conv of any group, Gemm and MatMul with
            constant float32 weights, with what lies between them as the module says.

    Returns:
        How many pairs of layers were rescaled; 0 if all were balanced, or none was found.
    """
    graph = _Graph(model)
    pairs = [pair for node in model.graph.node if (pair := graph.pair(node))]
    scales = [np.zeros(pair.channels, int) for pair in pairs]
    for _ in range(_MOST_SWEEPS):
        steps = [_balance(pair, graph.weights) for pair in pairs]
        scales = [scale + step for scale, step in zip(scales, steps, strict=True)]
        if not any(step.any() for step in steps):
            break
    for tensor in model.graph.initializer:
        if tensor.name in graph.weights:
            before = numpy_helper.to_array(tensor)
            if not np.array_equal(before, graph.weights[tensor.name], equal_nan=True):
                after = numpy_helper.from_array(graph.weights[tensor.name], tensor.name)
                tensor.CopyFrom(after)
    return sum(bool(scale.any()) for scale in scales)


def _balance(pair: _Pair, weights: dict[str, Array]) -> Array:
    """Rescale one pair.

    Returns:
        log2 of each channel's scale.
    """
    first = _ranges(weights[pair.before[0].name], pair.before[0], pair.channels)
    second = _ranges(weights[pair.after.name], pair.after, pair.channels)
    alive = (first > 0) & (second > 0) & np.isfinite(first) & np.isfinite(second)
    ratio = np.divide(first, second, out=np.ones(pair.channels), where=alive)
    exponent = np.rint(np.log2(ratio) / 2).astype(int)
    if exponent.any():
        for part in pair.before:
            weights[part.name] = np.ldexp(weights[part.name], -exponent[part.channel])
        weights[pair.after.name] = np.ldexp(weights[pair.after.name], exponent[pair.after.channel])
    return exponent


def _ranges(weight: Array, part: _Part, channels: int) -> Array:
    """The largest absolute weight of each channel, float64 of shape [channels]."""
    within = tuple(axis for axis, size in enumerate(part.channel.shape) if size == 1)
    largest = np.abs(weight).max(axis=within, keepdims=True)
    found = np.zeros(channels)
    np.maximum.at(found, part.channel.ravel(), largest.ravel())
    return found


class _Graph:
    """Who reads what, the shapes, and the weights that belong to one node only."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._shapes = {
            info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]  # 0: not known
            for info in (*inferred.input, *inferred.value_info, *inferred.output)
            if info.type.tensor_type.HasField("shape")
        }
        self._uses = Counter(_read(graph))
        self._readers = {name: node for node in graph.node for name in node.input}
        given = {value.name for value in graph.input}
        # Copied when they change: to_array may be a view of the model.
        self.weights = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.FLOAT
            and self._uses[tensor.name] == 1
            and tensor.name not in given
        }

    def pair(self, node: onnx.NodeProto) -> _Pair | None:
        """The pair that begins with this node, if it does begin one."""
        if node.op_type not in _LAYERS or node.input[1] not in self.weights:
            return None
        weight = self.weights[node.input[1]]
        if node.op_type == "MatMul":
            axis, place_axis = 1, len(self._shapes.get(node.output[0], ())) - 1
        else:
            axis, place_axis = int(node.op_type == "Gemm" and not _integer(node, "transB")), 1
        if place_axis < 1 or (node.op_type == "MatMul" and weight.ndim != 2):
            return None
        place = _Place(weight.shape[axis], place_axis)
        before = [_along(node.input[1], weight, axis, place)]
        if len(node.input) > 2 and node.input[2]:
            bias = self.weights.get(node.input[2])
            before.append(None if bias is None else _along(node.input[2], bias, -1, place))
        return self._follow(node.output[0], place, before)

    def _follow(self, name: str, place: _Place, before: list[_Part | None]) -> _Pair | None:
        """Walk from a layer's output to the next layer."""
        while self._uses[name] == 1 and name in self._readers:
            node = self._readers[name]
            if node.op_type in _LAYERS:
                after = self._entry(node, name, place)
                sound = [part for part in before if part]
                if after is None or len(sound) < len(before):
                    return None
                return _Pair(place.channels, sound, after)
            if node.op_type == "Add":
                before.append(self._addend(node, name, place))
            moved = self._across(node, name, place)
            if moved is None:
                return None
            name, place = node.output[0], moved
        return None

    def _across(self, node: onnx.NodeProto, name: str, place: _Place) -> _Place | None:
        """Where the channels are behind a node; None if it does not commute with their scales."""
        if node.op_type == "Transpose":
            order = next((list(field.ints) for field in node.attribute if field.name == "perm"), [])
            return _Place(place.channels, order.index(place.axis), place.inner) if order else None
        if node.op_type in _POOLS:
            return place if (place.axis, place.inner) == (1, 1) else None
        if node.op_type in _RESHAPES and node.input[0] == name:
            return self._reshaped(node, name, place)
        if node.op_type in ("Add", "Mul"):
            # A constant; with more dimensions than the tensor it would move the channels.
            shapes = self._shapes.get(name), self._shapes.get(node.output[0])
            constant = all(other == name or other in self.weights for other in node.input)
            return (
                place if constant and shapes[0] and len(shapes[0]) == len(shapes[1] or ()) else None
            )
        return place if node.op_type in _COMMUTING and node.input[0] == name else None

    def _reshaped(self, node: onnx.NodeProto, name: str, place: _Place) -> _Place | None:
        """The same elements in the same order: a channel comes again after as many of them."""
        after = self._shapes.get(name, [])[place.axis + 1 :]
        if name not in self._shapes or not all(after):
            return None
        stride, below = place.inner * prod(after), 1
        shape = self._shapes.get(node.output[0], [])
        for axis in range(len(shape) - 1, 0, -1):
            if not shape[axis]:
                return None
            period = stride * place.channels
            if stride % below == 0 and below * shape[axis] % period == 0:
                return _Place(place.channels, axis, stride // below)
            below *= shape[axis]
        return None

    def _addend(self, node: onnx.NodeProto, name: str, place: _Place) -> _Part | None:
        """The constant that is added, to be divided as the weight is."""
        other = node.input[1] if node.input[0] == name else node.input[0]
        behind = len(self._shapes.get(name, ())) - place.axis
        array = self.weights.get(other)
        if array is None or behind < 1 or array.ndim < behind:
            return None
        return _along(other, array, -behind, place)

    def _entry(self, node: onnx.NodeProto, name: str, place: _Place) -> _Part | None:
        """The weight that takes the channels in."""
        if node.input[0] != name or node.input[1] not in self.weights:
            return None
        weight = self.weights[node.input[1]]
        if node.op_type == "Conv":
            groups = _integer(node, "group") or 1
            if (place.axis, place.inner) != (1, 1) or weight.shape[1] * groups != place.channels:
                return None
            group = np.arange(len(weight)) // (len(weight) // groups)
            channel = group[:, np.newaxis] * weight.shape[1] + np.arange(weight.shape[1])
            return _Part(node.input[1], channel.reshape(*channel.shape, *[1] * (weight.ndim - 2)))
        if weight.ndim != 2 or place.axis != len(self._shapes.get(name, ())) - 1:
            return None
        if node.op_type == "Gemm" and _integer(node, "transA"):
            return None
        across = node.op_type == "Gemm" and _integer(node, "transB")
        return _along(node.input[1], weight, int(bool(across)), place)


def _along(name: str, array: Array, axis: int, place: _Place) -> _Part | None:
    """A constant whose axis holds the channels; None if it does not hold each of them."""
    channel = place.of(array.shape[axis]) if array.ndim else None
    if channel is None:
        return None
    shape = [1] * array.ndim
    shape[axis] = len(channel)
    return _Part(name, channel.reshape(shape))


def _integer(node: onnx.NodeProto, attribute: str) -> int:
    return next((int(field.i) for field in node.attribute if field.name == attribute), 0)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that is read, as often as it is, in bodies and by the graph's outputs too."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for field in node.attribute:
            for body in (field.g, *field.graphs):
                yield from _read(body)
