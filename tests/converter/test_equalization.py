"""Weights are balanced between layers, and no answer changes by a single bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.equalization import equalize
from service.session import Session, SessionOptions

Array = np.ndarray[Any, Any]
# Ranges that differ by six orders of magnitude from channel to channel.
STRETCH = np.exp2(np.random.default_rng(5).integers(-10, 11, 8)).astype(np.float32)


def node(operator: str, *inputs: str, to: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [to], **attributes)


def build(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    *,
    shape: tuple[int, ...] = (3, 8, 8),
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(
                value if value.dtype == np.int64 else value.astype(np.float32), name
            )
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)  # the outputs' shapes
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def normal(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(size=shape)


def answers(model: onnx.ModelProto, path: Path) -> list[Array]:
    onnx.save(model, path)
    session = Session(path, SessionOptions(threads=1))
    shape = session.inputs[0].shape[1:]
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    return list(session.run({session.inputs[0].name: x}).values())


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def spread(array: Array, axis: int) -> float:
    """How many times larger the largest channel's range is than the smallest's."""
    ranges = np.abs(np.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1).max(axis=1)
    return float(ranges.max() / ranges.min())


def check_same(model: onnx.ModelProto, tmp_path: Path, *, pairs: int) -> dict[str, Array]:
    """Equalize, and return the weights; the answers must stay, bit for bit."""
    before = answers(model, tmp_path / "before.onnx")
    assert all(np.ptp(array) > 0 for array in before)
    assert equalize(model) == pairs
    onnx.checker.check_model(model, full_check=True)
    after = answers(model, tmp_path / "after.onnx")
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    return weights(model)


def conv_chain(
    between: list[onnx.NodeProto], *, outputs: tuple[str, ...] = ("y",), damage: bool = True
) -> onnx.ModelProto:
    """Conv -> what lies between ``a`` and ``b`` -> Conv, with channels of very different range."""
    stretch = STRETCH if damage else np.ones(8)
    constants: dict[str, Array] = {
        "w1": normal(8, 3, 3, 3) * stretch[:, None, None, None],
        "b1": normal(8) * stretch,
        "w2": normal(6, 8, 3, 3) / stretch[:, None, None],
        "b2": normal(6),
        "slope": np.full((8, 1, 1), 0.1),
        "across": normal(8),  # as many as there are channels
        "zero": np.array(0.0),
        "six": np.array(6.0),
    }
    nodes = [
        node("Conv", "x", "w1", "b1", to="a", pads=[1, 1, 1, 1]),
        *between,
        node("Conv", "b", "w2", "b2", to="y", pads=[1, 1, 1, 1]),
    ]
    return build(nodes, constants, outputs=outputs)


def test_a_stretched_chain_is_balanced_and_answers_the_same(tmp_path: Path) -> None:
    model = conv_chain([node("Relu", "a", to="b")])
    assert spread(weights(model)["w1"], 0) > 1000
    after = check_same(model, tmp_path, pairs=1)
    assert spread(after["w1"], 0) < 8
    assert spread(after["w2"], 1) < 8


def test_activations_are_balanced_too(tmp_path: Path) -> None:
    model = conv_chain([node("Relu", "a", to="b")], outputs=("y", "a"))
    model.graph.output.pop()
    equalize(model)
    model.graph.output.add().name = "a"
    activations = answers(model, tmp_path / "m.onnx")[1]
    assert spread(activations, 1) < 16


@pytest.mark.parametrize(
    "between",
    [
        [node("LeakyRelu", "a", to="b", alpha=0.2)],
        [node("PRelu", "a", "slope", to="b")],
        [node("MaxPool", "a", to="p", kernel_shape=[2, 2]), node("Identity", "p", to="b")],
        [node("AveragePool", "a", to="b", kernel_shape=[2, 2], pads=[1, 1, 1, 1])],
        [
            node("Transpose", "a", to="t", perm=[0, 2, 3, 1]),
            node("Relu", "t", to="r"),
            node("Transpose", "r", to="b", perm=[0, 3, 1, 2]),
        ],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_what_commutes_is_crossed(between: list[onnx.NodeProto], tmp_path: Path) -> None:
    assert spread(check_same(conv_chain(between), tmp_path, pairs=1)["w1"], 0) < 8


@pytest.mark.parametrize(
    "between",
    [
        [node("Clip", "a", "zero", "six", to="b")],
        [node("Sigmoid", "a", to="b")],
        [node("Sigmoid", "a", to="s"), node("Mul", "a", "s", to="b")],
        [node("Softplus", "a", to="b")],
    ],
    ids=["Clip", "Sigmoid", "Swish", "Softplus"],
)
def test_what_does_not_commute_is_left_alone(between: list[onnx.NodeProto], tmp_path: Path) -> None:
    model = conv_chain(between)
    before = model.SerializeToString()
    check_same(model, tmp_path, pairs=0)
    assert model.SerializeToString() == before


def test_a_tensor_with_a_second_reader_is_left_alone(tmp_path: Path) -> None:
    between = [node("Relu", "a", to="b"), node("GlobalMaxPool", "b", to="also")]
    check_same(conv_chain(between, outputs=("y", "also")), tmp_path, pairs=0)


def test_a_tensor_that_is_an_output_is_left_alone(tmp_path: Path) -> None:
    check_same(conv_chain([node("Relu", "a", to="b")], outputs=("y", "a")), tmp_path, pairs=0)


def test_a_weight_that_two_layers_share_is_left_alone(tmp_path: Path) -> None:
    stretch = STRETCH[:, None]
    nodes = [
        node("Gemm", "x", "w", to="a"),
        node("Relu", "a", to="r"),
        node("Gemm", "r", "w", to="y"),
    ]
    check_same(build(nodes, {"w": normal(8, 8) * stretch}, shape=(8,)), tmp_path, pairs=0)


def test_balanced_weights_are_no_pair(tmp_path: Path) -> None:
    model = conv_chain([node("Relu", "a", to="b")])
    assert equalize(model) == 1
    check_same(model, tmp_path, pairs=0)


def test_a_dead_channel_is_left_alone(tmp_path: Path) -> None:
    model = conv_chain([node("Relu", "a", to="b")])
    dead = weights(model)["w1"].copy()
    dead[3] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(dead, "w1"))
    after = check_same(model, tmp_path, pairs=1)
    assert np.isfinite(after["w2"]).all()


def test_depthwise_and_pointwise_convolutions_are_balanced_along_the_chain(tmp_path: Path) -> None:
    shape, steps = STRETCH[:, None, None, None], np.exp2(np.arange(16))
    constants: dict[str, Array] = {
        "w1": normal(8, 3, 1, 1) * shape,
        "b1": normal(8) * STRETCH,
        # Two outputs of each channel.
        "w2": normal(16, 1, 3, 3) / np.repeat(shape, 2, axis=0) * steps[:, None, None, None],
        "w3": normal(4, 16, 1, 1) / steps[:, None, None],
    }
    nodes = [
        node("Conv", "x", "w1", "b1", to="a"),
        node("Relu", "a", to="b"),
        node("Conv", "b", "w2", to="c", group=8),
        node("Relu", "c", to="d"),
        node("Conv", "d", "w3", to="y"),
    ]
    after = check_same(build(nodes, constants), tmp_path, pairs=2)
    assert all(spread(after[name], 0) < 8 for name in ("w1", "w2"))
    assert spread(after["w3"], 1) < 8


def test_a_grouped_convolution_takes_its_own_channels(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x", "w1", to="a"),
        node("Relu", "a", to="b"),
        node("Conv", "b", "w2", to="y", group=2),
    ]
    constants: dict[str, Array] = {
        "w1": normal(8, 3, 1, 1) * STRETCH[:, None, None, None],
        "w2": normal(6, 4, 3, 3),
    }
    after = check_same(build(nodes, constants), tmp_path, pairs=1)
    upper, lower = after["w2"][:3], after["w2"][3:]
    second = np.concatenate([np.abs(part).max(axis=(0, 2, 3)) for part in (upper, lower)])
    ratios = np.abs(after["w1"]).max(axis=(1, 2, 3)) / second
    assert (ratios >= 0.5).all() and (ratios <= 2).all()


@pytest.mark.parametrize("last", ["nchw", "nhwc", "reshape", "squeeze"])
def test_a_dense_layer_behind_flattened_channels_is_balanced(last: str, tmp_path: Path) -> None:
    flat = {
        "nchw": [node("Flatten", "r", to="f")],
        "nhwc": [
            node("Transpose", "r", to="t", perm=[0, 2, 3, 1]),
            node("Flatten", "t", to="f"),
        ],
        "reshape": [node("Reshape", "r", "shape", to="f")],
        "squeeze": [node("GlobalAveragePool", "r", to="g"), node("Squeeze", "g", "axes", to="f")],
    }[last]
    channel = {"nhwc": np.arange(512) % 8, "squeeze": np.arange(8)}.get(last, np.arange(512) // 64)
    constants: dict[str, Array] = {
        "w1": normal(8, 3, 3, 3) * STRETCH[:, None, None, None],
        "w2": normal(len(channel), 5) / STRETCH[channel, None],
        "b2": normal(5),
        "shape": np.array([-1, 512]),
        "axes": np.array([2, 3]),
    }
    nodes = [
        node("Conv", "x", "w1", to="a", pads=[1, 1, 1, 1]),
        node("Relu", "a", to="r"),
        *flat,
        node("MatMul", "f", "w2", to="m"),
        node("Add", "m", "b2", to="y"),
    ]
    after = check_same(build(nodes, constants), tmp_path, pairs=1)
    assert spread(after["w1"], 0) < 8
    assert spread(after["w2"], 0) < 256  # single rows of five


def test_dense_layers_with_their_biases_are_balanced(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x", "w1", to="m"),
        node("Add", "b1", "m", to="a"),
        node("Relu", "a", to="r"),
        node("Gemm", "r", "w2", "b2", to="c", transB=1, alpha=0.5),
        node("Relu", "c", to="d"),
        node("Gemm", "d", "w3", to="y"),
    ]
    constants: dict[str, Array] = {
        "w1": normal(4, 8) * STRETCH,
        "b1": normal(8) * STRETCH,
        "w2": normal(8, 8) / STRETCH * STRETCH[::-1, None],
        "b2": normal(8) * STRETCH[::-1],
        "w3": normal(8, 3) / STRETCH[::-1, None],
    }
    after = check_same(build(nodes, constants, shape=(4,)), tmp_path, pairs=2)
    assert spread(after["w1"], 1) < 8
    assert spread(after["w2"], 0) < 8
    assert spread(after["w3"], 0) < 8


def test_a_constant_along_another_dimension_stops_it(tmp_path: Path) -> None:
    model = conv_chain([node("Relu", "a", to="r"), node("Add", "r", "across", to="b")])
    check_same(model, tmp_path, pairs=0)


def test_a_bias_that_all_channels_share_stops_it(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x", "w1", to="m"),
        node("Add", "m", "one", to="a"),
        node("Relu", "a", to="r"),
        node("MatMul", "r", "w2", to="y"),
    ]
    constants: dict[str, Array] = {
        "w1": normal(4, 8) * STRETCH,
        "one": np.array(1.0),
        "w2": normal(8, 3),
    }
    check_same(build(nodes, constants, shape=(4,)), tmp_path, pairs=0)
