"""What an ONNX file holds, as far as it decides how a GPU's provider is set up.

Read without the package onnx, as ``operators`` does (onnx.proto: GraphProto.node 1, initializer 5,
input 11; NodeProto.op_type 4; TensorProto.data_type 2, name 8; ValueInfoProto.name 1, type 2;
TypeProto.tensor_type 1, its shape 2; TensorShapeProto.dim 1, its dim_value 1). A file of gigabytes
is looked through, not read.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from service.encoded import numbers, parts, texts

_GRAPH = 7
_NODE, _INITIALIZER, _INPUT = 1, 5, 11
_FLOAT16 = 10  # TensorProto.DataType


@dataclass(frozen=True)
class Facts:
    """What one graph holds, its subgraphs left out.

    Attributes:
        operators: e.g. ``Conv``.
        half: whether it has weights of 16 bits.
        inputs: name and shape of each that a run must be given; -1 where a dimension is free.
    """

    operators: frozenset[str] = frozenset()
    half: bool = False
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def convolves(self) -> bool:
        """Whether an algorithm is to be searched for, and a layout chosen."""
        return not self.operators.isdisjoint({"Conv", "ConvTranspose", "FusedConv"})

    @property
    def quantized(self) -> bool:
        """Whether it says itself where numbers of 8 bits are."""
        return "DequantizeLinear" in self.operators

    @property
    def fixed_rows(self) -> bool:
        """Whether all shapes but for the number of rows are known."""
        return bool(self.inputs) and all(-1 not in shape[1:] for _, shape in self.inputs)

    @property
    def fixed(self) -> bool:
        """Whether all shapes are known."""
        return self.fixed_rows and all(-1 not in shape for _, shape in self.inputs)


def facts(path: Path) -> Facts:
    """What is in a file; nothing where it is no ONNX file, which ONNX Runtime tells of."""
    try:
        with path.open("rb") as file:
            model = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _facts(next(parts(model, _GRAPH), memoryview(b"")))
    except (OSError, ValueError, IndexError):
        return Facts()


def _facts(graph: memoryview) -> Facts:
    weights = list(parts(graph, _INITIALIZER))
    given = {name for weight in weights for name in texts(weight, 8)}
    inputs = ((texts(each, 1)[0], _shape(each)) for each in parts(graph, _INPUT))
    return Facts(
        frozenset(name for node in parts(graph, _NODE) for name in texts(node, 4)),
        any(_FLOAT16 in numbers(weight, 2) for weight in weights),
        tuple((name, shape) for name, shape in inputs if name not in given),
    )


def _shape(value: memoryview) -> tuple[int, ...]:
    """Free dimensions where the graph says nothing of it."""
    for kind in parts(value, 2):
        for tensor in parts(kind, 1):
            for shape in parts(tensor, 2):
                return tuple((numbers(dim, 1) or [-1])[0] for dim in parts(shape, 1))
    return (-1, -1)
