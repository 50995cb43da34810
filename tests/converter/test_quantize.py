"""int8 by ONNX Runtime's tools: their defaults that are wrong here, and what they do not say."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from converter import quantize
from converter.quantize import Static, UnknownNode
from converter.samples import Samples
from service import hardware
from service.session import Session, SessionOptions
from tests import models
from tests.converter import nets

X86 = platform.machine() in ("x86_64", "AMD64")
ROWS = Samples({"x": np.random.default_rng(0).random((40, 3, 24, 24), np.float32)}, None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("prepared")
    path = models.classifier(base / "model.onnx", channels=8)
    return quantize.prepare(path, base / "prepared.onnx")


def static(prepared: Path, directory: Path, rows: Samples = ROWS, kind: str = "MinMax") -> Static:
    """A quantizer with a copy of its own: the ranges lie beside it."""
    copy = directory / "prepared.onnx"
    copy.write_bytes(prepared.read_bytes())
    return Static(copy, rows, kind)


def graph(path: Path) -> onnx.GraphProto:
    return onnx.load(path).graph


def operators(graph: onnx.GraphProto) -> set[str]:
    return {node.op_type for node in graph.node}


def zero_points(graph: onnx.GraphProto, operator: str) -> list[np.ndarray]:
    """The zero points of all such nodes."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [constants[node.input[2]] for node in graph.node if node.op_type == operator]


def first_scale(path: Path) -> float:
    """The step of the graph's input."""
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph(path).initializer}
    return float(
        next(
            scales[node.input[1]]
            for node in graph(path).node
            if node.op_type == "QuantizeLinear" and node.input[0] == "x"
        )
    )


def quantized(graph: onnx.GraphProto, operator: str) -> list[bool]:
    """Of all such nodes whether they read dequantized numbers."""
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    return [
        made_by.get(node.input[1]) == "DequantizeLinear"
        for node in graph.node
        if node.op_type == operator
    ]


def test_the_prepared_graph_answers_as_before_and_names_all_its_nodes(prepared: Path) -> None:
    names = [node.name for node in graph(prepared).node]
    assert all(names) and len(set(names)) == len(names)
    before, after = (
        Session(path, SessionOptions()).run(ROWS.feeds)["scores"]
        for path in (prepared.parent / "model.onnx", prepared)
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_the_prepared_graph_knows_its_shapes(prepared: Path) -> None:
    known = {info.name for info in graph(prepared).value_info}
    assert {"r1", "r2"} <= known


def test_a_graph_whose_shapes_cannot_be_followed_is_prepared_and_nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    path = nets.build(
        tmp_path / "model.onnx",
        [nets.node("NonZero", "x", "places"), nets.node("Cast", "places", "y", to=nets.FLOAT)],
        {"x": ["batch", 4]}, {"y": [2, "found"]}, {},
    )  # fmt: skip
    quantize.prepare(path, tmp_path / "prepared.onnx")
    assert operators(graph(tmp_path / "prepared.onnx")) == {"NonZero", "Cast"}
    assert list(here.iterdir()) == []


def test_names_that_are_there_stay_and_no_two_are_the_same() -> None:
    nodes = [nets.node("Relu", "x", "a", name="Relu_1"), nets.node("Relu", "a", "b"),
             nets.node("Tanh", "b", "c", name="end")]  # fmt: skip
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [], []))
    quantize.name_nodes(model)
    assert [node.name for node in model.graph.node] == ["Relu_1", "Relu_1_", "end"]


def test_static_int8_is_qdq_and_no_operator_of_its_own(prepared: Path, tmp_path: Path) -> None:
    static(prepared, tmp_path).write(tmp_path / "out.onnx")
    found = operators(graph(tmp_path / "out.onnx"))
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= found
    assert not {"QLinearConv", "ConvInteger", "MatMulInteger"} & found


