"""Which nodes of an ONNX file compute nothing but the sizes of tensors.

Read without the package onnx, as ``operators`` does (onnx.proto: GraphProto.node 1, initializer 5;
NodeProto.input 1, output 2, name 3, op_type 4, attribute 5; AttributeProto.g 6, graphs 11;
TensorProto.name 8).
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.encoded import parts, texts

_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUTS, _OUTPUTS, _NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_SUBGRAPHS = (6, 11)
# Whatever they are given, they answer its sizes.
_TELL = frozenset({"Shape", "Size", "SequenceLength"})
# a node's name and its operator
Named = tuple[str, str]


@dataclass
class Nodes:
    """Nodes of a file, its subgraphs' among them; some have no name, so all are counted.

    Attributes:
        all: each of them.
        sizes: those that are given sizes and constants alone.
    """

    all: Counter[Named] = field(default_factory=Counter)
    sizes: Counter[Named] = field(default_factory=Counter)


def nodes(path: Path) -> Nodes:
    """Those of a file; none where it is no ONNX file."""
    found = Nodes()
    try:
        with path.open("rb") as file:
            model = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for graph in parts(model, _GRAPH):
            _look(graph, found, set())
    except (OSError, ValueError, IndexError):
        return Nodes()
    return found


def _look(graph: memoryview, found: Nodes, known: set[str]) -> None:
    """Count a graph's nodes, which stand in the order in which they run.

    Args:
        graph: to be looked at.
        found: to be added to.
        known: tensors of what lies around it, and of it then, that are sizes or constants.
    """
    known.update(name for weight in parts(graph, _INITIALIZER) for name in texts(weight, 8))
    for node in parts(graph, _NODE):
        operator = "".join(texts(node, _OPERATOR))
        one = ("".join(texts(node, _NAME)), operator)
        found.all[one] += 1
        if operator in _TELL or known.issuperset(filter(None, texts(node, _INPUTS))):
            found.sizes[one] += 1
            known.update(texts(node, _OUTPUTS))
        for inner in _subgraphs(node):
            _look(inner, found, set(known))


def _subgraphs(node: memoryview) -> Iterator[memoryview]:
    for attribute in parts(node, _ATTRIBUTE):
        for number in _SUBGRAPHS:
            yield from parts(attribute, number)
