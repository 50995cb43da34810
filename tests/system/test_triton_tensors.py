"""Tensors of all shapes, several of them, some left out; and what a request says beside them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper

from tests import models
from tests.system.callers import refused, tensor
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
OPTIONAL = """
max_batch_size: 0
input [
  { name: "x", data_type: TYPE_FP32, dims: [ -1, 4 ] },
  { name: "factor", data_type: TYPE_FP32, dims: [ 1, 4 ], optional: true }
]
output [ { name: "y", data_type: TYPE_FP32, dims: [ -1, 4 ] } ]
"""


def graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[str | int]]],
    outputs: dict[str, tuple[int, list[str | int]]],
) -> None:
    def infos(tensors: dict[str, tuple[int, list[str | int]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, *facts) for name, facts in tensors.items()]

    made = helper.make_graph(nodes, path.parent.parent.name, infos(inputs), infos(outputs))
    opset = [helper.make_opsetid("", 17)]
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=8), path)


BATCHED = """
max_batch_size: 8
input [
  { name: "x", data_type: TYPE_FP32, dims: [ 4 ] },
  { name: "factor", data_type: TYPE_FP32, dims: [ 4 ], optional: true }
]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 4 ] } ]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx")
    models.not_batched(root / "sum" / "1" / "model.onnx")
    for name, config in (("optional", OPTIONAL), ("optional-rows", BATCHED)):
        models.optional_factor(root / name / "1" / "model.onnx")
        (root / name / "config.pbtxt").write_text(config)
    graph(
        root / "scalar" / "1" / "model.onnx",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        {"x": (TensorProto.FLOAT, [])},
        {"y": (TensorProto.FLOAT, [])},
    )
    graph(
        root / "pair" / "1" / "model.onnx",
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
            helper.make_node("Cast", ["a"], ["whole"], to=TensorProto.INT64),
        ],
        {name: (TensorProto.FLOAT, ["batch", "n", "m"]) for name in ("a", "b")},
        {
            "sum": (TensorProto.FLOAT, ["batch", "n", "m"]),
            "difference": (TensorProto.FLOAT, ["batch", "n", "m"]),
            "whole": (TensorProto.INT64, ["batch", "n", "m"]),
        },
    )
    texts: tuple[int, list[str | int]] = (TensorProto.STRING, ["batch", "n"])
    graph(
        root / "texts" / "1" / "model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": texts},
        {"y": texts},
    )
    with serving(root) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


def pair(*shape: int) -> list[Any]:
    a = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return [tensor("a", a), tensor("b", a * 10)]


def test_a_scalar_has_no_shape(client: triton.InferenceServerClient) -> None:
    answer = client.infer("scalar", [tensor("x", np.array(1.5, np.float32))])
    assert list(answer.get_output("y").shape) == []
    assert answer.as_numpy("y") == np.float32(3)
    assert list(client.get_model_metadata("scalar").inputs[0].shape) == []


def test_a_vector_of_nothing_has_a_sum(client: triton.InferenceServerClient) -> None:
    answer = client.infer("sum", [tensor("x", np.array([], np.float32))])
    assert answer.as_numpy("y") == np.float32(0)


@pytest.mark.parametrize("shape", [(1, 0, 3), (2, 3, 0), (3, 0, 0)])
def test_rows_without_elements_come_back_empty(
    client: triton.InferenceServerClient, shape: tuple[int, ...]
) -> None:
    answer = client.infer("pair", pair(*shape))
    for name, dtype in (("sum", np.float32), ("whole", np.int64)):
        assert list(answer.get_output(name).shape) == list(shape)
        assert answer.as_numpy(name).dtype == dtype
        assert answer.as_numpy(name).shape == shape


def test_rows_without_texts_come_back_empty(client: triton.InferenceServerClient) -> None:
    answer = client.infer("texts", [tensor("x", np.empty((2, 0), np.object_))])
    assert answer.as_numpy("y").shape == (2, 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (16, 7, 1), (4, 1, 9)])
def test_free_dimensions_may_differ_from_call_to_call(
    client: triton.InferenceServerClient, shape: tuple[int, ...]
) -> None:
    a = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    answer = client.infer("pair", pair(*shape))
    np.testing.assert_array_equal(answer.as_numpy("sum"), a * 11)
    np.testing.assert_array_equal(answer.as_numpy("difference"), a * -9)
    np.testing.assert_array_equal(answer.as_numpy("whole"), a.astype(np.int64))


