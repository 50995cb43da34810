"""Whether callers can make a run of an ONNX file longer than it was when it was timed.

The file is read without the package onnx, which servers lack. It is a protobuf message, so a few
lines find what is asked for (onnx.proto: ModelProto.graph is field 7, its functions 25;
GraphProto.node 1 and input 11; NodeProto.input 1, output 2, op_type 4 and domain 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.encoded import parts, texts

_GRAPH, _FUNCTION = 7, 25
_NODE, _INPUT = 1, 11
_INPUTS, _OUTPUTS, _OP_TYPE, _DOMAIN = 1, 2, 4, 7
_NAME = 1
# Of ONNX itself, its classical models, and ONNX Runtime's own; all others are named in front.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
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
# Their inputs from this one on tell sizes: they may be the model's own numbers, not a caller's.
_TOLD_FROM = {
    **dict.fromkeys(("Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"), 1),
    **dict.fromkeys((name for name in STEADY if name.startswith("Reduce")), 1),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), 4),
}


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        operator: e.g. ``MatMul``, or ``custom.domain:Spin``.
        inputs: names of tensors; empty where one is left out.
        outputs: likewise.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def steady(path: Path) -> bool:
    """Whether a run's time hangs on the shapes of its inputs alone.

    False as well for a file that is too large to be looked at, has another form, or defines
    operators of its own.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            return False
        model = memoryview(path.read_bytes())
        graphs = list(parts(model, _GRAPH))
        if len(graphs) != 1 or next(parts(model, _FUNCTION), None) is not None:
            return False
        nodes = [_node(node) for node in parts(graphs[0], _NODE)]
        sent = {name for each in parts(graphs[0], _INPUT) for name in texts(each, _NAME)}
    except (OSError, ValueError, IndexError):
        return False
    return _all_steady(nodes, sent)


def _all_steady(nodes: list[Node], sent: set[str]) -> bool:
    """Whether no node is told a size by what callers send, or by what is made of that."""
    before = -1
    while len(sent) != before:  # once, unless the nodes stand in another order than they run
        before = len(sent)
        for node in nodes:
            if node.operator != "Shape" and not sent.isdisjoint(node.inputs):
                sent.update(node.outputs)
    sent.discard("")
    return bool(nodes) and all(
        node.operator in STEADY
        and sent.isdisjoint(node.inputs[_TOLD_FROM.get(node.operator, len(node.inputs)) :])
        for node in nodes
    )


def _node(message: memoryview) -> Node:
    operator, domain = ("".join(texts(message, field)) for field in (_OP_TYPE, _DOMAIN))
    name = operator if domain in _DOMAINS else f"{domain}:{operator}"
    return Node(name, tuple(texts(message, _INPUTS)), tuple(texts(message, _OUTPUTS)))
