"""The classification extension: the largest numbers as ``value:index:label``."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.grpc import service_pb2

from tests import models
from tests.system.callers import refused, tensor
from tests.system.servers import Served, serving

LABELLED = """
max_batch_size: 8
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 4 ], label_filename: "animals.txt" } ]
"""
ROWS = np.array([[0.5, 2, -1, 1], [3, 0, 3, 4]], np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "plain" / "1" / "model.onnx")
    models.double(root / "labelled" / "1" / "model.onnx")
    (root / "labelled" / "config.pbtxt").write_text(LABELLED)
    # Of four classes three have a name, and one of these is empty.
    (root / "labelled" / "animals.txt").write_text("cat\nmouse, grey: small\n\nKäfer\n")
    kinds = {"INT8": TensorProto.INT8, "UINT64": TensorProto.UINT64, "BOOL": TensorProto.BOOL,
             "FP16": TensorProto.FLOAT16, "BYTES": TensorProto.STRING}  # fmt: skip
    for name, kind in kinds.items():
        models.identities(root / name / "1" / "model.onnx", **{name: kind})
    models.bf16(root / "BF16" / "1" / "model.onnx")
    models.not_batched(root / "sum" / "1" / "model.onnx")
    with serving(root) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


def classes(name: str, count: int) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, class_count=count)]


def test_classes_have_their_labels(client: triton.InferenceServerClient) -> None:
    answer = client.infer("labelled", [tensor("x", ROWS)], outputs=classes("y", 2))
    told = answer.get_output("y")
    assert (told.datatype, list(told.shape)) == ("BYTES", [2, 2])
    assert [[text.decode() for text in row] for row in answer.as_numpy("y")] == [
        ["4.000000:1:mouse, grey: small", "2.000000:3:Käfer"],
        ["8.000000:3:Käfer", "6.000000:0:cat"],
    ]


def test_a_class_without_a_label_has_none(client: triton.InferenceServerClient) -> None:
    answer = client.infer("labelled", [tensor("x", ROWS)], outputs=classes("y", 4))
    assert answer.as_numpy("y")[0][3] == b"-2.000000:2"
    answer = client.infer("plain", [tensor("x", ROWS)], outputs=classes("y", 1))
    assert answer.as_numpy("y").tolist() == [[b"4.000000:1"], [b"8.000000:3"]]


def test_more_classes_than_there_are_give_all(client: triton.InferenceServerClient) -> None:
    answer = client.infer("labelled", [tensor("x", ROWS)], outputs=classes("y", 1000))
    assert answer.as_numpy("y").shape == (2, 4)


def test_a_model_without_rows_is_classified_as_a_whole(
    client: triton.InferenceServerClient,
) -> None:
    given = tensor("x", np.array([1, 2.5], np.float32))
    answer = client.infer("sum", [given], outputs=classes("y", 3))
    assert answer.as_numpy("y").tolist() == [b"3.500000:0"]


@pytest.mark.parametrize(
    ("model", "name", "row", "text"),
    [
        ("INT8", "INT8", np.array([[-128, 127, 0, 1]], np.int8), b"127:1"),
        ("UINT64", "UINT64", np.array([[0, 2**63, 5, 6]], np.uint64), b"9223372036854775808:1"),
        ("BOOL", "BOOL", np.array([[False, False, True, False]]), b"1:2"),
        ("FP16", "FP16", np.array([[0.5, 0.25, 1.5, 0]], np.float16), b"1.500000:2"),
        ("BF16", "", np.array([[0.5, 0.25, -1, 0]], ml_dtypes.bfloat16), b"0.500000:0"),
    ],
)  # fmt: skip
def test_numbers_of_all_kinds_are_classified(
    client: triton.InferenceServerClient, model: str, name: str, row: np.ndarray, text: bytes
) -> None:
    given, wanted = (f"in_{name}", f"out_{name}") if name else ("x", "same")
    answer = client.infer(model, [tensor(given, row)], outputs=classes(wanted, 1))
    assert answer.as_numpy(wanted).tolist() == [[text]]


def test_texts_cannot_be_classified(client: triton.InferenceServerClient) -> None:
    row = np.array([[b"a", b"b", b"c", b"d"]], np.object_)
    with refused("INVALID_ARGUMENT", "strings"):
        client.infer("BYTES", [tensor("in_BYTES", row)], outputs=classes("out_BYTES", 1))


@pytest.mark.parametrize("field", ["int64_param", "uint64_param"])
def test_no_class_at_all_is_refused(client: triton.InferenceServerClient, field: str) -> None:
    wanted = triton.InferRequestedOutput("y")
    message: service_pb2.ModelInferRequest.InferRequestedOutputTensor = wanted._get_tensor()
    setattr(message.parameters["classification"], field, 0)
    with refused("INVALID_ARGUMENT", "ask for 1 or more"):
        client.infer("plain", [tensor("x", ROWS)], outputs=[wanted])


def test_the_config_names_the_label_file(client: triton.InferenceServerClient) -> None:
    assert client.get_model_config("labelled").config.output[0].label_filename == "animals.txt"
