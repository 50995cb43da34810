"""Tiny ONNX graphs, built in a few lines."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def double(path: Path, *, batch: str | int = "batch", factor: float = 2.0) -> Path:
    """``y = factor * x`` for rows of four floats."""
    return _write(
        path,
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [_value("x", TensorProto.FLOAT, [batch, 4])],
        [_value("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )


def every_datatype(path: Path) -> Path:
    """One input for each numeric datatype and one for strings, each returned unchanged."""
    kinds = {
        "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
        "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
        "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
        "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
        "BYTES": TensorProto.STRING,
    }  # fmt: skip
    return _write(
        path,
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in kinds],
        [_value(f"in_{name}", kind, ["batch", 3]) for name, kind in kinds.items()],
        [_value(f"out_{name}", kind, ["batch", 3]) for name, kind in kinds.items()],
        [],
    )


def identities(path: Path, *, opset: int = 17, **kinds: int) -> Path:
    """Each input returned unchanged, rows of four: input ``in_NAME`` for output ``out_NAME``."""
    return _write(
        path,
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in kinds],
        [_value(f"in_{name}", kind, ["batch", 4]) for name, kind in kinds.items()],
        [_value(f"out_{name}", kind, ["batch", 4]) for name, kind in kinds.items()],
        [],
        opset=opset,
    )


def passed_on(path: Path) -> Path:
    """x is an output itself, as ids beside scores are, and y = 2x another."""
    x, y = (_value(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y"))
    return _write(path, [helper.make_node("Add", ["x", "x"], ["y"])], [x], [x, y], [])


def bf16(path: Path) -> Path:
    """``same = x`` in BF16, and ``wide``, the same numbers as floats, for rows of four."""
    return _write(
        path,
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        ],
        [_value("x", TensorProto.BFLOAT16, ["batch", 4])],
        [
            _value("same", TensorProto.BFLOAT16, ["batch", 4]),
            _value("wide", TensorProto.FLOAT, ["batch", 4]),
        ],
        [],
    )


def optional_factor(path: Path) -> Path:
    """``y = factor * x`` for rows of four; who leaves ``factor`` out gets 2."""
    return _write(
        path,
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [_value(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "factor")],
        [_value("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.full((1, 4), 2, np.float32), "factor")],
    )


def classifier(path: Path, *, seed: int = 0, channels: int = 64, classes: int = 5) -> Path:
    """Two convolutions and a dense layer with random weights, on rows of [3, 24, 24]."""
    random = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        scale = 1.0 / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((random.normal(size=shape) * scale).astype(np.float32), name)

    return _write(
        path,
        [
            helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "w3"], ["scores"], transB=1),
        ],
        [_value("x", TensorProto.FLOAT, ["batch", 3, 24, 24])],
        [_value("scores", TensorProto.FLOAT, ["batch", classes])],
        [
            weights("w1", channels, 3, 3, 3),
            weights("w2", channels, channels, 3, 3),
            weights("w3", classes, channels),
        ],
    )


def valid_convolution(path: Path) -> Path:
    """A convolution without padding, on images of any size from 3 x 3."""
    return _write(
        path,
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [_value("x", TensorProto.FLOAT, ["batch", 1, "h", "w"])],
        [_value("y", TensorProto.FLOAT, ["batch", 1, "h_out", "w_out"])],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
    )


def always(path: Path, label: int) -> Path:
    """A stand-in for the digits net that decides the same for every row."""
    weights = np.zeros((10, 1024), np.float32)
    bias = np.eye(10, dtype=np.float32)[label]
    return _write(
        path,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["digit"], transB=1),
        ],
        [_value("x", TensorProto.FLOAT, ["batch", 32, 32, 1])],
        [_value("digit", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )


def not_batched(path: Path) -> Path:
    """A graph whose output does not follow the rows of its input: their sum."""
    return _write(
        path,
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [_value("x", TensorProto.FLOAT, ["n"])],
        [_value("y", TensorProto.FLOAT, [])],
        [],
    )


def lookup(path: Path, *, batch: str | int = "batch") -> Path:
    """``y`` is the row of four in a table of eight that ``x`` tells; another number is refused."""
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    return _write(
        path,
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [_value("x", TensorProto.INT64, [batch])],
        [_value("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(table, "table")],
    )


def found(path: Path, *, batch: str | int = "batch") -> Path:
    """Where ``x`` is not zero: as many numbers as there are, and ``x`` itself."""
    return _write(
        path,
        [
            helper.make_node("NonZero", ["x"], ["where"]),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        [_value("x", TensorProto.FLOAT, [batch, 4])],
        [
            _value("where", TensorProto.INT64, [2, "found"]),
            _value("same", TensorProto.FLOAT, [batch, 4]),
        ],
        [],
    )


def long_to_load(path: Path, *, size: int = 2000, products: int = 200) -> Path:
    """A chain of products of constants, which ONNX Runtime folds when it loads it: many seconds."""
    weight = np.full((size, size), 1 / size, np.float32)
    chain = ["weight", *(f"product_{at}" for at in range(products))]
    folded = [
        helper.make_node("MatMul", [before, "weight"], [after]) for before, after in pairwise(chain)
    ]
    return _write(
        path,
        [*folded, helper.make_node("MatMul", ["x", chain[-1]], ["y"])],
        [_value("x", TensorProto.FLOAT, ["batch", size])],
        [_value("y", TensorProto.FLOAT, ["batch", size])],
        [numpy_helper.from_array(weight, "weight")],
    )


def exponent_by_shape(path: Path) -> Path:
    """``y = exp(x)``, brought into the shape of x, which a node computes."""
    return _write(
        path,
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Exp", ["x"], ["e"]),
            helper.make_node("Reshape", ["e", "shape"], ["y"]),
        ],
        [_value("x", TensorProto.FLOAT, ["batch", 4])],
        [_value("y", TensorProto.FLOAT, ["batch", 4])],
        [],
    )


def summed_and_clipped(path: Path) -> Path:
    """``y = min(max(cumsum(x), 0), 6)``, by operators that shapes are computed with too."""
    return _write(
        path,
        [
            helper.make_node("CumSum", ["x", "axis"], ["sum"]),
            helper.make_node("Clip", ["sum", "low", "high"], ["y"]),
        ],
        [_value("x", TensorProto.FLOAT, ["batch", 4])],
        [_value("y", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [], [1]),
            helper.make_tensor("low", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("high", TensorProto.FLOAT, [], [6.0]),
        ],
    )


def shape_doubled(path: Path) -> Path:
    """``y``, the shape of x times two, by nodes without names."""
    return _write(
        path,
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Mul", ["shape", "two"], ["y"]),
        ],
        [_value("x", TensorProto.FLOAT, ["batch", 4])],
        [_value("y", TensorProto.INT64, [2])],
        [helper.make_tensor("two", TensorProto.INT64, [1], [2])],
    )


def _value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
    *,
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    ir_version = 8 if opset == 17 else 9
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
