"""Each datatype through the real server and back: raw by Triton's client, typed by its stubs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from tests import models
from tests.system.callers import tensor
from tests.system.servers import Served, serving

KINDS = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip
# The field of InferTensorContents for each datatype that has one.
FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "INT8": "int_contents",
    "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for name, kind in KINDS.items():
        models.identities(root / name / "1" / "model.onnx", **{name: kind})
    models.bf16(root / "BF16" / "1" / "model.onnx")
    with serving(root) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


@pytest.fixture
def stub(served: Served) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(served.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def values(datatype: str) -> np.ndarray[Any, Any]:
    """Two rows of four, with the ends of the datatype's range."""
    if datatype == "BYTES":
        texts = [b"", "ä€😀".encode(), b"a\x00b", b"x" * 1000, b"farthing", b"\n", b" ", b"0"]
        return np.array(texts, np.object_).reshape(2, 4)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if dtype.kind == "b":
        return np.array([[True, False, True, True], [False, False, True, False]])
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        return np.array([[ends.min, ends.max, 0, 1], [2, 3, ends.max - 1, ends.min + 1]], dtype)
    ends = ml_dtypes.finfo(dtype)
    odd = [float("nan"), float("inf"), float("-inf"), -0.0]
    return np.array([[float(ends.min), float(ends.max), 0.1, float(ends.tiny)], odd], dtype)


def same(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> bool:
    """To the bit."""
    if one.dtype == np.object_:
        return one.shape == two.shape and bool((one == two).all())
    return (one.shape, one.dtype, one.tobytes()) == (two.shape, two.dtype, two.tobytes())


@pytest.mark.parametrize("datatype", KINDS)
def test_raw_contents_come_back_to_the_bit(
    client: triton.InferenceServerClient, datatype: str
) -> None:
    rows = values(datatype)
    answer = client.infer(datatype, [tensor(f"in_{datatype}", rows)])
    assert answer.get_output(f"out_{datatype}").datatype == datatype
    assert same(answer.as_numpy(f"out_{datatype}"), rows)


def test_bf16_comes_back_to_the_bit_and_means_its_numbers(
    client: triton.InferenceServerClient,
) -> None:
    rows = values("BF16")
    answer = client.infer("BF16", [tensor("x", rows)])
    assert answer.get_output("same").datatype == "BF16"
    assert same(answer.as_numpy("same"), rows)
    np.testing.assert_array_equal(answer.as_numpy("wide"), rows.astype(np.float32))


@pytest.mark.parametrize("datatype", [*KINDS, "BF16"])
def test_metadata_and_config_name_the_datatype(
    client: triton.InferenceServerClient, datatype: str
) -> None:
    (told,) = client.get_model_metadata(datatype).inputs
    assert (told.datatype, list(told.shape)) == (datatype, [-1, 4])
    config = client.get_model_config(datatype, as_json=True)["config"]
    name = "STRING" if datatype == "BYTES" else datatype
    assert config["input"][0]["data_type"] == f"TYPE_{name}"


def typed(datatype: str, field: str, elements: list[Any]) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=datatype)
    name = "x" if datatype == "BF16" else f"in_{datatype}"
    given = request.inputs.add(name=name, datatype=datatype, shape=[len(elements) // 4, 4])
    getattr(given.contents, field).extend(elements)
    return request


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_come_back_to_the_bit(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, datatype: str
) -> None:
    rows = values(datatype)
    answer = stub.ModelInfer(typed(datatype, FIELDS[datatype], rows.ravel().tolist()), timeout=20)
    (told,), (raw,) = answer.outputs, answer.raw_output_contents
    assert (told.name, told.datatype, list(told.shape)) == (f"out_{datatype}", datatype, [2, 4])
    if datatype == "BYTES":
        assert deserialize_bytes_tensor(raw).tolist() == rows.ravel().tolist()
    else:
        assert raw == rows.tobytes()


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_have_no_typed_contents(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, datatype: str
) -> None:
    with pytest.raises(grpc.RpcError, match="raw contents") as error:
        stub.ModelInfer(typed(datatype, "fp32_contents", [0.0] * 4), timeout=20)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("datatype", "field", "elements", "says"),
    [
        ("INT8", "int_contents", [128, 0, 0, 0], "cannot"),
        ("UINT16", "uint_contents", [2**16, 0, 0, 0], "cannot"),
        ("INT32", "int64_contents", [1, 2, 3, 4], "use int_contents"),
        ("FP64", "fp32_contents", [1, 2, 3, 4], "use fp64_contents"),
        ("BOOL", "bool_contents", [], "0 elements"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(
    stub: service_pb2_grpc.GRPCInferenceServiceStub,
    datatype: str,
    field: str,
    elements: list[Any],
    says: str,
) -> None:
    request = typed(datatype, field, elements)
    request.inputs[0].shape[:] = [1, 4]
    with pytest.raises(grpc.RpcError, match=says) as error:
        stub.ModelInfer(request, timeout=20)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
