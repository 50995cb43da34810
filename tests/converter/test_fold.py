"""Normalization and the choice of the best classes, inside the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import fold
from converter.fold import CannotFold, Normalization
from service.errors import FarthingError
from service.session import Session, SessionOptions
from tests import models

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 24, 24), np.uint8)


@pytest.fixture
def classifier(tmp_path: Path) -> onnx.ModelProto:
    return onnx.load(models.classifier(tmp_path / "classifier.onnx", channels=8))


def session(model: onnx.ModelProto, path: Path) -> Session:
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return Session(path, SessionOptions())


def echo(*shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A model that gives its input back."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def folded(model: onnx.ModelProto, by: Normalization) -> onnx.ModelProto:
    return fold.uint8_input(model, by.name, scale=by.scale, mean=by.mean, std=by.std, axis=by.axis)


def test_bytes_are_normalised_as_numpy_does_it_bit_for_bit(tmp_path: Path) -> None:
    by = Normalization("x", (1 / 255,), MEAN, STD, axis=1)
    running = session(folded(echo("batch", 3, 24, 24), by), tmp_path / "m.onnx")
    normal = running.run({"x": PIXELS})["y"]
    np.testing.assert_array_equal(normal, by.normalise(PIXELS))
    channel = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    np.testing.assert_allclose(normal, (PIXELS / 255 - channel[0]) / channel[1], atol=1e-6)


def test_channels_may_be_last(tmp_path: Path) -> None:
    by = Normalization("x", (2.0,), MEAN, (1.0,), axis=-1)
    rows = PIXELS.transpose(0, 2, 3, 1)
    running = session(folded(echo("batch", 24, 24, 3), by), tmp_path / "m.onnx")
    np.testing.assert_array_equal(running.run({"x": rows})["y"], by.normalise(rows))
    np.testing.assert_allclose(by.normalise(rows), rows * 2.0 - np.array(MEAN), atol=1e-4)


def test_one_number_serves_every_shape(tmp_path: Path) -> None:
    by = Normalization("x", scale=(1 / 255,))
    running = session(folded(echo("batch", "time"), by), tmp_path / "m.onnx")
    rows = np.array([[0, 255], [51, 102]], np.uint8)
    np.testing.assert_allclose(running.run({"x": rows})["y"], rows / 255, rtol=1e-6)


def test_the_input_is_uint8_and_all_else_of_the_contract_stays(
    classifier: onnx.ModelProto, tmp_path: Path
) -> None:
    before = session(classifier, tmp_path / "before.onnx")
    untouched = classifier.SerializeToString()
    by = Normalization("x", (1 / 255,), MEAN, STD, axis=1)
    after = session(folded(classifier, by), tmp_path / "after.onnx")
    assert classifier.SerializeToString() == untouched
    assert [(spec.name, spec.datatype) for spec in after.inputs] == [("x", "UINT8")]
    assert after.inputs[0].shape == before.inputs[0].shape
    assert after.outputs == before.outputs
    np.testing.assert_allclose(
        after.run({"x": PIXELS})["scores"],
        before.run({"x": by.normalise(PIXELS)})["scores"],
        rtol=1e-6,
        atol=1e-6,
    )


def test_what_reads_the_input_inside_a_branch_gets_it_normalised(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("Neg", ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])],
        )

    model = echo("batch", 2)
    choice = helper.make_node(
        "If", ["yes"], ["y"], then_branch=branch("a"), else_branch=branch("b")
    )
    del model.graph.node[:]
    model.graph.node.append(choice)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    running = session(folded(model, Normalization("x", (0.5,))), tmp_path / "m.onnx")
    assert running.run({"x": np.array([[2, 4]], np.uint8)})["y"].tolist() == [[-1, -2]]


@pytest.mark.parametrize(
    ("model", "by", "reason"),
    [
        (echo("n", 3), Normalization("image"), "no input 'image', it has 'x'"),
        (echo("n", 3, kind=TensorProto.INT32), Normalization("x"), "no FLOAT tensor"),
        (echo("n", 4), Normalization("x", mean=MEAN, axis=1), "3 numbers as mean.*4 channels"),
        (
            echo("n", "c"),
            Normalization("x", mean=MEAN, std=(1, 2), axis=1),
            "2 numbers as std.*3 channels",
        ),
        (echo("n", 3), Normalization("x", mean=MEAN, axis=0), "axis 0 is no dimension"),
        (echo("n", 3), Normalization("x", mean=MEAN, axis=2), "axis 2 is no dimension"),
        (echo("n", 3), Normalization("x", std=(0.0,)), "std of 'x' is 0"),
        (echo("n", 3), Normalization("x", mean=(float("nan"),)), "finite"),
        (echo("n", 3), Normalization("x", mean=()), "finite"),
        (echo("n", 3), Normalization("x", std=(1e-40,)), "leaves float32's range"),
    ],
)
def test_a_normalization_that_does_not_fit_is_refused(
    model: onnx.ModelProto, by: Normalization, reason: str
) -> None:
    with pytest.raises(CannotFold, match=reason):
        folded(model, by)


def test_an_input_that_is_an_output_too_is_refused() -> None:
    model = echo("n", 3)
    model.graph.output.append(model.graph.input[0])
    with pytest.raises(CannotFold, match="output too"):
        folded(model, Normalization("x"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x:scale=1/255", Normalization("x", (1 / 255,))),
        (
            "in:0:axis=1:std=0.229,0.224,0.225:mean=0.485, 0.456, 0.406:scale=1/255",
            Normalization("in:0", (1 / 255,), MEAN, STD, axis=1),
        ),
        ("a/b:mean=127.5:std=255/2", Normalization("a/b", mean=(127.5,), std=(127.5,))),
        ("x:scale=2e-3:axis=-3", Normalization("x", (0.002,), axis=-3)),
    ],
)
def test_a_normalization_is_read_from_one_argument(text: str, wanted: Normalization) -> None:
    assert fold.parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "is no normalization"),
        (":scale=1", "is no normalization"),
        ("x:factor=2", "is no normalization"),
        ("x:scale=1:scale=2", "two fields 'scale'"),
        ("x:scale=one", "'one' in .* is no number"),
        ("x:scale=", "'' in .* is no number"),
        ("x:scale=1/0", "'1/0' in .* is no number"),
        ("x:scale=1/2/3", "is no number"),
        ("x:mean=1,2,3", "say which axis"),
        ("x:mean=1,2:axis=last", "no whole number"),
    ],
)
def test_what_is_no_normalization_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CannotFold, match=reason):
        fold.parse(text)


def test_the_best_classes_come_in_order_with_their_indices(
    classifier: onnx.ModelProto, tmp_path: Path
) -> None:
    x = PIXELS.astype(np.float32) / 255
    scores = session(classifier, tmp_path / "all.onnx").run({"x": x})["scores"]
    best = session(fold.top_k(classifier, "scores", 3), tmp_path / "best.onnx")
    assert [(spec.name, spec.datatype, spec.shape) for spec in best.outputs] == [
        ("scores_values", "FP32", (-1, 3)),
        ("scores_indices", "INT64", (-1, 3)),
    ]
    assert best.batched
    answer = best.run({"x": x})
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(answer["scores_indices"], order)
    np.testing.assert_array_equal(
        answer["scores_values"], np.take_along_axis(scores, order, axis=1)
    )


def test_equal_scores_come_lower_class_first_and_other_outputs_stay(tmp_path: Path) -> None:
    model = echo("n", 4)
    model.graph.node.append(helper.make_node("Abs", ["x"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 4]))
    best = session(fold.top_k(model, "y", 2), tmp_path / "m.onnx")
    assert [spec.name for spec in best.outputs] == ["y_values", "y_indices", "other"]
    answer = best.run({"x": np.array([[1, 2, 2, 2]], np.float32)})
    assert answer["y_indices"].tolist() == [[1, 2]]


def with_name(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    model.graph.node.append(helper.make_node("Abs", ["x"], [name]))
    return model


@pytest.mark.parametrize(
    ("model", "name", "k", "reason"),
    [
        (lambda: echo("n", 4), "z", 1, "no output 'z', it has 'y'"),
        (lambda: echo("n", 4), "y", 5, "5 best cannot be taken of 4 classes"),
        (lambda: echo("n", 4), "y", 0, "0 best cannot be taken"),
        (lambda: echo("n", "classes"), "y", 2, "unknown number of classes"),
        (lambda: echo("n", 4, 4), "y", 2, "no FLOAT scores"),
        (lambda: echo("n", 4, kind=TensorProto.INT64), "y", 2, "no FLOAT scores"),
        (lambda: with_name(echo("n", 4), "y_values"), "y", 2, "a tensor of the model already"),
    ],
)
def test_scores_that_have_no_best_classes_are_refused(
    model: Callable[[], Any], name: str, k: int, reason: str
) -> None:
    with pytest.raises(CannotFold, match=reason) as caught:
        fold.top_k(model(), name, k)
    assert isinstance(caught.value, FarthingError)


def test_an_opset_without_an_ordered_top_k_is_refused() -> None:
    model = echo("n", 4)
    model.opset_import[0].version = 10
    with pytest.raises(CannotFold, match="opset is 10"):
        fold.top_k(model, "y", 2)