def test_inputs_may_come_in_any_order(client: triton.InferenceServerClient) -> None:
    answer = client.infer("pair", pair(2, 3, 5)[::-1])
    assert answer.as_numpy("difference").ravel()[1] == np.float32(-9)


@pytest.mark.parametrize("names", [["whole"], ["difference", "sum"], ["sum", "whole"]])
def test_only_requested_outputs_come_back_in_the_requests_order(
    client: triton.InferenceServerClient, names: list[str]
) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in names]
    answer = client.infer("pair", pair(1, 2, 2), outputs=wanted)
    assert [output.name for output in answer.get_response().outputs] == names
    expected = {"sum": 33, "difference": -27, "whole": 3}
    for name in names:
        assert answer.as_numpy(name).ravel()[3] == expected[name]


def test_without_a_wish_all_outputs_come_back_in_the_models_order(
    client: triton.InferenceServerClient,
) -> None:
    answer = client.infer("pair", pair(1, 2, 2))
    names = [output.name for output in answer.get_response().outputs]
    assert names == ["sum", "difference", "whole"]


def test_an_optional_input_may_be_left_out(client: triton.InferenceServerClient) -> None:
    answer = client.infer("optional", [tensor("x", ROWS)])
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)
    factor = tensor("factor", np.full((1, 4), 5, np.float32))
    answer = client.infer("optional", [tensor("x", ROWS), factor])
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 5)
    told = client.get_model_config("optional").config.input
    assert [(one.name, one.optional) for one in told] == [("x", False), ("factor", True)]


def test_rows_with_and_without_an_optional_input_do_not_mix(
    client: triton.InferenceServerClient,
) -> None:
    def call(number: int) -> tuple[int, np.ndarray[Any, Any]]:
        given = [tensor("x", ROWS)]
        if number % 2:
            given.append(tensor("factor", np.full((2, 4), number, np.float32)))
        return number, client.infer("optional-rows", given).as_numpy("y")

    with ThreadPoolExecutor(8) as pool:
        for number, got in pool.map(call, range(64)):
            np.testing.assert_array_equal(got, ROWS * (number if number % 2 else 2))


def test_what_is_not_optional_may_not_be_left_out(client: triton.InferenceServerClient) -> None:
    with refused("INVALID_ARGUMENT", "'b' is missing"):
        client.infer("pair", pair(1, 1, 1)[:1])
    with refused("INVALID_ARGUMENT", "'x' is missing"):
        client.infer("optional", [tensor("factor", np.ones((1, 4), np.float32))])


@pytest.mark.parametrize("request_id", ["", "17", "ä€😀", "a" * 256])
def test_a_request_keeps_its_id(client: triton.InferenceServerClient, request_id: str) -> None:
    answer = client.infer("double", [tensor("x", ROWS)], request_id=request_id)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == (request_id, "double", "1")


@pytest.mark.parametrize(
    "given",
    [
        {"priority": 1},
        {"priority": 2**63},
        {"timeout": 20_000_000},
        {"timeout": 0},
        {"sequence_id": 7, "sequence_start": True, "sequence_end": True},
        {"sequence_id": "seven", "sequence_start": True},
        {"parameters": {"colour": "blue", "number": 1, "share": 0.5, "yes": True}},
    ],
)
def test_parameters_of_a_request_are_taken(
    client: triton.InferenceServerClient, given: dict[str, Any]
) -> None:
    answer = client.infer("double", [tensor("x", ROWS)], **given)
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)


def test_a_timeout_that_is_too_short_ends_the_call(client: triton.InferenceServerClient) -> None:
    # A microsecond. gRPC's own deadlines have at least a millisecond, in which this is answered.
    with refused("DEADLINE_EXCEEDED"):
        client.infer("double", [tensor("x", ROWS)], timeout=1)


def test_a_negative_timeout_is_refused(client: triton.InferenceServerClient) -> None:
    with refused("INVALID_ARGUMENT", "'timeout' is -1"):
        client.infer("double", [tensor("x", ROWS)], timeout=-1)
