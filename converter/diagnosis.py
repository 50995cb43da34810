"""Why a graph is no faster on this CPU: what ONNX Runtime could not fuse, counted, with its cure.

Read off the graph that ONNX Runtime itself makes of a file, before it is fitted to one CPU. Nothing
is timed here: what costs time was measured before, as CONTRIBUTING.md's design notes or a comment
below say.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
import service.session  # noqa: F401  # isort: skip

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from service.errors import ModelUnusable

_X86 = platform.machine() in ("x86_64", "AMD64")
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_CONVOLUTIONS = {"Conv", "FusedConv", "ConvInteger", "QLinearConv"}
_DYNAMIC_PRODUCTS = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
_QUANTIZED = {_Q, _DQ, "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits"}
# Between channels first and channels last.
_LAYOUTS = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 3, 4, 1], [0, 4, 1, 2, 3])


@dataclass(frozen=True)
class Finding:
    """One thing that costs time.

    Attributes:
        what: what was found, in a few words.
        count: how often.
        cure: one short sentence.
    """

    what: str
    count: int
    cure: str


def diagnose(path: Path) -> list[Finding]:
    """Say why a graph is slower on this CPU than it could be.

    Args:
        path: an ONNX file, fp32 or a variant.

    Returns:
        What was found; nothing for a clean graph.

    Raises:
        ModelUnusable: it is no graph that this ONNX Runtime loads.
    """
    case = _Case(*_load(path))
    return [finding for look in _LOOKS for finding in look(case) if finding.count]


@dataclass(frozen=True)
class _Case:
    """A graph as it was written and as ONNX Runtime runs it."""

    written: onnx.GraphProto
    run: onnx.GraphProto

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(_nodes(self.run))

    @cached_property
    def operators(self) -> Counter[str]:
        return Counter(node.op_type for node in self.nodes)

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def types(self) -> dict[str, onnx.TypeProto.Tensor]:
        # ONNX does not know all of ONNX Runtime's own operators; names mostly stay.
        graphs = (self.written, self.run)
        infos = (info for g in graphs for info in (*g.input, *g.value_info, *g.output))
        return {info.name: info.type.tensor_type for info in infos}

    @cached_property
    def kinds(self) -> dict[str, int]:
        known = {name: found.elem_type for name, found in self.types.items()}
        return known | {tensor.name: tensor.data_type for tensor in self.run.initializer}

    def touching(self, kind: int, nodes: Sequence[onnx.NodeProto]) -> int:
        """How many of these nodes read or write tensors of this type."""
        tensors = {name for name, found in self.kinds.items() if found == kind}
        return sum(not tensors.isdisjoint((*node.input, *node.output)) for node in nodes)


def _load(path: Path) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """The graph as written, and as ONNX Runtime optimizes it; neither with its large weights."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    name = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{name}_file_name", "weights")
    options.add_session_config_entry(f"{name}_min_size_in_bytes", "1024")
    with tempfile.TemporaryDirectory() as directory:
        optimized = Path(directory) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            models = [onnx.load(file, load_external_data=False) for file in (path, optimized)]
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            said = " ".join(str(error).split())[:200]
            raise ModelUnusable(f"ONNX Runtime cannot load {path}: {said}") from error
    written, run = (onnx.shape_inference.infer_shapes(model).graph for model in models)
    return written, run


def _float_islands(case: _Case) -> Iterator[Finding]:
    """Float operators on a way from int8 back to int8; ONNX Runtime saves nodes in their order."""
    constants = {tensor.name for tensor in case.run.initializer}
    behind: set[str] = set()
    for node in case.run.node:
        starts = node.op_type == _DQ and node.input[0] not in constants
        if starts or (node.op_type != _Q and behind.intersection(node.input)):
            behind.update(node.output)
    before: set[str] = set()
    islands: Counter[str] = Counter()
    for node in reversed(case.run.node):
        if node.op_type == _Q:
            before.add(node.input[0])
        elif node.op_type != _DQ and before.intersection(node.output):
            before.update(node.input)
            islands[node.op_type] += bool(behind.intersection(node.input))
    for operator, count in islands.most_common():
        yield Finding(
            f"{operator} in float between {_DQ} and {_Q}",
            count,
            f"quantize {operator} too, or leave the whole region around it in float",
        )


def _float_products(case: _Case) -> Iterator[Finding]:
    """int8 weights that are turned back into float for each run."""
    constants = {tensor.name for tensor in case.run.initializer}
    found: Counter[str] = Counter()
    for node in case.nodes:
        sources = [case.makers[name] for name in node.input if name in case.makers]
        if any(source.op_type == _DQ and source.input[0] in constants for source in sources):
            found[node.op_type] += 1
    for operator, count in found.most_common():
        yield Finding(
            f"{operator} in float on int8 weights",
            count,
            f"quantize the other input and the output of {operator} too, or keep its weights float",
        )


def _dynamic(case: _Case) -> Iterator[Finding]:
    yield Finding(
        "ConvInteger, quantized at run time",
        case.operators["ConvInteger"],
        "quantize convolutions statically, with calibration rows",
    )
    if _CONVOLUTIONS & case.operators.keys():
        yield Finding(
            "matrix products quantized at run time in a net of convolutions",
            sum(case.operators[operator] for operator in _DYNAMIC_PRODUCTS),
            "quantize the whole net statically, with calibration rows",
        )


