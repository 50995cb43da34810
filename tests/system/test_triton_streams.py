"""Streams of Triton's own client: models and ids mixed, errors beside answers, slow readers."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests import models
from tests.system.callers import figures, gathered, tensor, until
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
STRICT = {"triton_grpc_error": "true"}
MANY = 100


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx")
    models.double(root / "triple" / "1" / "model.onnx", factor=3.0)
    models.not_batched(root / "sum" / "1" / "model.onnx")
    models.identities(root / "wide" / "1" / "model.onnx", F=1)
    with serving(root, "--max-batch", "4096", "--max-queue-rows", "1000000") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


Endings = queue.SimpleQueue[tuple[Any, Any]]


@contextmanager
def streaming(client: triton.InferenceServerClient, **options: Any) -> Iterator[Endings]:
    """An open stream; its answers and errors in the order in which they came."""
    endings: Endings = queue.SimpleQueue()
    client.start_stream(lambda result, error: endings.put((result, error)), **options)
    try:
        yield endings
    finally:
        client.stop_stream()


def test_a_stream_mixes_models_and_ids(client: triton.InferenceServerClient) -> None:
    factors = {"double": 2, "triple": 3}
    with streaming(client) as endings:
        for number in range(50):
            name = ("double", "triple")[number % 2]
            rows = tensor("x", ROWS + number)
            client.async_stream_infer(name, [rows], request_id=f"{name} {number}")
        got = [endings.get(timeout=20) for _ in range(50)]
    answers = {answer.get_response().id: answer for answer, error in got if error is None}
    assert len(answers) == 50
    for request_id, answer in answers.items():
        name, number = request_id.split()
        assert answer.get_response().model_name == name
        np.testing.assert_array_equal(answer.as_numpy("y"), (ROWS + int(number)) * factors[name])


def test_answers_of_one_model_come_in_the_requests_order(
    client: triton.InferenceServerClient,
) -> None:
    with streaming(client) as endings:
        for number in range(MANY):
            client.async_stream_infer("double", [tensor("x", ROWS)], request_id=str(number))
        ids = [endings.get(timeout=20)[0].get_response().id for _ in range(MANY)]
    assert ids == [str(number) for number in range(MANY)]


@pytest.mark.parametrize("empty", [False, True])
def test_each_answer_is_its_requests_last(
    client: triton.InferenceServerClient, empty: bool
) -> None:
    with streaming(client) as endings:
        for _ in range(2):
            client.async_stream_infer(
                "sum", [tensor("x", ROWS[0])], enable_empty_final_response=empty
            )
        for _ in range(2):
            answer, error = endings.get(timeout=20)
            assert error is None
            assert answer.get_response().parameters["triton_final_response"].bool_param is True
            assert answer.as_numpy("y") == np.float32(6)
    assert endings.empty()


def bad(number: int) -> dict[str, Any]:
    """Requests that are refused, each for a reason of its own."""
    return [
        {"model_name": "nobody", "inputs": [tensor("x", ROWS)]},
        {"model_name": "double", "inputs": [tensor("z", ROWS)]},
        {"model_name": "double", "inputs": [tensor("x", ROWS[:, :3])]},
        {"model_name": "double", "inputs": [tensor("x", ROWS)], "timeout": 1},
    ][number]


SAYS = ["no model of that name", "no input 'z'", "has shape [2, 3]", "deadline passed"]


def test_an_error_belongs_to_its_request_and_the_stream_goes_on(
    client: triton.InferenceServerClient,
) -> None:
    with streaming(client) as endings:
        for number, says in enumerate(SAYS):
            client.async_stream_infer(**bad(number))
            answer, error = endings.get(timeout=20)
            assert answer is None
            assert says in error.message()
            client.async_stream_infer("double", [tensor("x", ROWS)], request_id="good")
            answer, error = endings.get(timeout=20)
            assert error is None
            assert answer.get_response().id == "good"


def test_an_error_in_the_stream_names_its_request(served: Served) -> None:
    request = service_pb2.ModelInferRequest(model_name="nobody", id="17")
    with grpc.insecure_channel(served.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        (answer,) = stub.ModelStreamInfer(iter([request]), timeout=20)
    assert "no model of that name" in answer.error_message
    assert (answer.infer_response.id, answer.infer_response.model_name) == ("17", "nobody")


def test_an_error_ends_the_stream_where_that_was_asked_for(
    client: triton.InferenceServerClient,
) -> None:
    with streaming(client, headers=STRICT) as endings:
        client.async_stream_infer("double", [tensor("x", ROWS)])
        assert endings.get(timeout=20)[1] is None
        client.async_stream_infer(**bad(0))
        answer, error = endings.get(timeout=20)
        assert answer is None
        assert error.status() == "StatusCode.NOT_FOUND"
        assert "no model of that name" in error.message()
    with streaming(client) as endings:
        client.async_stream_infer("double", [tensor("x", ROWS)])
        assert endings.get(timeout=20)[1] is None


async def test_the_asyncio_client_sees_errors_in_both_ways(served: Served) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield bad(1)
        yield {"model_name": "double", "inputs": [tensor("x", ROWS)]}

    async def one_and_no_end() -> AsyncIterator[dict[str, Any]]:
        yield bad(1)
        # Not even the end of the requests: grpc.aio may fail on sending into a call that has ended.
        await asyncio.Event().wait()

    async with triton_aio.InferenceServerClient(served.grpc) as client:
        (nothing, error), (answer, none) = await gathered(client.stream_infer(requests()))
        assert (nothing, none) == (None, None)
        assert "no input 'z'" in error.message()
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)
        with pytest.raises(grpc.RpcError, match="no input 'z'") as ended:
            await gathered(client.stream_infer(one_and_no_end(), headers=STRICT))
        assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_without_requests_ends_well(served: Served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert list(stub.ModelStreamInfer(iter([]), timeout=20)) == []


def test_a_slow_reader_holds_up_nobody_else_and_is_not_read_for_ever(
    served: Served, client: triton.InferenceServerClient
) -> None:
    rows = np.zeros((4096, 4), np.float32)  # 64 KiB
    request = service_pb2.ModelInferRequest(model_name="wide", raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="in_F", datatype="FP32", shape=rows.shape)
    sent = 0

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        nonlocal sent
        for number in range(2000):
            sent += 1
            request.id = str(number)
            yield request

    def answered() -> float:
        return figures(served, model="wide", status="OK").get("farthing_requests_total", 0)

    before = answered()
    with grpc.insecure_channel(served.grpc) as channel:
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            requests(), timeout=60
        )
        counts: list[tuple[int, float]] = []

        def stands_still() -> bool:
            counts.append((sent, answered()))
            return len(counts) > 50 and counts[-1][0] > 1 and counts[-1] == counts[-50]

        until(stands_still)
        assert sent < 2000
        # Nobody reads that stream, and others are answered.
        done = client.infer("double", [tensor("x", ROWS)])
        np.testing.assert_array_equal(done.as_numpy("y"), ROWS * 2)
        ids = [answer.infer_response.id for answer in stream]
    assert ids == [str(number) for number in range(2000)]
    assert answered() - before == 2000


def test_a_reader_that_leaves_takes_its_waiting_requests_along(
    served: Served, client: triton.InferenceServerClient
) -> None:
    endings: Endings = queue.SimpleQueue()
    client.start_stream(lambda result, error: endings.put((result, error)))
    for _ in range(MANY):
        client.async_stream_infer("double", [tensor("x", ROWS)])
    client.stop_stream(cancel_requests=True)
    until(lambda: figures(served, model="double")["farthing_waiting_rows"] == 0)
    with streaming(client) as fresh:
        client.async_stream_infer("double", [tensor("x", ROWS)])
        assert fresh.get(timeout=20)[1] is None
