"""CUDA shared memory by Triton's own client, with the host's in the GPU's place, or with none."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import serialize_byte_tensor, shared_memory

from service import repository, server
from service.cuda import CudaFailed, Memory
from service.settings import Settings
from tests import models
from tests.memory import HostMemory
from tests.system.callers import refused, tensor

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
SIZE = 256
HANDLE = bytes(range(64))
RAW = base64.b64encode(HANDLE)  # as tritonclient.utils.cuda_shared_memory.get_raw_handle gives it
Client = triton.InferenceServerClient


@contextmanager
def served(
    root: Path, gpus: Callable[[], Sequence[Memory]], control: str = "cuda-shared-memory"
) -> Iterator[str]:
    """A server in this process, on a thread of its own; its address."""
    settings = Settings(repository=root, host="127.0.0.1", grpc_port=0, metrics_port=0, threads=1,
                        device="cpu", control=control)  # fmt: skip
    loaded = repository.load(settings)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    running: list[server.Server] = []

    async def run() -> None:
        running.append(await server.start(settings, loaded, version="test", gpus=gpus))
        ready.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run())
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield f"127.0.0.1:{running[0].grpc_port}"
    finally:
        leave = running[0].drain(20, grace_s=0, hurry=asyncio.Event())
        assert asyncio.run_coroutine_threadsafe(leave, loop).result(40)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx")
    models.every_datatype(root / "every" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def gpu() -> HostMemory:
    return HostMemory({HANDLE: np.zeros(SIZE, np.uint8)})


@pytest.fixture(scope="module")
def address(root: Path, gpu: HostMemory) -> Iterator[str]:
    with served(root, lambda: [gpu]) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as connected:
        connected.register_cuda_shared_memory("region", RAW, 0, SIZE)
        yield connected
        connected.unregister_cuda_shared_memory()


def put(gpu: HostMemory, data: bytes, offset: int = 0) -> None:
    gpu.shared[HANDLE][offset : offset + len(data)] = np.frombuffer(data, np.uint8)


def get(gpu: HostMemory, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    nbytes = 4 * int(np.prod(shape))
    return gpu.shared[HANDLE][offset : offset + nbytes].view(np.float32).reshape(shape)


def placed(nbytes: int = 32, offset: int = 0) -> triton.InferInput:
    return triton.InferInput("x", [2, 4], "FP32").set_shared_memory("region", nbytes, offset)


def wanted(nbytes: int, offset: int) -> triton.InferRequestedOutput:
    output = triton.InferRequestedOutput("y")
    output.set_shared_memory("region", nbytes, offset)
    return output


def test_input_and_output_may_both_lie_on_the_gpu(client: Client, gpu: HostMemory) -> None:
    put(gpu, ROWS.tobytes(), 64)
    answer = client.infer("double", [placed(offset=64)], outputs=[wanted(64, 128)])
    np.testing.assert_array_equal(get(gpu, 128, (2, 4)), ROWS * 2)
    told = answer.get_output("y").parameters
    assert told["shared_memory_region"].string_param == "region"
    assert told["shared_memory_offset"].int64_param == 128
    assert told["shared_memory_byte_size"].int64_param == 32
    assert list(answer.get_response().raw_output_contents) == [b""]


def test_either_end_may_lie_in_the_message(client: Client, gpu: HostMemory) -> None:
    put(gpu, ROWS.tobytes())
    np.testing.assert_array_equal(client.infer("double", [placed()]).as_numpy("y"), ROWS * 2)
    client.infer("double", [tensor("x", ROWS + 1)], outputs=[wanted(32, 0)])
    np.testing.assert_array_equal(get(gpu, 0, (2, 4)), (ROWS + 1) * 2)


def test_strings_are_read_from_the_gpu_beside_other_inputs(client: Client, gpu: HostMemory) -> None:
    text = serialize_byte_tensor(np.array([["a", "bc", "def"]], object)).item()
    put(gpu, text, 16)
    sent = {
        name: tensor(f"in_{name}", np.ones((1, 3), dtype))
        for name, dtype in {
            "BOOL": bool, "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
            "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2",
            "FP32": "<f4", "FP64": "<f8",
        }.items()
    }  # fmt: skip
    strings = triton.InferInput("in_BYTES", [1, 3], "BYTES")
    strings.set_shared_memory("region", len(text), 16)
    answer = client.infer("every", [*sent.values(), strings])
    assert answer.as_numpy("out_BYTES").tolist() == [[b"a", b"bc", b"def"]]


def test_status_names_the_regions(client: Client) -> None:
    regions = client.get_cuda_shared_memory_status().regions
    assert list(regions) == ["region"]
    told = regions["region"]
    assert (told.name, told.device_id, told.byte_size) == ("region", 0, SIZE)
    with refused("INVALID_ARGUMENT", "no shared memory region 'other' is registered"):
        client.get_cuda_shared_memory_status("other")


def test_unregistered_memory_is_let_go(client: Client, gpu: HostMemory) -> None:
    assert len(gpu.open) == 1
    client.unregister_cuda_shared_memory("region")
    assert gpu.open == []
    with refused("INVALID_ARGUMENT", "no shared memory region 'region' is registered"):
        client.infer("double", [placed()])


@pytest.mark.parametrize(
    ("name", "handle", "device", "size", "sentence"),
    [
        ("region", RAW, 0, SIZE, "'region' is already registered; unregister it first"),
        ("n", base64.b64encode(HANDLE[1:]), 0, SIZE, "has 64 bytes"),
        ("n", base64.b64encode(HANDLE[::-1]), 0, SIZE, "the handle cannot be opened on GPU 0"),
        ("n", RAW, 1, SIZE, "there is no GPU 1; this server sees 1, counted from 0"),
        ("n", RAW, 0, SIZE + 1, f"has {SIZE} bytes; {SIZE + 1} do not lie within it"),
        ("", RAW, 0, SIZE, "needs a name"),
    ],
)
def test_what_cannot_be_registered_is_refused(
    client: Client, name: str, handle: bytes, device: int, size: int, sentence: str
) -> None:
    with refused("INVALID_ARGUMENT", sentence):
        client.register_cuda_shared_memory(name, handle, device, size)


@pytest.mark.parametrize(
    ("nbytes", "offset", "sentence"),
    [
        (32, SIZE - 31, "do not lie within it"),
        (2**40, 0, "do not lie within it"),
        (31, 0, "31"),
    ],
)
def test_a_tensor_that_does_not_lie_there_is_refused(
    client: Client, nbytes: int, offset: int, sentence: str
) -> None:
    with refused("INVALID_ARGUMENT", sentence):
        client.infer("double", [placed(nbytes, offset)])


def test_an_answer_too_large_for_its_place_is_refused_and_writes_nothing(
    client: Client, gpu: HostMemory
) -> None:
    put(gpu, bytes(SIZE))
    with refused("INVALID_ARGUMENT", "32 bytes do not fit into the 31 bytes"):
        client.infer("double", [tensor("x", ROWS + 1)], outputs=[wanted(31, 0)])
    assert not gpu.shared[HANDLE].any()


def test_files_stay_closed_where_only_this_kind_is_allowed(client: Client) -> None:
    client.unregister_system_shared_memory()  # Triton's examples begin with both
    for call in (
        lambda: client.register_system_shared_memory("n", "/key", 64),
        client.get_system_shared_memory_status,
    ):
        with refused("PERMISSION_DENIED", "--control shared-memory"):
            call()
    assert "system_shared_memory" not in client.get_server_metadata().extensions
    assert "cuda_shared_memory" in client.get_server_metadata().extensions


def test_a_name_is_of_one_kind_only(root: Path) -> None:
    gpu = HostMemory({HANDLE: np.zeros(SIZE, np.uint8)})
    key = f"farthing-{uuid4().hex}"
    region = shared_memory.create_shared_memory_region("region", key, 64)
    try:
        with (
            served(root, lambda: [gpu], "all,cuda-shared-memory") as address,
            Client(address) as client,
        ):
            client.register_system_shared_memory("file", key, 64)
            client.register_cuda_shared_memory("gpu", RAW, 0, 64)
            with refused("INVALID_ARGUMENT", "'file' is already registered"):
                client.register_cuda_shared_memory("file", RAW, 0, 64)
            with refused("INVALID_ARGUMENT", "'gpu' is already registered"):
                client.register_system_shared_memory("gpu", key, 64)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def test_where_no_gpu_is_a_registration_says_so_and_all_else_answers(root: Path) -> None:
    def none() -> Sequence[Memory]:
        raise CudaFailed("the NVIDIA driver is missing")

    with served(root, none) as address, Client(address) as client:
        with refused("UNIMPLEMENTED", "this server has no GPU that it can use"):
            client.register_cuda_shared_memory("region", RAW, 0, SIZE)
        assert len(client.get_cuda_shared_memory_status().regions) == 0
        client.unregister_cuda_shared_memory()
        answer = client.infer("double", [tensor("x", ROWS)])
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)
