"""What keeps a graph slow on a CPU is named and counted, and nothing is said of a clean one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from converter import diagnosis
from converter.diagnosis import Finding, diagnose
from service.errors import ModelUnusable
from tests import models

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
Array = np.ndarray[Any, Any]


class Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        x = np.random.default_rng(0).normal(size=(4, 3, 24, 24)).astype(np.float32)
        self._batches = iter([{"x": x}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def build(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    shape: Sequence[str | int] = ("batch", 4),
    kind: int = FLOAT,
    **constants: Array,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def found(path: Path) -> dict[str, int]:
    findings = diagnose(path)
    for finding in findings:
        assert finding.count > 0
        assert finding.cure and "\n" not in finding.cure
    return {finding.what: finding.count for finding in findings}


def classifier(path: Path) -> Path:
    return models.classifier(path / "classifier.onnx", channels=16)


def static(source: Path, **options: object) -> Path:
    choices = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    }
    target = source.with_suffix(".int8.onnx")
    quantize_static(source, target, Rows(), **choices | options)
    return target


def test_a_clean_fp32_graph_has_no_findings(tmp_path: Path) -> None:
    assert diagnose(classifier(tmp_path)) == []
    assert diagnose(models.double(tmp_path / "double.onnx")) == []


def test_a_fully_fused_int8_graph_has_no_findings(tmp_path: Path) -> None:
    assert diagnose(static(classifier(tmp_path))) == []


def test_nothing_is_left_beside_the_model(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    diagnose(path)
    assert list(tmp_path.iterdir()) == [path]


def test_float_operators_between_int8_ones_are_named(tmp_path: Path) -> None:
    weight = np.ones((3, 3, 1, 1), np.float32)
    path = build(
        tmp_path / "m.onnx",
        [
            helper.make_node("Softsign", ["x"], ["first"]),
            helper.make_node("Conv", ["first", "w"], ["a"]),
            helper.make_node("Softplus", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w"], ["c"]),
            helper.make_node("Softsign", ["c"], ["y"]),
        ],
        shape=("batch", 3, 24, 24),
        w=weight,
    )
    # The first one does not come from int8, the last one does not go back: they are no islands.
    assert found(static(path)) == {
        "Softplus in float between DequantizeLinear and QuantizeLinear": 1
    }


def test_products_of_floats_with_int8_weights_are_named(tmp_path: Path) -> None:
    path = build(
        tmp_path / "m.onnx",
        [
            helper.make_node("DequantizeLinear", ["w", "scale"], ["float"]),
            helper.make_node("Conv", ["x", "float"], ["y"]),
        ],
        shape=("batch", 3, 8, 8),
        w=np.ones((4, 3, 1, 1), np.int8),
        scale=np.array(0.1, np.float32),
    )
    assert found(path) == {"Conv in float on int8 weights": 1}


def test_convolutions_quantized_at_run_time_are_counted(tmp_path: Path) -> None:
    target = tmp_path / "dynamic.onnx"
    quantize_dynamic(classifier(tmp_path), target, weight_type=QuantType.QUInt8)
    assert found(target) == {
        "ConvInteger, quantized at run time": 2,
        "matrix products quantized at run time in a net of convolutions": 1,
    }


def test_dynamic_products_in_a_net_without_convolutions_are_no_finding(tmp_path: Path) -> None:
    path = build(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        w=np.ones((4, 8), np.float32),
    )
    target = tmp_path / "dynamic.onnx"
    quantize_dynamic(path, target)
    assert found(target) == {}


def test_fp16_and_its_casts_are_counted(tmp_path: Path) -> None:
    half = convert_float_to_float16(onnx.load(classifier(tmp_path)), keep_io_types=True)
    onnx.save(half, tmp_path / "fp16.onnx")
    counted = found(tmp_path / "fp16.onnx")
    assert set(counted) == {"operators on fp16", "Casts from or to fp16"}
    assert min(counted.values()) >= 2


def test_float64_is_counted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["y"])]
    assert found(build(tmp_path / "m.onnx", nodes, kind=DOUBLE)) == {"operators on float64": 2}


def test_layout_changes_inside_are_counted_and_those_at_the_ends_are_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["c", "flat"], ["d"]),
        helper.make_node("MatMul", ["d", "dense"], ["y"]),
    ]
    path = build(
        tmp_path / "m.onnx",
        nodes,
        shape=("batch", 8, 8, 3),
        w=np.ones((4, 3, 1, 1), np.float32),
        flat=np.array([-1, 256]),
        dense=np.ones((256, 2), np.float32),
    )
    assert found(path) == {"Transposes between channels first and last": 1}


def test_a_loop_is_named_with_its_cure(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", FLOAT, ["batch", 4]),
        ],
        [value("still", TensorProto.BOOL, []), value("next", FLOAT, ["batch", 4])],
    )
    path = build(
        tmp_path / "m.onnx",
        [helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)],
        w=np.eye(4, dtype=np.float32),
        n=np.array(3),
        yes=np.array(True),
    )
    assert diagnose(path) == [
        Finding(
            "Loop: a graph in the graph",
            1,
            "export recurrent layers without a mask, so that they become LSTM or GRU",
        )
    ]


def test_kernels_without_a_fast_path_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["a"], mode="cubic"),
        helper.make_node("Pow", ["a", "half"], ["b"]),
        helper.make_node("Pow", ["b", "two"], ["c"]),
        helper.make_node("Softmax", ["c"], ["d"], axis=1),
        helper.make_node("Softmax", ["d"], ["e"], axis=3),
        helper.make_node("Softmax", ["e"], ["y"], axis=-1),
    ]
    path = build(
        tmp_path / "m.onnx",
        nodes,
        shape=("batch", 3, 8, 8),
        scales=np.array([1, 1, 2, 2], np.float32),
        half=np.array(0.5, np.float32),
        two=np.array(2, np.float32),
    )
    assert found(path) == {
        "Resize, cubic": 1,
        "Pow to other than 2 or 3": 1,
        "Softmax not over the last axis": 1,
    }


@pytest.mark.parametrize("x86", [True, False])
def test_signed_activations_are_a_finding_on_x86_only(
    x86: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = static(classifier(tmp_path), activation_type=QuantType.QInt8)
    monkeypatch.setattr(diagnosis, "_X86", x86)
    assert ("activations in signed int8" in found(path)) == x86


def test_a_fixed_batch_is_a_finding(tmp_path: Path) -> None:
    assert found(models.double(tmp_path / "m.onnx", batch=8)) == {"inputs with a fixed batch": 1}


def test_a_graph_whose_weights_stayed_float32_says_how_many(tmp_path: Path) -> None:
    target = tmp_path / "partly.onnx"
    quantize_dynamic(classifier(tmp_path), target, op_types_to_quantize=["MatMul"])
    assert found(target)["weights still in float32: 99% of the bytes"] == 2


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelUnusable, match="cannot load"):
        diagnose(tmp_path / "m.onnx")
