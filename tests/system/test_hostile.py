"""What would bring other servers down as a whole; test_hostile_*.py has it by what is hostile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import farthing, serving
from tests.system.strangers import good, infer_refusal


def test_shared_memory_that_is_switched_off_is_not_ignored(double_repository: Path) -> None:
    with serving(double_repository) as server, grpc.insecure_channel(server.grpc) as channel:
        request = good()
        request.inputs[0].parameters["shared_memory_region"].string_param = "r"
        assert "--control" in infer_refusal(channel, request, "UNIMPLEMENTED")
        request = good()
        request.outputs.add(name="y").parameters["shared_memory_region"].string_param = "r"
        assert "--control" in infer_refusal(channel, request, "UNIMPLEMENTED")


def test_an_open_health_watch_does_not_hold_up_the_end(double_repository: Path) -> None:
    with serving(double_repository) as server, grpc.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        begun = time.monotonic()
        code, _ = server.end()
        assert code == 0
        assert time.monotonic() - begun < 6
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_run_that_does_not_end_is_cut_off_with_its_caller_told(tmp_path: Path) -> None:
    strangers.slow(tmp_path / "slow" / "1" / "model.onnx")
    endings: list[grpc.StatusCode] = []
    request = strangers.numbers("slow", 10**9)
    with serving(tmp_path, "--drain-s", "1") as server:

        def call() -> None:
            with grpc.insecure_channel(server.grpc) as channel:
                try:
                    GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
                except grpc.RpcError as error:
                    endings.append(error.code())

        caller = threading.Thread(target=call)
        caller.start()
        strangers.wait_until_running(server, "slow")
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