def test_static_int8_activations_have_the_type_that_is_fast_here(
    prepared: Path, tmp_path: Path
) -> None:
    static(prepared, tmp_path).write(tmp_path / "out.onnx")
    activations = zero_points(graph(tmp_path / "out.onnx"), "QuantizeLinear")
    wanted = np.uint8 if X86 else np.int8  # S8S8, the default, is half as fast on x86
    assert {zero.dtype for zero in activations} == {np.dtype(wanted)}
    assert all(zero.size == 1 for zero in activations)


def test_static_int8_weights_are_signed_and_scaled_per_channel(
    prepared: Path, tmp_path: Path
) -> None:
    static(prepared, tmp_path).write(tmp_path / "out.onnx")
    written = graph(tmp_path / "out.onnx")
    kernels = [tensor for tensor in written.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in kernels} == {TensorProto.INT8}
    per_channel = [
        zero
        for zero in zero_points(written, "DequantizeLinear")
        if zero.dtype == np.int8 and zero.size > 1
    ]
    assert sorted(zero.size for zero in per_channel) == [5, 8, 8]
    assert not any(zero.any() for zero in per_channel)


@pytest.mark.skipif(not X86, reason="the other machines multiply without saturation")
@pytest.mark.parametrize("vnni", [True, False])
def test_without_vnni_the_weights_keep_a_bit_free(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vnni: bool
) -> None:
    monkeypatch.setattr(hardware, "has_vnni", lambda: vnni)
    static(prepared, tmp_path).write(tmp_path / "out.onnx")
    kernels = [t for t in graph(tmp_path / "out.onnx").initializer if len(t.dims) == 4]
    largest = max(np.abs(numpy_helper.to_array(kernel).astype(int)).max() for kernel in kernels)
    assert largest == 127 if vnni else largest <= 64


def test_a_net_of_matrix_products_has_only_those_quantized(tmp_path: Path) -> None:
    path = nets.build(
        tmp_path / "model.onnx",
        [nets.node("MatMul", "x w1", "h"), nets.node("Tanh", "h", "t"),
         nets.node("MatMul", "t w2", "s"), nets.node("Softmax", "s", "y")],
        {"x": ["batch", 32]}, {"y": ["batch", 4]},
        {"w1": nets.normal(32, 8), "w2": nets.normal(8, 4)},
    )  # fmt: skip
    rows = Samples({"x": np.random.default_rng(0).random((40, 32), np.float32)}, None)
    Static(quantize.prepare(path, tmp_path / "prepared.onnx"), rows).write(tmp_path / "out.onnx")
    written = graph(tmp_path / "out.onnx")
    assert quantized(written, "MatMul") == [True, True]
    # Of all operators Softmax's result would be quantized too.
    assert next(node.op_type for node in written.node if "y" in node.output) == "Softmax"


@pytest.mark.parametrize(("rows", "outlier"), [(70, 69), (67, 66), (67, 0), (5, 4), (1, 0)])
def test_every_calibration_row_counts(
    prepared: Path, tmp_path: Path, rows: int, outlier: int
) -> None:
    x = np.random.default_rng(0).random((rows, 3, 24, 24), np.float32)
    x[outlier] *= 50
    static(prepared, tmp_path, Samples({"x": x}, None)).write(tmp_path / "out.onnx")
    assert first_scale(tmp_path / "out.onnx") * 255 >= 0.99 * x[outlier].max()


class Counted(Samples):
    """Rows that count how often they are read."""

    def slice(self, start: int, stop: int) -> dict[str, np.ndarray]:
        self.__dict__["reads"] = self.__dict__.get("reads", 0) + 1
        return super().slice(start, stop)


def test_ranges_are_computed_once(prepared: Path, tmp_path: Path) -> None:
    rows = Counted(ROWS.feeds, None)
    quantizer = static(prepared, tmp_path, rows)
    quantizer.write(tmp_path / "one.onnx")
    reads, digest = rows.__dict__["reads"], quantizer.ranges_sha256()
    quantizer.write(tmp_path / "two.onnx")
    quantizer.write(tmp_path / "three.onnx", without=["Gemm_6"])
    assert reads > 0
    assert rows.__dict__["reads"] == reads
    assert quantizer.ranges_sha256() == digest
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


