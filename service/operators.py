"""Which operators an ONNX file is made of, read without the package onnx, which servers lack.

An ONNX file is a protobuf message (onnx.proto: ModelProto.graph is field 7, GraphProto.node 1,
NodeProto.op_type 4), so a few lines find them. ModelProto.functions (25) would give names a meaning
of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.encoded import number

_GRAPH, _FUNCTION, _NODE, _OP_TYPE, _DOMAIN = 7, 25, 1, 4, 7
# Of ONNX itself, its classical models, and ONNX Runtime's own; all others are named in front.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
# What is larger takes longer to run than anyone asks this for.
_MOST_BYTES = 2**24

# Their time hangs on the shapes of what they are given, hardly on the contents. Whatever makes
# tensors of a size that it is told (Expand, Range, TopK), repeats (Loop) or chooses (If) is not
# here, and neither is any other that somebody could send the wrong numbers to.
STEADY = frozenset(
    """
    Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant Conv ConvInteger ConvTranspose Cos Cosh DequantizeLinear Div Dropout
    DynamicQuantizeLinear Elu Equal Erf Exp FastGelu Flatten Floor FusedConv FusedGemm FusedMatMul
    GRU Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid
    HardSwish Identity InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
    LinearClassifier LinearRegressor Log LogSoftmax LpNormalization MatMul MatMulInteger Max MaxPool
    Mean Min Mish Mul Neg Normalizer Not Or PRelu Pow QGemm QLinearAdd QLinearAveragePool
    QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMatMul QLinearMul
    QLinearSigmoid QLinearSoftmax QuantizeLinear RNN Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Scaler
    Selu Shape Sigmoid Sign Sin Sinh SkipLayerNormalization Slice Softmax Softplus Softsign Split
    Sqrt Squeeze Sub Sum SVMClassifier SVMRegressor Tan Tanh ThresholdedRelu Transpose
    TreeEnsembleClassifier TreeEnsembleRegressor Unsqueeze Where Xor
    """.split()  # noqa: SIM905  # a list of them would take a hundred lines
)


def of(path: Path) -> frozenset[str] | None:
    """The operators of a file, e.g. ``MatMul``, or ``custom.domain:Spin``.

    Returns:
        None if the file is too large to be looked at, in another form, or defines operators.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        model = memoryview(path.read_bytes())
        if next(_parts(model, _FUNCTION), None) is not None:
            return None
        graphs = _parts(model, _GRAPH)
        found = frozenset(_name(node) for graph in graphs for node in _parts(graph, _NODE))
    except (OSError, ValueError, IndexError):
        return None
    return found or None


def _name(node: memoryview) -> str:
    operator, domain = (
        "".join(str(part, "utf-8") for part in _parts(node, field)) for field in (_OP_TYPE, _DOMAIN)
    )
    return operator if domain in _DOMAINS else f"{domain}:{operator}"


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The bytes of each field with this number."""
    at = 0
    while at < len(message):
        tag, at = number(message, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = number(message, at)
            continue
        size = _SIZES.get(kind)
        if kind == _BYTES:
            size, at = number(message, at)
        if size is None or at + size > len(message):
            raise ValueError("no ONNX file")
        if tag >> 3 == wanted and kind == _BYTES:
            yield message[at : at + size]
        at += size
