"""A server that goes away: it says so first, serves on, finishes what it took, and exits with 0."""

from __future__ import annotations

import queue
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.system.servers import Served, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG_S = "600"


def row(model: str = "double") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request


def images(rows: int = 8) -> pb.ModelInferRequest:
    """Work that takes a while."""
    data = np.ones((rows, 3, 24, 24), np.float32)
    request = pb.ModelInferRequest(model_name="slow", raw_input_contents=[data.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=data.shape)
    return request


class Feed:
    """The requests of a stream that stays open until it is closed."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.send, self.close = self._queue.put, lambda: self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def watch(channel: grpc.Channel, name: str) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=name), timeout=60
    )


def http(served: Served, path: str) -> int:
    try:
        with urllib.request.urlopen(served.metrics.replace("/metrics", path), timeout=20) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code


def scraped(served: Served, name: str) -> float:
    with urllib.request.urlopen(served.metrics, timeout=20) as got:
        lines = got.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def ending(call: Callable[[], Any]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_grace_tells_everyone_and_serves_on_until_it_is_skipped(
    double_repository: Path,
) -> None:
    with (
        serving(double_repository, "--grace-s", LONG_S) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        news = [watch(channel, name) for name in ("", "double", "double")]
        assert [next(one).status for one in news] == [SERVING] * 3
        assert http(server, "/v2/health/ready") == 200
        assert scraped(server, "farthing_ready") == 1
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready

        server.process.send_signal(signal.SIGTERM)
        assert [next(one).status for one in news] == [NOT_SERVING] * 3
        assert http(server, "/v2/health/ready") == 503
        assert scraped(server, "farthing_ready") == 0
        assert http(server, "/v2/health/live") == 200
        assert not stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
        assert len(stub.ModelInfer(row(), timeout=20).raw_output_contents[0]) == 16

        server.process.send_signal(signal.SIGTERM)
        _, log = server.process.communicate(timeout=30)
        assert server.process.returncode == 0, log
        for one in news:
            with pytest.raises(grpc.RpcError) as ended:
                next(one)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_ctrl_c_skips_the_grace(double_repository: Path) -> None:
    with serving(double_repository, "--grace-s", LONG_S) as server:
        server.process.send_signal(signal.SIGINT)
        _, log = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, log


def test_a_grace_ends_by_itself(double_repository: Path) -> None:
    with serving(double_repository, "--grace-s", "0.2") as server:
        code, log = server.end()
    assert code == 0, log


def test_streams_are_answered_what_they_sent_and_end_with_unavailable(tmp_path: Path) -> None:
    models.classifier(tmp_path / "slow" / "1" / "model.onnx", channels=512)
    with (
        serving(tmp_path, "--threads", "1") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        feed = Feed()
        answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(feed), timeout=60)
        for _ in range(3):
            feed.send(images())
        assert not next(answers).error_message  # so they have arrived, or will be refused in-band
        server.process.send_signal(signal.SIGTERM)
        told = []
        with pytest.raises(grpc.RpcError) as ended:
            told.extend(iter(answers.next, None))
        feed.close()
        _, log = server.process.communicate(timeout=30)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE, log
    assert server.process.returncode == 0, log


def test_callers_of_all_kinds_are_never_told_cancelled(tmp_path: Path) -> None:
    models.double(tmp_path / "double" / "1" / "model.onnx")
    models.classifier(tmp_path / "slow" / "1" / "model.onnx", channels=512)
    endings: list[grpc.StatusCode] = []
    started = threading.Barrier(9)

    def calling(request: pb.ModelInferRequest) -> None:
        with grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = GRPCInferenceServiceStub(channel)
            endings.append(ending(lambda: stub.ModelInfer(request, timeout=60)))
            started.wait(60)
            while True:
                endings.append(ending(lambda: stub.ModelInfer(request, timeout=60)))
                if endings[-1] is not grpc.StatusCode.OK:
                    return

    with serving(tmp_path, "--threads", "1") as server:
        threads = [
            threading.Thread(target=calling, args=(request,)) for request in (row(), images(1)) * 4
        ]
        for thread in threads:
            thread.start()
        with grpc.insecure_channel(server.grpc) as channel:
            feed = Feed()
            reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter(feed), timeout=60
            )
            feed.send(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert next(reflected).list_services_response.service
            started.wait(60)
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(30)
            endings.append(ending(lambda: next(reflected)))
            feed.close()
        _, log = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, log
    assert set(endings) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_a_control_port_answers_control_rpcs_that_the_main_port_refuses(
    double_repository: Path,
) -> None:
    with serving(double_repository, "--control", "repository", "--control-port", "0") as server:
        control = f"127.0.0.1:{server.ready['control_port']}"
        load = pb.RepositoryModelLoadRequest(model_name="double")
        with (
            grpc.insecure_channel(server.grpc) as channel,
            grpc.insecure_channel(control) as controls,
        ):
            main, apart = GRPCInferenceServiceStub(channel), GRPCInferenceServiceStub(controls)
            assert ending(lambda: main.RepositoryModelLoad(load, timeout=20)) is (
                grpc.StatusCode.PERMISSION_DENIED
            )
            assert ending(lambda: apart.RepositoryModelLoad(load, timeout=20)) is (
                grpc.StatusCode.OK
            )
            settings = pb.LogSettingsRequest()
            settings.settings["log_info"].bool_param = False
            assert ending(lambda: apart.LogSettings(settings, timeout=20)) is (
                grpc.StatusCode.PERMISSION_DENIED
            )
            assert len(apart.ModelInfer(row(), timeout=20).raw_output_contents) == 1
        code, log = server.end()
    assert code == 0, log
