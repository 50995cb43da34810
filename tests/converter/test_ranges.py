"""What fp16 would break, found on the fp32 graph, and whether it is kept out of fp16."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converter import ranges
from converter.ranges import RangesUnknown
from converter.samples import Samples
from service.session import Session, SessionOptions
from tests import models

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    shape: Sequence[str | int] = ("batch", 4),
    output: str = "y",
    kind: int = FLOAT,
    **constants: object,
) -> Path:
    """A graph from ``x`` to one output, with these initializers."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def rows(x: np.ndarray) -> Samples:
    return Samples({"x": x.astype(np.float32)}, None)


def loud(path: Path) -> Path:
    """x of 1625 -> 6.5e6 -> 6500 -> Relu, without names."""
    return save(
        path,
        [
            helper.make_node("Gemm", ["x", "big"], ["loud"]),
            helper.make_node("Gemm", ["loud", "small"], ["quiet"]),
            helper.make_node("Relu", ["quiet"], ["kept"]),
            helper.make_node("Mul", ["kept", "half"], ["y"]),
        ],
        big=np.full((4, 4), 1000, np.float32),
        small=np.full((4, 4), 2.5e-4, np.float32),
        half=np.float32(0.5),
    )


LOUD_ROWS = rows(np.full((20, 4), 1625))


def to_fp16(path: Path, blocked: list[str], *, join: bool = True) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(path)
    ranges.name_nodes(model)
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=blocked)
    if join:
        ranges.join_fp32(converted, blocked)
    return converted


