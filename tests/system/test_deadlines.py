"""Deadlines, targets and the cap on calls, seen through a real channel and in the metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.system.callers import figures, until
from tests.system.servers import Served, serving
from tests.system.strangers import answers, good, metric, numbers, slow, wait_until_running

# Some seconds of work, and many, which the tests that use it do not wait for.
LONG, LONGER = 60_000, 400_000
# Long enough for all calls to arrive: those that are late on the wire are counted nowhere.
ARRIVED_S = 2.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.double(tmp_path / "models" / "double" / "1" / "model.onnx")
    slow(tmp_path / "models" / "slow" / "1" / "model.onnx")
    return tmp_path / "models"


@contextmanager
def busy(served: Served, channel: grpc.Channel) -> Iterator[None]:
    """While the only instance of ``slow`` runs."""

    def call() -> None:
        with suppress(grpc.RpcError):
            GRPCInferenceServiceStub(channel).ModelInfer(numbers("slow", LONG), timeout=60)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until_running(served, "slow")
    yield
    thread.join()


def calls(served: Served, model: str, deadline: str) -> float:
    labels = f'deadline="{deadline}",model="{model}"'
    return metric(served, "farthing_calls_total{" + labels)


def test_calls_with_and_without_a_deadline_are_told_apart(repository: Path) -> None:
    with serving(repository) as served, grpc.insecure_channel(served.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        stub.ModelInfer(good())
        stub.ModelInfer(good(), timeout=30)
        request = good()
        request.parameters["timeout"].int64_param = 10_000_000
        stub.ModelInfer(request)
        assert (calls(served, "double", "none"), calls(served, "double", "given")) == (1.0, 2.0)


def test_servers_target_ends_a_call_that_set_no_deadline(repository: Path) -> None:
    with (
        serving(repository, "--latency-target-ms", "300") as served,
        grpc.insecure_channel(served.grpc) as channel,
    ):
        with pytest.raises(grpc.RpcError) as ended:
            GRPCInferenceServiceStub(channel).ModelInfer(numbers("slow", LONG), timeout=60)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls(served, "slow", "given") == 1.0
        answers(channel)


def ended(served: Served, reason: str) -> float:
    return figures(served, model="slow", reason=reason).get("farthing_requests_total", 0.0)


def test_callers_whose_time_is_up_have_not_cancelled_and_those_who_leave_early_have(
    repository: Path,
) -> None:
    with serving(repository) as served, grpc.insecure_channel(served.grpc) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        # Their own clocks end the calls, and the server's: either may be the first.
        callers = [infer.future(numbers("slow", LONGER), timeout=ARRIVED_S) for _ in range(12)]
        for caller in callers:
            assert caller.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: ended(served, "deadline_exceeded") == 12)
        assert ended(served, "cancelled") == 0
        early = infer.future(numbers("slow", LONGER), timeout=120)
        until(lambda: figures(served, model="slow")["farthing_waiting_rows"] > 0)
        early.cancel()
        until(lambda: ended(served, "cancelled") == 1)
        judged = figures(served, model="slow", good="false")
        assert judged["farthing_goodput_requests_total"] == 12


def test_more_calls_than_the_cap_are_refused_with_a_hint_and_other_rpcs_are_not(
    repository: Path,
) -> None:
    with (
        serving(repository, "--max-calls", "1") as served,
        grpc.insecure_channel(served.grpc) as channel,
    ):
        with busy(served, channel):
            with pytest.raises(grpc.RpcError) as refused:
                GRPCInferenceServiceStub(channel).ModelInfer(good(), timeout=20)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "holds the 1 inferences that it takes at a time" in refused.value.details()
            assert "grpc-retry-pushback-ms" in dict(refused.value.trailing_metadata())
            labels = 'model="double",reason="calls",variant="as-is",version="1"'
            assert metric(served, "farthing_refused_total{" + labels) == 1.0
        answers(channel)  # the place is free again


def test_request_of_many_rows_is_answered_whole(repository: Path) -> None:
    rows = np.arange(40 * 4, dtype=np.float32).reshape(40, 4)
    request = good()
    request.inputs[0].shape[:] = rows.shape
    request.raw_input_contents[0] = rows.tobytes()
    with (
        serving(repository, "--max-batch", "16") as served,
        grpc.insecure_channel(served.grpc) as channel,
    ):
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
        assert list(answer.outputs[0].shape) == [40, 4]
        np.testing.assert_array_equal(
            np.frombuffer(answer.raw_output_contents[0], "<f4"), rows.reshape(-1) * 2
        )
        assert metric(served, 'nv_inference_exec_count{model="double"') == 3.0
