"""Each RPC of the service, by Triton's own client: synchronous, asyncio and by callback."""

from __future__ import annotations

import base64
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, shared_memory

from tests import models
from tests.system.callers import gathered, refused, tensor
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
REGION = f"farthing-{uuid4().hex}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx", factor=3.0)
    models.double(root / "double" / "2" / "model.onnx")
    for name in ("loaded", "unloaded"):
        models.double(root / name / "1" / "model.onnx")
    region = shared_memory.create_shared_memory_region("region", REGION, 64)
    with serving(root, "--control", "all,cuda-shared-memory") as server:
        with triton.InferenceServerClient(server.grpc) as client:
            client.register_system_shared_memory("known", REGION, 64)
        yield server
    shared_memory.destroy_shared_memory_region(region)


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


@pytest.fixture
async def aio(served: Served) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(served.grpc) as connected:
        yield connected


Call = Callable[[Any], Any]
Check = Callable[[Any], bool]

# RPC -> a call of either client, and what must be true of its answer.
CALLS: dict[str, tuple[Call, Check]] = {
    "ServerLive": (lambda c: c.is_server_live(), lambda a: a is True),
    "ServerReady": (lambda c: c.is_server_ready(), lambda a: a is True),
    "ModelReady": (lambda c: c.is_model_ready("double", "2"), lambda a: a is True),
    "ServerMetadata": (lambda c: c.get_server_metadata(), lambda a: a.name == "farthing"),
    "ModelMetadata": (
        lambda c: c.get_model_metadata("double"),
        lambda a: (a.platform, a.versions) == ("onnxruntime_onnx", ["2"]),
    ),
    "ModelInfer": (
        lambda c: c.infer("double", [tensor("x", ROWS)]),
        lambda a: np.array_equal(a.as_numpy("y"), ROWS * 2),
    ),
    "ModelConfig": (
        lambda c: c.get_model_config("double"),
        lambda a: (a.config.name, a.config.backend) == ("double", "onnxruntime"),
    ),
    "ModelStatistics": (
        lambda c: c.get_inference_statistics("double"),
        lambda a: [(s.name, s.version) for s in a.model_stats] == [("double", "2")],
    ),
    "RepositoryIndex": (
        lambda c: c.get_model_repository_index(),
        lambda a: ("double", "2", "READY") in [(m.name, m.version, m.state) for m in a.models],
    ),
    "RepositoryModelLoad": (lambda c: c.load_model("loaded"), lambda a: a is None),
    "RepositoryModelUnload": (lambda c: c.unload_model("unloaded"), lambda a: a is None),
    "SystemSharedMemoryStatus": (
        lambda c: c.get_system_shared_memory_status("known"),
        lambda a: a.regions["known"].byte_size == 64,
    ),
    "SystemSharedMemoryRegister": (
        lambda c: c.register_system_shared_memory(uuid4().hex, REGION, 32, offset=32),
        lambda a: a is None,
    ),
    "SystemSharedMemoryUnregister": (
        lambda c: c.unregister_system_shared_memory("unknown"),
        lambda a: a is None,
    ),
    "CudaSharedMemoryStatus": (
        lambda c: c.get_cuda_shared_memory_status(), lambda a: list(a.regions) == []
    ),
    "CudaSharedMemoryUnregister": (
        lambda c: c.unregister_cuda_shared_memory("unknown"), lambda a: a is None
    ),
    "TraceSetting": (
        lambda c: c.get_trace_settings("double"),
        lambda a: list(a.settings["trace_level"].value) == ["OFF"],
    ),
    "LogSettings": (
        lambda c: c.get_log_settings(), lambda a: a.settings["log_error"].bool_param is True
    ),
}  # fmt: skip
# A handle that nobody made, so that it is refused with and without a GPU: what happens to others
# stands in test_triton_cuda_memory.
NO_HANDLE = b"AAAA"


def test_this_file_knows_each_rpc_of_tritons_service() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {m.name for m in service.methods} == {
        *CALLS, "CudaSharedMemoryRegister", "ModelStreamInfer",
    }  # fmt: skip


