"""A real server, called by a client that nobody here wrote."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests import models
from tests.system.callers import figures, tensor, until
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx", factor=3.0)
    models.double(root / "double" / "2" / "model.onnx")
    models.not_batched(root / "sum" / "1" / "model.onnx")
    models.classifier(root / "slow" / "1" / "model.onnx", channels=512)
    with serving(root, "--max-batch", "4", "--max-queue-rows", "4", "--threads", "1") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


def test_a_client_gets_the_models_answer(client: triton.InferenceServerClient) -> None:
    answer = client.infer("double", [tensor("x", ROWS)], request_id="17")
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("17", "double", "2")


def test_server_and_models_say_that_they_are_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("double")
    assert not client.is_model_ready("nobody")


def test_metadata_tells_shapes_with_the_batch_dimension(
    client: triton.InferenceServerClient,
) -> None:
    metadata = client.get_model_metadata("double")
    for tensors, name in ((metadata.inputs, "x"), (metadata.outputs, "y")):
        told = [(one.name, one.datatype, list(one.shape)) for one in tensors]
        assert told == [(name, "FP32", [-1, 4])]


def test_config_tells_batch_limit_dims_and_variant(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("double").config
    assert (config.max_batch_size, config.platform) == (4, "onnxruntime_onnx")
    assert list(config.input[0].dims) == [4]
    assert config.parameters["variant"].string_value == "as-is"
    unbatched = client.get_model_config("sum").config
    assert (unbatched.max_batch_size, list(unbatched.input[0].dims)) == (0, [-1])


def test_a_model_without_a_batch_dimension_is_run_as_it_is(
    client: triton.InferenceServerClient,
) -> None:
    answer = client.infer("sum", [tensor("x", np.array([1, 2, 3.5], np.float32))])
    assert answer.as_numpy("y") == np.float32(6.5)


@pytest.mark.parametrize(
    ("model", "inputs", "status", "says"),
    [
        ("nobody", [tensor("x", ROWS)], "NOT_FOUND", "no model of that name"),
        ("double", [tensor("z", ROWS)], "INVALID_ARGUMENT", "no input 'z'"),
        ("double", [tensor("x", ROWS[:, :3])], "INVALID_ARGUMENT", "has shape [2, 3]"),
        ("double", [tensor("x", ROWS.astype("f8"))], "INVALID_ARGUMENT", "takes FP32"),
        ("double", [tensor("x", np.ones((9, 4), "f4"))], "INVALID_ARGUMENT", "at most 8"),
    ],
)
def test_bad_input_gets_its_status_and_a_sentence(
    client: triton.InferenceServerClient, model: str, inputs: list, status: str, says: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, inputs)
    assert refused.value.status() == f"StatusCode.{status}"
    assert says in refused.value.message()
    assert "/" not in refused.value.message()
    np.testing.assert_array_equal(
        client.infer("double", [tensor("x", ROWS)]).as_numpy("y"), ROWS * 2
    )


def test_a_version_that_is_not_served_is_not_found(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no such version") as refused:
        client.infer("double", [tensor("x", ROWS)], model_version="1")
    assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_a_late_call_ends_and_its_neighbours_are_answered(
    client: triton.InferenceServerClient,
) -> None:
    row = np.ones((1, 3, 24, 24), np.float32)
    with pytest.raises(InferenceServerException) as late:
        client.infer("slow", [tensor("x", row)], client_timeout=0.001)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    with pytest.raises(InferenceServerException) as late:
        client.infer("slow", [tensor("x", row)], timeout=1)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.infer("slow", [tensor("x", row)]).as_numpy("scores").shape == (1, 5)


def test_many_callers_at_once_each_get_an_answer_or_a_refusal(
    client: triton.InferenceServerClient,
) -> None:
    row = np.ones((1, 3, 24, 24), np.float32)
    alone = client.infer("slow", [tensor("x", row)]).as_numpy("scores")

    def call(number: int) -> str:
        try:
            answer = client.infer("slow", [tensor("x", row * (1 + number % 2))])
        except InferenceServerException as refused:
            return refused.status()
        if number % 2 == 0:
            np.testing.assert_allclose(answer.as_numpy("scores"), alone, rtol=1e-4, atol=1e-5)
        return "OK"

    with ThreadPoolExecutor(32) as pool:
        endings = list(pool.map(call, range(64)))
    assert set(endings) == {"OK", "StatusCode.RESOURCE_EXHAUSTED"}


def test_metrics_count_what_was_answered(
    served: Served, client: triton.InferenceServerClient
) -> None:
    def ok_calls() -> float:
        of = {"model": "double", "version": "2", "variant": "as-is"}
        return figures(served, **of, status="OK").get("farthing_requests_total", 0.0)

    before = ok_calls()
    for _ in range(3):
        client.infer("double", [tensor("x", ROWS)])
    assert ok_calls() == before + 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_accepted_work_and_exits_with_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    models.classifier(tmp_path / "slow" / "1" / "model.onnx", channels=768)
    row = np.ones((8, 3, 24, 24), np.float32)
    with serving(tmp_path, "--threads", "1") as server:
        sent, endings = threading.Barrier(4), []

        def call() -> None:
            with triton.InferenceServerClient(server.grpc) as client:
                client.is_server_ready()
                sent.wait(20)
                try:
                    client.infer("slow", [tensor("x", row)])
                    endings.append("OK")
                except InferenceServerException as refused:
                    endings.append(refused.status())

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        sent.wait(20)
        until(lambda: figures(server, model="slow")["farthing_running"] == 1)
        server.process.send_signal(number)
        for thread in threads:
            thread.join(30)
        _, log = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, log
    assert len(endings) == 3
    assert "OK" in endings
    assert set(endings) <= {"OK", "StatusCode.UNAVAILABLE"}


def test_a_pin_of_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    models.double(tmp_path / "double" / "1" / "model.onnx")
    with serving(tmp_path, "--variant", "doubel=fp32,double=as-is") as served:
        code, log = served.end()
    assert code == 0, log
    (told,) = [line for line in log.splitlines() if "pins models that are not served" in line]
    assert '"models": ["doubel"]' in told
