"""ResNet50's graph with random weights: what it costs to run does not depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 224, 224)
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
_CLASSES = 1000


def write(path: Path) -> Path:
    """Write the graph, batch normalizations folded; input ``x``, 600 KB a row, output ``y``."""
    net = Net()
    net.body("x", STAGES, _CLASSES, output="y")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        net.nodes, "resnet50", [value("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [value("y", TensorProto.FLOAT, ["batch", _CLASSES])], net.initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


class Net:
    """Nodes and weights, in the order in which they were added."""

    def __init__(self, dtype: type[np.floating[Any]] = np.float32) -> None:
        """Nothing yet; weights will be of that type."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._dtype = dtype
        self._random = np.random.default_rng(0)

    def weights(self, *shape: int) -> str:
        """Random weights that keep the size of what they are applied to."""
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        return self.constant(self._random.normal(size=shape, scale=np.sqrt(1 / fan_in)))

    def table(self, *shape: int) -> str:
        """Random values about one in size, to be looked up or added."""
        return self.constant(self._random.normal(size=shape))

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        """These numbers, in the net's type."""
        return self._kept(values.astype(self._dtype))

    def integers(self, *values: int, shape: tuple[int, ...] | None = None) -> str:
        """Indices or a shape, int64."""
        made = np.array(values, np.int64)
        return self._kept(made if shape is None else made.reshape(shape))

    def _kept(self, values: np.ndarray[Any, Any]) -> str:
        self.initializers.append(numpy_helper.from_array(values, f"w{len(self.initializers)}"))
        return str(self.initializers[-1].name)

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """One node; gives the name of its output."""
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(self, tensor: str, taken: int, given: int, *, kernel: int, stride: int = 1,
             relu: bool = True) -> str:  # fmt: skip
        """A square convolution that pads, with or without what follows it."""
        weights = self.weights(given, taken, kernel, kernel)
        tensor = self.node(
            "Conv", tensor, weights, strides=[stride] * 2, pads=[kernel // 2] * 4
        )  # fmt: skip
        return self.node("Relu", tensor) if relu else tensor

    def body(self, tensor: str, stages: Sequence[tuple[int, int]], classes: int,
             output: str = "") -> str:  # fmt: skip
        """All of a ResNet, from its normalized image to its scores.

        Args:
            tensor: of three channels.
            stages: channels and blocks of each.
            classes: how many scores there are.
            output: what to call them.
        """
        tensor = self.conv(tensor, 3, 64, kernel=7, stride=2)
        tensor = self.node("MaxPool", tensor, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        width = 64
        for stage, (channels, blocks) in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                tensor = self.bottleneck(tensor, width, channels, stride=stride)
                width = 4 * channels
        tensor = self.node("Flatten", self.node("GlobalAveragePool", tensor))
        return self.node("MatMul", tensor, self.weights(width, classes), output=output)

    def bottleneck(self, tensor: str, taken: int, channels: int, *, stride: int) -> str:
        """Three convolutions, and a way around them."""
        way = tensor
        if taken != 4 * channels:
            way = self.conv(tensor, taken, 4 * channels, kernel=1, stride=stride, relu=False)
        inner = self.conv(tensor, taken, channels, kernel=1)
        inner = self.conv(inner, channels, channels, kernel=3, stride=stride)
        inner = self.conv(inner, channels, 4 * channels, kernel=1, relu=False)
        return self.node("Relu", self.node("Add", inner, way))