@pytest.mark.parametrize("rpc", CALLS)
def test_an_rpc_answers_the_synchronous_client(
    client: triton.InferenceServerClient, rpc: str
) -> None:
    call, holds = CALLS[rpc]
    answer = call(client)
    assert holds(answer), answer


@pytest.mark.parametrize("rpc", CALLS)
async def test_an_rpc_answers_the_asyncio_client(
    aio: triton_aio.InferenceServerClient, rpc: str
) -> None:
    call, holds = CALLS[rpc]
    answer = await call(aio)
    assert holds(answer), answer


async def test_a_handle_of_cuda_that_is_none_is_refused(
    client: triton.InferenceServerClient, aio: triton_aio.InferenceServerClient
) -> None:
    with refused("INVALID_ARGUMENT", "has 64 bytes, as cudaIpcGetMemHandle gives them; this has 3"):
        client.register_cuda_shared_memory("r", NO_HANDLE, 0, 64)
    with refused("INVALID_ARGUMENT", "has 64 bytes, as cudaIpcGetMemHandle gives them; this has 3"):
        await aio.register_cuda_shared_memory("r", NO_HANDLE, 0, 64)


async def test_memory_on_a_gpu_that_is_not_there_is_refused(
    client: triton.InferenceServerClient, aio: triton_aio.InferenceServerClient
) -> None:
    handle = base64.b64encode(bytes(64))
    for call in (client.register_cuda_shared_memory, aio.register_cuda_shared_memory):
        # Whether this machine has no GPU at all, or not so many.
        with pytest.raises(InferenceServerException, match="no GPU") as refusal:
            answer = call("r", handle, 1000, 64)
            if answer is not None:
                await answer
        assert refusal.value.status() in ("StatusCode.UNIMPLEMENTED", "StatusCode.INVALID_ARGUMENT")


async def test_a_stream_answers_the_asyncio_client(aio: triton_aio.InferenceServerClient) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {
                "model_name": "double",
                "inputs": [tensor("x", ROWS + number)],
                "request_id": str(number),
            }

    answers = await gathered(aio.stream_infer(requests()))
    assert [error for _, error in answers] == [None] * 3
    assert [answer.get_response().id for answer, _ in answers] == ["0", "1", "2"]
    for number, (answer, _) in enumerate(answers):
        np.testing.assert_array_equal(answer.as_numpy("y"), (ROWS + number) * 2)


def test_a_callback_gets_the_answer(client: triton.InferenceServerClient) -> None:
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.async_infer(
        "double", [tensor("x", ROWS)], lambda result, error: got.put((result, error))
    )
    result, error = got.get(timeout=20)
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered(
    client: triton.InferenceServerClient, algorithm: str
) -> None:
    rows = np.ones((16, 4), np.float32)
    answer = client.infer("double", [tensor("x", rows)], compression_algorithm=algorithm)
    np.testing.assert_array_equal(answer.as_numpy("y"), rows * 2)


def test_answers_can_be_had_as_json(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata(as_json=True)["name"] == "farthing"
    assert client.get_model_config("double", as_json=True)["config"]["max_batch_size"] == 16
    index = client.get_model_repository_index(as_json=True)["models"]
    assert {"name": "double", "version": "2", "state": "READY"} in index


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get_model_metadata("nobody"),
        lambda c: c.get_model_config("nobody"),
        lambda c: c.get_inference_statistics("nobody"),
        lambda c: c.infer("nobody", [tensor("x", ROWS)]),
        lambda c: c.infer("double", [tensor("x", ROWS)], model_version="1"),
        lambda c: c.get_model_metadata("double", "7"),
        lambda c: c.load_model("nobody"),
        lambda c: c.unload_model("nobody"),
        lambda c: c.get_trace_settings("nobody"),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(
    client: triton.InferenceServerClient, aio: triton_aio.InferenceServerClient, call: Call
) -> None:
    with refused("NOT_FOUND"):
        call(client)
    with refused("NOT_FOUND"):
        await call(aio)