def _precisions(case: _Case) -> Iterator[Finding]:
    half, double = TensorProto.FLOAT16, TensorProto.DOUBLE
    yield Finding(
        "operators on fp16",
        case.touching(half, case.nodes),
        "serve fp32 or int8 on a CPU: its kernels compute in float32, fp16 is for GPUs",
    )
    yield Finding(
        "Casts from or to fp16",
        case.touching(half, [node for node in case.nodes if node.op_type == "Cast"]),
        "keep neighbouring nodes in one precision, or the whole graph in fp32",
    )
    # One thread: Exp 45x, Tanh 31x, MatMul 3x the time of float32; Conv and Erf have no kernel.
    doubles = case.touching(double, case.nodes)
    yield Finding("operators on float64", doubles, "export the model in float32")


def _layouts(case: _Case) -> Iterator[Finding]:
    ends = {value.name for value in (*case.run.input, *case.run.output)}
    left = sum(
        _attribute(node, "perm", []) in _LAYOUTS and ends.isdisjoint((*node.input, *node.output))
        for node in case.nodes
        if node.op_type == "Transpose"
    )
    cure = "export the model in one layout, channels first"
    yield Finding("Transposes between channels first and last", left, cure)


def _bodies(case: _Case) -> Iterator[Finding]:
    cures = {
        "Loop": "export recurrent layers without a mask, so that they become LSTM or GRU",
        "Scan": "export recurrent layers as LSTM or GRU, which have kernels of their own",
        "If": "export for inference, with the condition fixed",
    }
    for operator, cure in cures.items():
        yield Finding(f"{operator}: a graph in the graph", case.operators[operator], cure)


def _slow_kernels(case: _Case) -> Iterator[Finding]:
    """Kernels without a fast path, on 1 thread of an AMD EPYC, ONNX Runtime 1.31."""
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in case.run.initializer
        if prod(tensor.dims) == 1 and tensor.data_location != TensorProto.EXTERNAL
    }
    resizes = powers = across = 0
    for node in case.nodes:
        if node.op_type == "Resize":
            resizes += _attribute(node, "mode", b"nearest") == b"cubic"
        elif node.op_type == "Pow":
            powers += np.ravel(constants.get(node.input[1], 2.0))[0] not in (2, 3)
        elif node.op_type in ("Softmax", "LogSoftmax"):
            known = case.types.get(node.output[0])
            rank = len(known.shape.dim) if known else 0
            across += rank > 0 and _attribute(node, "axis", -1) not in (-1, rank - 1)
    # 140 ms against 1.2 ms for [4, 64, 28, 28], doubled.
    yield Finding("Resize, cubic", resizes, "resize linearly: 100 times faster")
    # 15.8 ms against 0.3 ms for 1.5 million numbers.
    yield Finding("Pow to other than 2 or 3", powers, "write it as Mul or Sqrt: 20 times faster")
    # 7.1 ms against 0.5 ms for [8, 256, 768].
    yield Finding("Softmax not over the last axis", across, "move that axis to the end before it")


def _signed(case: _Case) -> Iterator[Finding]:
    signed = {t.name for t in case.written.initializer if t.data_type == TensorProto.INT8}
    points = [node.input[2] for node in case.written.node if node.op_type == _Q and node.input[2:]]
    yield Finding(
        "activations in signed int8",
        sum(point in signed for point in points) if _X86 else 0,
        "quantize activations to uint8 on x86 (U8S8)",
    )


def _fixed_batch(case: _Case) -> Iterator[Finding]:
    given = {tensor.name for tensor in case.written.initializer}
    shapes = [v.type.tensor_type.shape.dim for v in case.written.input if v.name not in given]
    yield Finding(
        "inputs with a fixed batch",
        sum(bool(shape) and shape[0].dim_value > 0 for shape in shapes),
        "export with a free first dimension, so that requests can share a run",
    )


def _untouched(case: _Case) -> Iterator[Finding]:
    if not _QUANTIZED & {node.op_type for node in _nodes(case.written)}:
        return
    weights = [tensor for tensor in case.written.initializer if len(tensor.dims) > 1]
    left = [tensor for tensor in weights if tensor.data_type == TensorProto.FLOAT]
    share = _bytes(left) / max(1, _bytes(weights))
    if share > 0.5:
        yield Finding(
            f"weights still in float32: {share:.0%} of the bytes",
            len(left),
            "quantize the operators that hold them, or serve fp32: there is little to gain",
        )


_LOOKS: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    _float_islands, _float_products, _dynamic, _precisions, _layouts, _bodies, _slow_kernels,
    _signed, _fixed_batch, _untouched,
)  # fmt: skip


def _bytes(tensors: Sequence[onnx.TensorProto]) -> int:
    width = helper.tensor_dtype_to_np_dtype
    return sum(prod(tensor.dims) * width(tensor.data_type).itemsize for tensor in tensors)


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    found = (field for field in node.attribute if field.name == name)
    return next((helper.get_attribute_value(field) for field in found), default)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of bodies too."""
    for node in graph.node:
        yield node
        for field in node.attribute:
            for body in (field.g, *field.graphs):
                yield from _nodes(body)
