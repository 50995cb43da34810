"""BF16, which numpy does not know: its bits go through a session unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.datatypes import from_bf16, to_bf16
from service.errors import ModelUnusable
from service.session import Session, SessionOptions
from tests import models

ONE_THREAD = SessionOptions(threads=1)
BITS = np.array([[0x3F80, 0xC000, 0x7F80, 0x0001], [0x4049, 0, 0x8000, 0xFF7F]], "<u2")


def test_bf16_goes_in_and_comes_out_bit_by_bit(tmp_path: Path) -> None:
    session = Session(models.bf16(tmp_path / "m.onnx"), ONE_THREAD)
    assert [spec.datatype for spec in (*session.inputs, *session.outputs)] == [
        "BF16", "BF16", "FP32",
    ]  # fmt: skip
    answer = session.run({"x": BITS})
    assert (answer["same"].dtype, answer["same"].tolist()) == (BITS.dtype, BITS.tolist())
    np.testing.assert_array_equal(answer["wide"], from_bf16(BITS))


def test_bf16_that_is_a_strided_view_is_run_on_its_own_numbers(tmp_path: Path) -> None:
    session = Session(models.bf16(tmp_path / "m.onnx"), ONE_THREAD)
    assert session.run({"x": np.repeat(BITS, 2, axis=1)[:, ::2]})["same"].tolist() == BITS.tolist()


def test_bf16_answer_outlives_the_run(tmp_path: Path) -> None:
    session = Session(models.bf16(tmp_path / "m.onnx"), ONE_THREAD)
    answers = [session.run({"x": np.full((64, 4), n, "<u2")})["same"] for n in range(50)]
    session.close()
    assert [set(answer.flat) for answer in answers] == [{n} for n in range(50)]


def test_bf16_without_rows_or_dimensions_is_run(tmp_path: Path) -> None:
    session = Session(models.bf16(tmp_path / "m.onnx"), ONE_THREAD)
    assert session.run({"x": np.zeros((0, 4), "<u2")})["same"].shape == (0, 4)
    x, y = (helper.make_tensor_value_info(n, TensorProto.BFLOAT16, []) for n in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "s.onnx")
    scalar = Session(tmp_path / "s.onnx", ONE_THREAD).run({"x": np.array(0x3F80, "<u2")})["y"]
    assert (scalar.shape, int(scalar)) == ((), 0x3F80)


def test_bf16_inputs_stand_beside_strings(tmp_path: Path) -> None:
    x, s = (helper.make_tensor_value_info(name, kind, ["batch", 4])
            for name, kind in (("x", TensorProto.BFLOAT16), ("s", TensorProto.STRING)))  # fmt: skip
    y, t = (helper.make_tensor_value_info(name, kind, ["batch", 4])
            for name, kind in (("y", TensorProto.FLOAT), ("t", TensorProto.STRING)))  # fmt: skip
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [cast, helper.make_node("Identity", ["s"], ["t"])], "g", [x, s], [y, t]
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", ONE_THREAD)
    session.warm_up(1)
    answer = session.run({"x": BITS, "s": np.full((2, 4), "é", np.object_)})
    np.testing.assert_array_equal(answer["y"], from_bf16(BITS))
    assert set(answer["t"].flat) == {"é"}


def test_bf16_answers_to_strings_are_refused_at_load(tmp_path: Path) -> None:
    kinds = {"a": TensorProto.BFLOAT16, "b": TensorProto.STRING}
    with pytest.raises(ModelUnusable, match="cast the outputs to FP32"):
        Session(models.identities(tmp_path / "m.onnx", **kinds), ONE_THREAD)


def test_numbers_become_the_nearest_bf16_and_come_back() -> None:
    inf, nan = np.inf, np.nan
    # 1 + 1/256 lies between two: the even one is 1, of 1 + 3/256 it is 1 + 4/256.
    given = np.array([[0, -0.0, 1, -2.5, inf, -inf, 1 + 1 / 256, 1 + 3 / 256, 3.4e38, nan]])
    back = from_bf16(to_bf16(given.astype(np.float32)))
    wanted = [[0, -0.0, 1, -2.5, inf, -inf, 1, 1 + 4 / 256, inf, nan]]
    np.testing.assert_array_equal(back, np.array(wanted, np.float32))
