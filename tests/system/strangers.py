"""What hostile callers have in common: a repository to attack, and how a refusal must look."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.system.servers import Served

SERVICE = "/inference.GRPCInferenceService/"
# What only we should know: paths, other programs' words, names of exceptions, addresses.
INTERNAL = re.compile(
    r"/tmp|/work|/dev|/etc|/usr|\.py\b|Traceback|Exception|Errno|[a-z]Error\b|ONNXRuntimeError|"
    r"protobuf|numpy|\b0x[0-9a-f]{6}"
)


def repository(root: Path) -> Path:
    """A model to be good to, others that are slow, picky or of every datatype, and a broken one."""
    models.double(root / "double" / "1" / "model.onnx")
    models.every_datatype(root / "kinds" / "1" / "model.onnx")
    picky(root / "picky" / "1" / "model.onnx")
    slow(root / "slow" / "1" / "model.onnx")
    wide(root / "wide" / "1" / "model.onnx")
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no graph")
    return root


def picky(path: Path) -> Path:
    """Loads, warms up on zeros, and fails at run on an index of 3 or more."""
    value = helper.make_tensor_value_info
    return save(
        path,
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [value("x", TensorProto.INT64, ["batch"])],
        [value("y", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.arange(3, dtype=np.float32), "table")],
    )


def wide(path: Path) -> Path:
    """Rows of any length, returned unchanged."""
    value = helper.make_tensor_value_info
    return save(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", TensorProto.UINT8, ["batch", "length"])],
        [value("y", TensorProto.UINT8, ["batch", "length"])],
        [],
    )


def slow(path: Path, *, always: int = 0) -> Path:
    """Multiplies matrices as often as its input says: 2000 times take about a tenth of a second.

    Args:
        path: of the file.
        always: how many times more, so also while it is warmed up.
    """
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["m", "m"], ["next"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("m", TensorProto.FLOAT, [128, 128])],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [128, 128])],
    )  # fmt: skip
    return save(
        path,
        [
            helper.make_node("ReduceSum", ["x"], ["said"], keepdims=0),
            helper.make_node("Add", ["said", "always"], ["n"]),
            helper.make_node("Loop", ["n", "", "start"], ["end"], body=body),
            helper.make_node("ReduceMax", ["end"], ["y"], keepdims=0),
        ],
        [value("x", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, [])],
        [
            numpy_helper.from_array(np.zeros((128, 128), np.float32), "start"),
            numpy_helper.from_array(np.array(always, np.int64), "always"),
        ],
    )


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
) -> Path:
    """A graph as a file, unchecked: hostile ones are none that a checker lets pass."""
    graph = helper.make_graph(nodes, "hostile", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def good(value: float = 1.0) -> pb.ModelInferRequest:
    """One row for ``double``."""
    raw = np.full(4, value, "<f4").tobytes()
    request = pb.ModelInferRequest(model_name="double", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request


def numbers(model: str, *values: int) -> pb.ModelInferRequest:
    """A vector of INT64, as ``picky`` and ``slow`` take it."""
    raw = np.array(values, "<i8").tobytes()
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="INT64", shape=[len(values)])
    return request


def block(size: int, identity: str = "") -> pb.ModelInferRequest:
    """One row of so many bytes for ``wide``."""
    request = pb.ModelInferRequest(model_name="wide", id=identity)
    request.inputs.add(name="x", datatype="UINT8", shape=[1, size])
    request.raw_input_contents.append(bytes(size))
    return request


def answers(channel: grpc.Channel) -> None:
    """The next good request is answered, and rightly."""
    answer = GRPCInferenceServiceStub(channel).ModelInfer(good(21.0), timeout=20)
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [42.0] * 4


def metric(served: Served, start: str) -> float:
    """The first line of /metrics that starts so; 0 if there is none."""
    text = urllib.request.urlopen(served.metrics, timeout=20).read().decode()
    lines = (line for line in text.splitlines() if line.startswith(start))
    return float(next(lines, "0").split()[-1])


def wait_until_running(served: Served, model: str) -> None:
    """Until one run of this model is under way."""
    ends = time.monotonic() + 20
    while metric(served, f'farthing_running{{model="{model}"') != 1.0:
        assert time.monotonic() < ends, "it does not run"


def resident_mb(served: Served) -> float:
    """The server's memory."""
    return metric(served, "process_resident_memory_bytes") / 2**20


def is_clean(text: str) -> None:
    """A sentence that can be read by a stranger: what to mend, and nothing of ours."""
    assert 10 < len(text.encode()) <= 1000
    assert text.isprintable()
    assert " " in text
    assert not INTERNAL.search(text), text


def refusal(
    channel: grpc.Channel, call: Callable[..., Any], request: Any, status: str, **options: Any
) -> str:
    """How a call is refused, in a clean sentence and with this status; the next is answered."""
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=20, **options)
    assert error.value.code().name == status, error.value.details()
    is_clean(error.value.details())
    answers(channel)
    return str(error.value.details())


def infer_refusal(
    channel: grpc.Channel, request: pb.ModelInferRequest, status: str = "INVALID_ARGUMENT"
) -> str:
    """How an inference is refused; see ``refusal``."""
    return refusal(channel, GRPCInferenceServiceStub(channel).ModelInfer, request, status)
