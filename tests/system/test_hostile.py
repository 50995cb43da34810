"""What would bring other servers down: each gets its status, and the next good call its answer."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.system.servers import Served, farthing, serving

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx")
    models.every_datatype(root / "kinds" / "1" / "model.onnx")
    with serving(root, "--max-queue-rows", "100000") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc) as connected:
        yield connected


def good() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="double", raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request


def refused(channel: grpc.Channel, request: pb.ModelInferRequest) -> grpc.RpcError:
    """How a request is refused; the next good one must be answered."""
    stub = GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(request, timeout=20)
    assert len(stub.ModelInfer(good(), timeout=20).raw_output_contents[0]) == 16
    return error.value


def test_bytes_that_are_no_message_are_refused_without_an_exceptions_name(
    channel: grpc.Channel,
) -> None:
    call = channel.unary_unary(INFER)
    for garbage in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
        with pytest.raises(grpc.RpcError) as error:
            call(garbage, timeout=20)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "not a message" in error.value.details()
        assert "class" not in error.value.details()


@pytest.mark.parametrize("name", ["n" * 100_000, "\U0001f600" * 4000, "line\nbreak\x00\u202e"])
def test_names_are_not_sent_back_at_full_length_or_unprintable(
    channel: grpc.Channel, name: str
) -> None:
    request = good()
    request.inputs[0].name = name
    error = refused(channel, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(error.details()) < 200
    assert error.details().isprintable()


def test_very_many_dimensions_and_inputs_are_refused(channel: grpc.Channel) -> None:
    request = good()
    request.inputs[0].shape.extend([1] * 1_000_000)
    assert refused(channel, request).code() is grpc.StatusCode.INVALID_ARGUMENT
    request = good()
    for number in range(50_000):
        request.inputs.add(name=f"n{number}")
    assert refused(channel, request).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_empty_tensor_of_a_huge_shape_allocates_nothing(channel: grpc.Channel) -> None:
    request = good()
    request.inputs[0].shape[:] = [0, 2**40]
    assert refused(channel, request).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("parameter", ["shared_memory_region", "classification"])
def test_what_is_not_implemented_is_not_ignored(channel: grpc.Channel, parameter: str) -> None:
    request = good()
    request.inputs[0].parameters[parameter].int64_param = 1
    assert refused(channel, request).code() is grpc.StatusCode.UNIMPLEMENTED
    request = good()
    request.outputs.add(name="y").parameters[parameter].int64_param = 1
    assert refused(channel, request).code() is grpc.StatusCode.UNIMPLEMENTED


def test_large_refused_requests_do_not_stay_in_memory(
    served: Served, channel: grpc.Channel
) -> None:
    def resident_mb() -> float:
        text = urllib.request.urlopen(served.metrics, timeout=20).read().decode()
        lines = text.splitlines()
        return next(float(n.split()[1]) for n in lines if n.startswith("process_resident")) / 2**20

    request = good()
    request.raw_input_contents[0] = bytes(32 * 2**20)
    refused(channel, request)
    before = resident_mb()
    for _ in range(8):
        assert refused(channel, request).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert resident_mb() < before + 100


def test_thousands_of_calls_at_once_are_answered_and_none_is_cancelled(
    channel: grpc.Channel,
) -> None:
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    calls = [infer.future(good(), timeout=60) for _ in range(4000)]
    endings = Counter(call.code().name for call in calls)
    assert endings == {"OK": 4000}


def test_an_open_health_watch_does_not_hold_up_the_end(double_repository: Path) -> None:
    with serving(double_repository) as server, grpc.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        begun = time.monotonic()
        code, _ = server.end()
        assert code == 0
        assert time.monotonic() - begun < 6
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def endless(path: Path) -> None:
    """A graph that multiplies as often as its input says, which takes minutes for a large one."""
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
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["n"], keepdims=0),
            helper.make_node("Loop", ["n", "", "start"], ["end"], body=body),
            helper.make_node("ReduceMax", ["end"], ["y"], keepdims=0),
        ],
        "endless",
        [value("x", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.zeros((128, 128), np.float32), "start")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


def test_a_run_that_does_not_end_is_cut_off_with_its_caller_told(tmp_path: Path) -> None:
    endless(tmp_path / "endless" / "1" / "model.onnx")
    endings: list[grpc.StatusCode] = []
    request = pb.ModelInferRequest(model_name="endless")
    request.inputs.add(name="x", datatype="INT64", shape=[1])
    request.raw_input_contents.append((10**8).to_bytes(8, "little"))
    with serving(tmp_path, "--drain-s", "1") as server:

        def call() -> None:
            with grpc.insecure_channel(server.grpc) as channel:
                try:
                    GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
                except grpc.RpcError as error:
                    endings.append(error.code())

        caller = threading.Thread(target=call)
        caller.start()
        for _ in range(2000):
            text = urllib.request.urlopen(server.metrics, timeout=20).read().decode()
            if 'farthing_running{model="endless",variant="as-is",version="1"} 1.0' in text:
                break
        code, _ = server.end(timeout_s=20)
        caller.join(20)
    assert code == 1
    assert endings == [grpc.StatusCode.UNAVAILABLE]


def test_a_model_whose_outputs_do_not_follow_its_rows_is_not_served(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], "twice",
        [value("x", TensorProto.FLOAT, ["batch", 4])], [value("y", TensorProto.FLOAT, ["rows", 4])],
    )  # fmt: skip
    path = tmp_path / "twice.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    done = farthing("serve", str(path), "--grpc-port", "0", "--metrics-port", "0")
    assert done.returncode == 2
    assert "rows cannot be told apart" in done.stderr


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_a_server_listens_on_other_loopback_names(double_repository: Path, host: str) -> None:
    with serving(double_repository, "--host", host) as server:
        port = server.ready["grpc_port"]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with grpc.insecure_channel(address) as channel:
            answer = GRPCInferenceServiceStub(channel).ModelInfer(good(), timeout=20)
    assert len(answer.raw_output_contents[0]) == 16
