"""Graphs with random weights, straight as ONNX: what they cost to run depends on no weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from loadtests.bench import resnet50

_ELEMENTS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
_DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
# ImageNet's, per channel, of bytes.
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Image:
    """How large a ResNet is.

    Attributes:
        side: pixels of its square input.
        stages: channels and blocks of each.
        classes: what it tells apart.
    """

    side: int = 224
    stages: tuple[tuple[int, int], ...] = resnet50.STAGES
    classes: int = 1000


@dataclass(frozen=True)
class Text:
    """How large an encoder is: BERT-base's, unless said otherwise."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 3072
    words: int = 30522
    tokens: int = 128


def resnet(path: Path, precision: str, size: Image, *, nhwc: bool = True) -> Path:
    """A bottleneck ResNet on bytes: uint8 ``x``, normalized inside; float32 ``y``.

    Args:
        path: where the graph goes.
        precision: ``fp32`` or ``fp16``, of all weights and all that is computed.
        size: how large it is; its defaults are ResNet50's.
        nhwc: whether ``x`` is [batch, side, side, 3], as cameras and decoders give it, or
            [batch, 3, side, side].
    """
    net = resnet50.Net(_DTYPES[precision])
    given = (size.side, size.side, 3) if nhwc else (3, size.side, size.side)
    tensor = net.node("Transpose", "x", perm=[0, 3, 1, 2]) if nhwc else "x"
    tensor = net.node("Cast", tensor, to=_ELEMENTS[precision])
    scale = 1 / np.array(_DEVIATION).reshape(1, 3, 1, 1)
    shift = -np.array(_MEAN).reshape(1, 3, 1, 1) * scale
    tensor = net.node("Mul", tensor, net.constant(scale))
    tensor = net.node("Add", tensor, net.constant(shift))
    tensor = net.body(tensor, size.stages, size.classes)
    net.node("Cast", tensor, output="y", to=TensorProto.FLOAT)
    return _write(path, net, TensorProto.UINT8, given, size.classes)


def encoder(path: Path, precision: str, size: Text) -> Path:
    """An encoder of texts: int64 ``x`` [batch, tokens], no padding; float32 ``y`` of the first."""
    net = resnet50.Net(_DTYPES[precision])
    words = net.node("Gather", net.table(size.words, size.width), "x")
    tensor = net.node("Add", words, net.table(1, size.tokens, size.width))
    tensor = _normalized(net, tensor, size.width)
    for _ in range(size.layers):
        tensor = _layer(net, tensor, size)
    first = net.node("Gather", tensor, net.integers(0, shape=()), axis=1)
    pooled = net.node("Tanh", _dense(net, first, size.width, size.width))
    net.node("Cast", pooled, output="y", to=TensorProto.FLOAT)
    return _write(path, net, TensorProto.INT64, (size.tokens,), size.width)


def _layer(net: resnet50.Net, tensor: str, size: Text) -> str:
    part = size.width // size.heads
    query, key, value = (
        net.node(
            "Transpose",
            net.node(
                "Reshape",
                _dense(net, tensor, size.width, size.width),
                net.integers(0, size.tokens, size.heads, part),
            ),
            perm=order,
        )
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = net.node("MatMul", query, key)
    scores = net.node("Div", scores, net.constant(np.array(np.sqrt(part))))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = net.node("Reshape", mixed, net.integers(0, size.tokens, size.width))
    mixed = net.node("Add", _dense(net, mixed, size.width, size.width), tensor)
    tensor = _normalized(net, mixed, size.width)
    inner = _gelu(net, _dense(net, tensor, size.width, size.inner))
    inner = net.node("Add", _dense(net, inner, size.inner, size.width), tensor)
    return _normalized(net, inner, size.width)


def _dense(net: resnet50.Net, tensor: str, taken: int, given: int) -> str:
    tensor = net.node("MatMul", tensor, net.weights(taken, given))
    return net.node("Add", tensor, net.constant(np.zeros(given)))


def _normalized(net: resnet50.Net, tensor: str, width: int) -> str:
    scale, shift = net.constant(np.ones(width)), net.constant(np.zeros(width))
    return net.node("LayerNormalization", tensor, scale, shift, axis=-1, epsilon=1e-5)


def _gelu(net: resnet50.Net, tensor: str) -> str:
    """As exporters write it, so that ONNX Runtime knows it again."""
    inner = net.node("Div", tensor, net.constant(np.array(np.sqrt(2.0))))
    inner = net.node("Add", net.node("Erf", inner), net.constant(np.array(1.0)))
    return net.node("Mul", net.node("Mul", tensor, inner), net.constant(np.array(0.5)))


def _write(path: Path, net: resnet50.Net, element: int, given: Sequence[int], classes: int) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        net.nodes, "bench", [value("x", element, ["batch", *given])],
        [value("y", TensorProto.FLOAT, ["batch", classes])], net.initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def rows(graph: Path, count: int) -> np.ndarray[Any, Any]:
    """Random rows for the only input of one of these graphs, always the same."""
    (entry,) = onnx.load(graph, load_external_data=False).graph.input
    shape = [each.dim_value for each in entry.type.tensor_type.shape.dim[1:]]
    if entry.type.tensor_type.elem_type == TensorProto.UINT8:
        return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    words = next(each.dims[0] for each in onnx.load(graph).graph.initializer if len(each.dims) == 2)
    return np.random.default_rng(0).integers(0, words, (count, *shape), np.int64)
