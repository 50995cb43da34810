"""What the builders write, looked at in the graph."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from converter import samples
from converter.variants import VARIANTS, VariantFailed
from service.session import Session, SessionOptions
from tests import models
from tests.converter.conftest import Converted, Material

X86 = platform.machine() in ("x86_64", "AMD64")


def graph(converted: Converted, variant: str) -> onnx.GraphProto:
    return onnx.load(converted.directory / f"model.{variant}.onnx").graph


def operators(graph: onnx.GraphProto) -> set[str]:
    return {node.op_type for node in graph.node}


def zero_points(graph: onnx.GraphProto, operator: str) -> list[np.ndarray]:
    """The zero points of all such nodes."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [constants[node.input[2]] for node in graph.node if node.op_type == operator]


def test_static_int8_is_qdq_and_no_operator_of_its_own(converted: Converted) -> None:
    found = operators(graph(converted, "int8-static"))
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= found
    assert not {"QLinearConv", "ConvInteger", "MatMulInteger"} & found


def test_static_int8_activations_have_the_type_that_is_fast_here(converted: Converted) -> None:
    activations = zero_points(graph(converted, "int8-static"), "QuantizeLinear")
    wanted = np.uint8 if X86 else np.int8
    assert {zero.dtype for zero in activations} == {np.dtype(wanted)}
    assert all(zero.size == 1 for zero in activations)


def test_static_int8_weights_are_signed_and_scaled_per_channel(converted: Converted) -> None:
    static = graph(converted, "int8-static")
    kernels = [tensor for tensor in static.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in kernels} == {TensorProto.INT8}
    per_channel = [
        zero
        for zero in zero_points(static, "DequantizeLinear")
        if zero.dtype == np.int8 and zero.size > 1
    ]
    assert sorted(zero.size for zero in per_channel) == [5, 32, 32]
    assert not any(zero.any() for zero in per_channel)


def test_static_int8_without_rows_fails(material: Material, tmp_path: Path) -> None:
    with pytest.raises(VariantFailed, match="needs calibration rows"):
        VARIANTS["int8-static"].make(material.source, tmp_path / "out.onnx", None)
    assert list(tmp_path.iterdir()) == []


def test_dynamic_int8_leaves_convolutions_alone(converted: Converted) -> None:
    dynamic = graph(converted, "int8-dynamic")
    assert "MatMulInteger" in operators(dynamic)
    assert not {"ConvInteger", "QLinearConv"} & operators(dynamic)
    kernels = [tensor for tensor in dynamic.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in kernels} == {TensorProto.FLOAT}


def test_fp16_computes_in_halves_between_float32_ends(converted: Converted) -> None:
    half = graph(converted, "fp16")
    ends = {value.type.tensor_type.elem_type for value in (*half.input, *half.output)}
    assert ends == {TensorProto.FLOAT}
    assert {tensor.data_type for tensor in half.initializer} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_tensors_keep_names_types_and_free_batch(converted: Converted, name: str) -> None:
    path = converted.directory / f"model.{name}.onnx"
    session = Session(path, SessionOptions(threads=1))
    assert session.inputs == converted.contract.inputs
    assert session.outputs == converted.contract.outputs
    assert session.batched


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_one_file_is_written_and_the_reference_left_as_it_was(tmp_path: Path, name: str) -> None:
    reference = models.classifier(tmp_path / "model.onnx", channels=4)
    before = reference.read_bytes()
    x = np.random.default_rng(0).random((40, 3, 24, 24), np.float32)
    rows = samples.Samples({"x": x}, None)
    VARIANTS[name].make(reference, tmp_path / "out.onnx", rows)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "out.onnx"}
    assert reference.read_bytes() == before


def test_every_calibration_row_counts(tmp_path: Path) -> None:
    reference = models.classifier(tmp_path / "model.onnx", channels=4)
    x = np.random.default_rng(0).random((70, 3, 24, 24), np.float32)
    x[69] *= 50
    VARIANTS["int8-static"].make(reference, tmp_path / "out.onnx", samples.Samples({"x": x}, None))
    built = onnx.load(tmp_path / "out.onnx").graph
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in built.initializer}
    scale = next(scales[node.input[1]] for node in built.node if node.input[0] == "x")
    assert scale * 255 >= 0.99 * x[69].max()