@pytest.mark.parametrize("rows", [16, 67, 100, 3])
def test_percentile_ranges_forget_an_outlier(prepared: Path, tmp_path: Path, rows: int) -> None:
    x = np.random.default_rng(0).random((rows, 3, 24, 24), np.float32)
    x[0, 0, 0, 0] = 1e4
    quantizer = static(prepared, tmp_path, Samples({"x": x}, None), "Percentile")
    quantizer.write(tmp_path / "out.onnx")
    assert first_scale(tmp_path / "out.onnx") * 255 < 1e4
    assert len(quantizer.ranges_sha256()) == 64


def test_other_ranges_have_another_digest(prepared: Path, tmp_path: Path) -> None:
    digests = set()
    for rows in (10, 20):
        directory = tmp_path / str(rows)
        directory.mkdir()
        quantizer = static(prepared, directory, Samples(ROWS.slice(0, rows), None))
        quantizer.write(directory / "out.onnx")
        digests.add(quantizer.ranges_sha256())
    assert len(digests) == 2


def test_excluded_nodes_stay_in_fp32(prepared: Path, tmp_path: Path) -> None:
    first = next(node.name for node in graph(prepared).node if node.op_type == "Conv")
    quantizer = static(prepared, tmp_path)
    quantizer.write(tmp_path / "without.onnx", without=[first])
    assert quantized(graph(tmp_path / "without.onnx"), "Conv") == [False, True]
    quantizer.write(tmp_path / "only.onnx", only=[first])
    assert quantized(graph(tmp_path / "only.onnx"), "Conv") == [True, False]
    assert quantized(graph(tmp_path / "only.onnx"), "Gemm") == [False]


@pytest.mark.parametrize("how", ["only", "without"])
def test_names_that_match_nothing_are_refused(prepared: Path, tmp_path: Path, how: str) -> None:
    names = {how: [graph(prepared).node[0].name, "Conv_99"]}
    with pytest.raises(UnknownNode, match="no node 'Conv_99'"):
        static(prepared, tmp_path).write(tmp_path / "out.onnx", **names)
    with pytest.raises(UnknownNode, match="no node 'Conv_99'"):
        quantize.write_dynamic(prepared, tmp_path / "out.onnx", **names)
    assert not (tmp_path / "out.onnx").exists()


def test_dynamic_int8_leaves_convolutions_alone(prepared: Path, tmp_path: Path) -> None:
    quantize.write_dynamic(prepared, tmp_path / "out.onnx")
    dynamic = graph(tmp_path / "out.onnx")
    assert "MatMulInteger" in operators(dynamic)
    assert not {"ConvInteger", "QLinearConv"} & operators(dynamic)
    kernels = [tensor for tensor in dynamic.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in kernels} == {TensorProto.FLOAT}


def test_dynamic_int8_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    path = nets.dense(tmp_path / "dense.onnx", hidden=16)
    prepared = quantize.prepare(path, tmp_path / "prepared.onnx")
    first = graph(prepared).node[0].name
    quantize.write_dynamic(prepared, tmp_path / "out.onnx", without=[first])
    assert [node.op_type for node in graph(tmp_path / "out.onnx").node].count("MatMul") == 1


def test_nothing_is_printed_and_nobody_is_warned(
    prepared: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    level = logging.getLogger().level
    quantize.prepare(prepared, tmp_path / "again.onnx")
    for kind in ("MinMax", "Percentile"):
        static(prepared, tmp_path, kind=kind).write(tmp_path / "out.onnx")
    quantize.write_dynamic(prepared, tmp_path / "dynamic.onnx")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().level == level
