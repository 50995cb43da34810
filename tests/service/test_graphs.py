"""What is read off an ONNX file without the package onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import graphs
from service.graphs import Facts
from tests import models


def convolution(path: Path, dtype: type, shape: list[str | int]) -> Path:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = numpy_helper.from_array(np.ones((2, 3, 1, 1), dtype), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        # As old exporters do, weights among the inputs.
        [
            helper.make_tensor_value_info("x", kind, shape),
            helper.make_tensor_value_info("w", kind, [2, 3, 1, 1]),
        ],
        [helper.make_tensor_value_info("y", kind, None)],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_operators_halves_and_inputs_without_weights_are_seen(tmp_path: Path, dtype: type) -> None:
    found = graphs.facts(convolution(tmp_path / "c.onnx", dtype, ["n", 3, 8, 8]))
    assert found == Facts(frozenset({"Conv"}), dtype is np.float16, (("x", (-1, 3, 8, 8)),))
    assert found.convolves and found.fixed_rows and not found.fixed and not found.quantized


@pytest.mark.parametrize(
    ("shape", "rows", "all_of_it"),
    [([4, 3, 8, 8], True, True), (["n", 3, "h", 8], False, False), ([4, 3, "h", 8], False, False)],
)
def test_free_dimensions_are_told_from_fixed_ones(
    tmp_path: Path, shape: list[str | int], rows: bool, all_of_it: bool
) -> None:
    found = graphs.facts(convolution(tmp_path / "c.onnx", np.float32, shape))
    assert (found.fixed_rows, found.fixed) == (rows, all_of_it)


def test_input_of_unknown_shape_is_free(tmp_path: Path) -> None:
    path = models.double(tmp_path / "d.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert not graphs.facts(path).fixed_rows


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"no onnx"])
def test_what_is_no_onnx_file_holds_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert graphs.facts(path) == graphs.facts(tmp_path / "absent.onnx") == Facts()


def test_file_that_was_looked_at_can_be_replaced(tmp_path: Path) -> None:
    path = models.double(tmp_path / "d.onnx")
    before = graphs.facts(path)
    path.unlink()
    assert before.inputs == (("x", (-1, 4)),) and TensorProto.FLOAT16 == 10