def in_true_fp16(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What a device with real fp16 kernels answers: numpy's arithmetic, not ONNX Runtime's."""
    graph = model.graph
    known = {"", *(value.name for value in graph.input), *(t.name for t in graph.initializer)}
    waiting, ordered = list(graph.node), []
    while waiting:
        node = next(node for node in waiting if known.issuperset(node.input))
        waiting.remove(node)
        ordered.append(node)
        known.update(node.output)
    del graph.node[:]
    graph.node.extend(ordered)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(ReferenceEvaluator(model).run(None, {"x": x.astype(np.float32)})[0])


def test_every_float_tensor_has_its_largest_absolute_value(tmp_path: Path) -> None:
    largest = ranges.scan(loud(tmp_path / "loud.onnx"), LOUD_ROWS)
    wanted = {"x": 1625, "big": 1000, "small": 2.5e-4, "half": 0.5}
    wanted |= {"loud": 6.5e6, "quiet": 6500, "kept": 6500, "y": 3250}
    assert largest == pytest.approx(wanted, rel=1e-5)


def test_negative_values_and_every_batch_count(tmp_path: Path) -> None:
    path = models.double(tmp_path / "double.onnx")
    x = np.ones((20, 4))
    x[19, 2] = -70
    assert ranges.scan(path, rows(x), batch=8)["y"] == 140
    assert ranges.scan(path, rows(x), max_rows=19)["y"] == 2


def test_a_fixed_batch_is_fed_whole(tmp_path: Path) -> None:
    path = models.double(tmp_path / "double.onnx", batch=3)
    x = np.arange(16).reshape(4, 4)
    assert ranges.scan(path, rows(x))["y"] == 30


def test_nan_infinity_and_empty_tensors_leave_a_finite_range(tmp_path: Path) -> None:
    path = save(
        tmp_path / "odd.onnx",
        [
            helper.make_node("Log", ["x"], ["logarithm"]),
            helper.make_node("Slice", ["x", "start", "start", "start"], ["empty"]),
            helper.make_node("Add", ["logarithm", "mask"], ["y"]),
        ],
        start=np.array([1]),
        mask=np.array([0, 0, -np.inf, 0], np.float32),
    )
    largest = ranges.scan(path, rows(np.array([[-1, 0, 1, np.e]])))
    assert largest == pytest.approx({"x": np.e, "logarithm": 1, "y": 1, "empty": 0, "mask": 0})


def test_no_rows_have_no_ranges(tmp_path: Path) -> None:
    with pytest.raises(RangesUnknown, match="at least one row"):
        ranges.scan(models.double(tmp_path / "m.onnx"), rows(np.zeros((0, 4))))


def test_rows_that_the_graph_fails_on_are_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(RangesUnknown, match="fails on these rows"):
        ranges.scan(models.double(tmp_path / "m.onnx"), rows(np.zeros((2, 5))))


def test_nodes_that_touch_what_overflows_are_unsafe_and_no_others(tmp_path: Path) -> None:
    path = loud(tmp_path / "loud.onnx")
    largest = ranges.scan(path, LOUD_ROWS)
    assert ranges.unsafe_nodes(path, largest) == ["Gemm.0", "Gemm.1"]
    assert ranges.unsafe_nodes(path, largest, margin=0.05) == [
        "Gemm.0", "Gemm.1", "Relu.2", "Mul.3",
    ]  # fmt: skip
    assert ranges.unsafe_nodes(path, largest, margin=1000) == []


def test_ranges_of_another_graph_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RangesUnknown, match="scan this very graph"):
        ranges.unsafe_nodes(loud(tmp_path / "loud.onnx"), {"x": 1.0})


def test_unsafe_nodes_stay_in_fp32_and_the_answer_survives_true_fp16(tmp_path: Path) -> None:
    path = loud(tmp_path / "loud.onnx")
    unsafe = ranges.unsafe_nodes(path, ranges.scan(path, LOUD_ROWS))
    converted = to_fp16(path, unsafe)
    kinds = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert kinds == {"big": FLOAT, "small": FLOAT, "half": TensorProto.FLOAT16}
    operators = sorted(node.op_type for node in converted.graph.node)
    assert operators == ["Cast", "Cast", "Gemm", "Gemm", "Mul", "Relu"]  # to fp16 once, and back
    onnx.save(converted, tmp_path / "fp16.onnx")
    x = LOUD_ROWS.feeds["x"][:2]
    served = Session(tmp_path / "fp16.onnx", SessionOptions()).run({"x": x})["y"]
    assert served == pytest.approx(np.full((2, 4), 3250), rel=2e-3)
    assert in_true_fp16(converted, x) == pytest.approx(np.full((2, 4), 3250), rel=2e-3)


def test_without_joining_fp32_the_blocked_nodes_still_overflow(tmp_path: Path) -> None:
    path = loud(tmp_path / "loud.onnx")
    unsafe = ranges.unsafe_nodes(path, ranges.scan(path, LOUD_ROWS))
    detour = to_fp16(path, unsafe, join=False)
    assert np.isinf(in_true_fp16(detour, LOUD_ROWS.feeds["x"][:1])).all()


def test_a_large_output_of_the_graph_never_passes_fp16(tmp_path: Path) -> None:
    path = save(
        tmp_path / "end.onnx", [helper.make_node("Mul", ["x", "big"], ["y"])], big=np.float32(1e6)
    )
    converted = to_fp16(path, ranges.unsafe_nodes(path, ranges.scan(path, rows(np.ones((1, 4))))))
    assert in_true_fp16(converted, np.ones((1, 4))).tolist() == [[1e6] * 4]
    onnx.save(converted, tmp_path / "fp16.onnx")
    served = Session(tmp_path / "fp16.onnx", SessionOptions())
    assert served.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[1e6] * 4]


def embedding(path: Path, *, vocabulary: int) -> Path:
    """Token ids as floats, as a Keras Sequential takes them -> the id that was looked up."""
    return save(
        path,
        [
            helper.make_node("Identity", ["x"], ["tokens"]),
            helper.make_node("Cast", ["tokens"], ["ids"], to=INT64),
            helper.make_node("Gather", ["table", "ids"], ["found"]),
            helper.make_node("Cast", ["found"], ["words"], to=FLOAT),
            helper.make_node("Relu", ["words"], ["y"]),
        ],
        table=np.arange(vocabulary) % 1009,
    )


def test_float_token_ids_keep_their_last_digit(tmp_path: Path) -> None:
    path = embedding(tmp_path / "m.onnx", vocabulary=9000)
    x = np.array([[8001, 4003, 7, 2049]])
    unsafe = ranges.unsafe_nodes(path, ranges.scan(path, rows(x)))
    assert unsafe == ["Identity.0", "Cast.1"]
    right = (x % 1009).tolist()
    assert in_true_fp16(to_fp16(path, unsafe), x).tolist() == right
    assert in_true_fp16(to_fp16(path, unsafe, join=False), x).tolist() != right


def test_a_long_table_makes_its_ids_unsafe_even_if_no_row_has_large_ones(tmp_path: Path) -> None:
    few = rows(np.ones((2, 4)))
    for vocabulary, unsafe in ((9000, ["Identity.0", "Cast.1"]), (2000, [])):
        path = embedding(tmp_path / f"{vocabulary}.onnx", vocabulary=vocabulary)
        assert ranges.unsafe_nodes(path, ranges.scan(path, few)) == unsafe


def test_a_body_that_cannot_be_seen_stays_in_fp32_with_what_it_reads(tmp_path: Path) -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["z", "half"], [name])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)]
        )

    hidden = helper.make_node(
        "If", ["yes"], ["found"], then_branch=branch("a", "Mul"), else_branch=branch("b", "Add")
    )
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Mul", ["x", "half"], ["z"]),
            hidden,
            helper.make_node("Mul", ["found", "half"], ["y"]),
        ],
        half=np.float32(0.5),
        yes=np.array(True),
    )
    unsafe = ranges.unsafe_nodes(path, ranges.scan(path, rows(np.ones((1, 4)))))
    assert unsafe == ["If.1"]
    onnx.save(to_fp16(path, unsafe), tmp_path / "fp16.onnx")
    served = Session(tmp_path / "fp16.onnx", SessionOptions())
    assert served.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[0.125] * 4]


def test_names_are_unique_and_the_same_each_time(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="same")]
    nodes += [helper.make_node("Relu", ["a"], ["b"], name="same")]
    nodes += [helper.make_node("Relu", ["b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])]
    nodes += [helper.make_node("Relu", ["d"], ["y"], name="Relu.2")]
    model = onnx.load(save(tmp_path / "m.onnx", nodes))
    for _ in range(2):
        ranges.name_nodes(model)
        names = [node.name for node in model.graph.node]
        assert names == ["same", "Relu.1", "Relu.2_", "Relu.3", "Relu.2"]


def test_the_digest_names_the_values_and_not_their_order() -> None:
    digest = ranges.digest({"a": 1.0, "b": 2.0})
    assert digest == ranges.digest({"b": 2.0, "a": 1.0})
    assert digest != ranges.digest({"a": 1.0, "b": np.nextafter(2.0, 3)})
    assert len(digest) == 64
