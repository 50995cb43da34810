"""ONNX nets that are good for one thing each, and rows for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.session import Session, SessionOptions

Node = onnx.NodeProto
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> Node:
    """A node; the names are separated by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def build(
    path: Path,
    nodes: list[Node],
    inputs: dict[str, list[str | int]],
    outputs: dict[str, list[str | int]],
    weights: dict[str, np.ndarray],
    kinds: dict[str, int] | None = None,
) -> Path:
    """Write a graph; its inputs and outputs are float unless ``kinds`` says otherwise."""
    ends = [
        [helper.make_tensor_value_info(n, (kinds or {}).get(n, FLOAT), shape) for n, shape in side]
        for side in (inputs.items(), outputs.items())
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Random weights that keep the size of what they are applied to."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    array = np.random.default_rng(seed).normal(size=shape) / np.sqrt(fan_in)
    return array.astype(np.float32)


def answers(path: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    return Session(path, SessionOptions()).run(feeds)


def dense(path: Path, *, outputs: int = 1, hidden: int = 192, seed: int = 0) -> Path:
    """Two dense layers on rows of 32 floats: numbers that are no probabilities."""
    return build(
        path,
        [node("MatMul", "x w1", "h"), node("Tanh", "h", "a"), node("MatMul", "a w2", "b"),
         node("Tanh", "b", "c"), node("MatMul", "c w3", "y")],
        {"x": ["batch", 32]},
        {"y": ["batch", outputs]},
        {"w1": normal(32, hidden, seed=seed), "w2": normal(hidden, hidden, seed=seed + 1),
         "w3": 30 * normal(hidden, outputs, seed=seed + 2)},
    )  # fmt: skip


def crowd(path: Path) -> Path:
    """Scores in shares of the batch's largest: a row's answer depends on who shares its batch."""
    return build(
        path,
        [node("ReduceMax", "x", "most", axes=[0], keepdims=1), node("Div", "x most", "scores")],
        {"x": ["batch", 4]},
        {"scores": ["batch", 4]},
        {},
    )


ACTIVATIONS = ("Relu", "Clip", "Swish")
ROW = (3, 8, 8)


def images(rows: int, seed: int = 1) -> np.ndarray:
    """Rows that differ from each other in more than noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3, 1, 1)) + 0.7 * random.normal(size=(rows, *ROW))
    return x.astype(np.float32)


def images_net(path: Path, *, behind: str = "Relu", channels: int = 80, times: float = 1.0) -> Path:
    """Conv, an activation, Conv, Relu, a dense layer: scores of five classes.

    With ``times`` two thirds of the first layer's channels are so much smaller than the others, and
    the second's weights make up for it. An activation of eight bits for all channels then has no
    steps left for them; and weights of eight bits for all inputs none for the others.
    """
    random = np.random.default_rng(0)
    scale = np.where(np.arange(channels) % 3 == 0, 1.0, 1 / times).astype(np.float32)
    weights = {
        "w1": normal(channels, *ROW[:1], 3, 3) * scale.reshape(-1, 1, 1, 1),
        "b1": (0.1 * random.normal(size=channels)).astype(np.float32) * scale,
        "w2": normal(channels, channels, 3, 3, seed=1) / scale.reshape(1, -1, 1, 1),
        "w3": normal(channels, 5, seed=2),
        "b3": np.zeros(5, np.float32),
    }
    activation = {
        "Relu": [node("Relu", "c1", "a1")],
        "Clip": [node("Clip", "c1 low high", "a1")],
        "Swish": [node("Sigmoid", "c1", "s1"), node("Mul", "c1 s1", "a1")],
    }[behind]
    if behind == "Clip":
        weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]), *activation,
        node("Conv", "a1 w2", "c2", pads=[1, 1, 1, 1]), node("Relu", "c2", "a2"),
        node("GlobalAveragePool", "a2", "g"), node("Flatten", "g", "f"),
        node("Gemm", "f w3 b3", "scores"),
    ]  # fmt: skip
    ends = {"x": ["batch", *ROW]}, {"scores": ["batch", 5]}
    build(path, nodes, *ends, weights)
    # No class is the commonest by its bias alone.
    weights["b3"] = -answers(path, x=images(200))["scores"].mean(axis=0)
    return build(path, nodes, *ends, weights)


def clear_rows(path: Path, rows: int, *, of: int) -> np.ndarray:
    """Rows that the classifier decides with a wide margin, in a random order."""
    x = images(of)
    best = np.sort(answers(path, x=x)["scores"], axis=1)
    return x[np.random.default_rng(0).permutation(np.argsort(best[:, -2] - best[:, -1])[:rows])]
