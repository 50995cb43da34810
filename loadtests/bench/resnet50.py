"""ResNet50's graph with random weights: what it costs to run does not depend on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 224, 224)
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
_CLASSES = 1000


def write(path: Path) -> Path:
    """Write the graph, batch normalizations folded; input ``x``, 600 KB a row, output ``y``."""
    net = _Net()
    tensor = net.conv("x", 3, 64, kernel=7, stride=2)
    tensor = net.node("MaxPool", tensor, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, (channels, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            tensor = net.bottleneck(tensor, width, channels, stride=stride)
            width = 4 * channels
    tensor = net.node("Flatten", net.node("GlobalAveragePool", tensor))
    net.node("MatMul", tensor, net.weights(width, _CLASSES), output="y")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        net.nodes, "resnet50", [value("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [value("y", TensorProto.FLOAT, ["batch", _CLASSES])], net.initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


class _Net:
    """Nodes and weights, in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def weights(self, *shape: int) -> str:
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        values = self._random.normal(size=shape, scale=np.sqrt(1 / fan_in)).astype(np.float32)
        self.initializers.append(numpy_helper.from_array(values, f"w{len(self.initializers)}"))
        return str(self.initializers[-1].name)

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(self, tensor: str, taken: int, given: int, *, kernel: int, stride: int = 1,
             relu: bool = True) -> str:  # fmt: skip
        weights = self.weights(given, taken, kernel, kernel)
        tensor = self.node(
            "Conv", tensor, weights, strides=[stride] * 2, pads=[kernel // 2] * 4
        )  # fmt: skip
        return self.node("Relu", tensor) if relu else tensor

    def bottleneck(self, tensor: str, taken: int, channels: int, *, stride: int) -> str:
        way = tensor
        if taken != 4 * channels:
            way = self.conv(tensor, taken, 4 * channels, kernel=1, stride=stride, relu=False)
        inner = self.conv(tensor, taken, channels, kernel=1)
        inner = self.conv(inner, channels, channels, kernel=3, stride=stride)
        inner = self.conv(inner, channels, 4 * channels, kernel=1, relu=False)
        return self.node("Relu", self.node("Add", inner, way))
