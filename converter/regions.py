"""The parts of a graph that are quantized, or left in fp32, as one.

A region is a Conv, Gemm or MatMul with what directly follows it: bias, activation, a residual Add.
Excluding a Conv alone fragments the graph (0.86x instead of 2.4x on MobileNetV2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass

import onnx

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FOLLOWING = {
    "Add", "Mul", "Sub", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid",
    "HardSwish", "Tanh", "Erf", "Div", "Gelu", "Elu", "BatchNormalization",
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """Nodes that stay together.

    Attributes:
        name: of its product.
        nodes: names, the product first.
        work: weights of the product; what excluding it costs is in proportion.
    """

    name: str
    nodes: tuple[str, ...]
    work: int


def regions(model: onnx.ModelProto, kinds: Sequence[str] = PRODUCTS) -> list[Region]:
    """The regions of a graph whose nodes all have names, in the graph's order.

    A node belongs to the first product that reaches it.

    Args:
        model: the graph.
        kinds: operators that a region begins with.
    """
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            consumers[name].append(node)
    sizes = {tensor.name: _elements(tensor) for tensor in model.graph.initializer}
    taken: set[str] = set()
    found = []
    for node in model.graph.node:
        if node.op_type not in kinds or node.name in taken:
            continue
        nodes, ahead = [node.name], [node]
        while ahead:
            for output in ahead.pop().output:
                for follower in consumers[output]:
                    if follower.op_type in _FOLLOWING and follower.name not in {*taken, *nodes}:
                        nodes.append(follower.name)
                        ahead.append(follower)
        taken |= set(nodes)
        found.append(Region(node.name, tuple(nodes), sum(sizes.get(n, 0) for n in node.input)))
    return found


def all_regions(model: onnx.ModelProto, floats: Set[str]) -> list[Region]:
    """The regions of a graph, and those of all else that computes in floats, in the graph's order.

    What no product reaches (a softmax, a normalization that was exported as its parts) is one
    region as far as its nodes hang together: sums and exponentials lose more in fp16 than products.

    Args:
        model: the graph; its nodes have names.
        floats: names of the float tensors; nodes that put out none of them are left out.
    """
    found = regions(model)
    taken = {name for region in found for name in region.nodes}
    home: dict[str, list[str]] = {}  # tensor -> the group that puts it out
    groups: list[list[str]] = []
    for node in model.graph.node:
        if node.name in taken or not floats & {*node.output}:
            continue
        group = next((home[name] for name in node.input if name in home), None)
        if group is None:
            groups.append(group := [])
        group.append(node.name)
        home |= dict.fromkeys(node.output, group)
    found += [Region(group[0], tuple(group), 0) for group in groups]
    order = {node.name: index for index, node in enumerate(model.graph.node)}
    return sorted(found, key=lambda region: order[region.name])


def _elements(tensor: onnx.TensorProto) -> int:
    total = 1
    for size in tensor.dims:
        total *= size
    return total
