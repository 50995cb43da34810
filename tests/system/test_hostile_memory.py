"""Shared memory whose names, sizes and files lie; what is not a client's stays untouched."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import grpc
import numpy as np
import pytest

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import Served, serving
from tests.system.strangers import good, infer_refusal, refusal

SHM = Path("/dev/shm")
HUGE = 2**64 - 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = strangers.repository(tmp_path_factory.mktemp("models"))
    with serving(root, "--no-exit-on-error", "--control", "shared-memory") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc) as connected:
        yield connected
        GRPCInferenceServiceStub(connected).SystemSharedMemoryUnregister(
            pb.SystemSharedMemoryUnregisterRequest()
        )


@pytest.fixture
def file() -> Iterator[Path]:
    """A file in /dev/shm: four floats, and 16 bytes for an answer."""
    path = SHM / f"farthing-test-{uuid4().hex}"
    path.write_bytes(np.arange(4, dtype="<f4").tobytes() + b"-" * 16)
    yield path
    path.unlink(missing_ok=True)


def registration(
    path: Path | str, *, name: str = "r", offset: int = 0, byte_size: int = 32
) -> pb.SystemSharedMemoryRegisterRequest:
    key = path.name if isinstance(path, Path) else path
    return pb.SystemSharedMemoryRegisterRequest(
        name=name, key=key, offset=offset, byte_size=byte_size
    )


def place(tensor: object, *, offset: int, byte_size: int = 16, region: str = "r") -> None:
    parameters = tensor.parameters  # type: ignore[attr-defined]
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].uint64_param = byte_size
    parameters["shared_memory_offset"].uint64_param = offset


def shared() -> pb.ModelInferRequest:
    """A request whose input and output lie in region ``r``."""
    request = good()
    del request.raw_input_contents[:]
    place(request.inputs[0], offset=0)
    place(request.outputs.add(name="y"), offset=16)
    return request


def register(channel: grpc.Channel, request: pb.SystemSharedMemoryRegisterRequest) -> None:
    GRPCInferenceServiceStub(channel).SystemSharedMemoryRegister(request, timeout=20)


def register_refusal(channel: grpc.Channel, request: pb.SystemSharedMemoryRegisterRequest) -> str:
    stub = GRPCInferenceServiceStub(channel)
    told = refusal(channel, stub.SystemSharedMemoryRegister, request, "INVALID_ARGUMENT")
    status = stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
    assert not status.regions
    return told


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [(0, 33), (32, 1), (33, 0), (1, 32), (0, 0), (HUGE, 1), (1, HUGE), (HUGE, HUGE), (0, HUGE),
     (2**63, 2**63), (2**64 - 16, 32)],
)  # fmt: skip
def test_a_region_past_its_file(
    channel: grpc.Channel, file: Path, offset: int, byte_size: int
) -> None:
    request = registration(file, offset=offset, byte_size=byte_size)
    assert "do not lie within" in register_refusal(channel, request)


@pytest.mark.parametrize(
    ("offset", "byte_size"),
    [(17, 16), (32, 16), (33, 16), (0, 33), (HUGE, 16), (2**64 - 16, 16), (2**63, 16), (0, HUGE),
     (2**64 - 8, 2**64 - 8)],
)  # fmt: skip
def test_a_tensor_past_its_region(
    channel: grpc.Channel, file: Path, offset: int, byte_size: int
) -> None:
    register(channel, registration(file))
    request = shared()
    place(request.inputs[0], offset=offset, byte_size=byte_size)
    infer_refusal(channel, request)
    request = shared()
    place(request.outputs[0], offset=offset, byte_size=byte_size)
    infer_refusal(channel, request)
    assert file.read_bytes()[16:] == b"-" * 16


@pytest.mark.parametrize("name", ["shared_memory_offset", "shared_memory_byte_size"])
def test_a_tensor_before_its_region(channel: grpc.Channel, file: Path, name: str) -> None:
    register(channel, registration(file, offset=16, byte_size=16))
    for value in (-16, -(2**63)):
        request = shared()
        request.inputs[0].parameters[name].int64_param = value
        assert "0 or more" in infer_refusal(channel, request)


@pytest.mark.parametrize(
    "key",
    [
        "", "/", ".", "..", "../etc/passwd", "/../etc/passwd", "/etc/passwd", "//x", "a/b", "./x",
        "/dev/shm/x", "sem.x", "/sem.x", "triton_python_backend_shm_region_1", "no-such-file",
        "x\0", "x" * 256, "x" * 100_000, ".hidden", "\U0001f600", "%2e%2e",
    ],
)  # fmt: skip
def test_a_key_that_names_no_file_of_a_client(channel: grpc.Channel, key: str) -> None:
    register_refusal(channel, registration(key))


def test_what_is_no_plain_file_is_not_opened(channel: grpc.Channel, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    odd = {kind: SHM / f"farthing-test-{uuid4().hex}" for kind in ("link", "fifo", "dir", "socket")}
    odd["link"].symlink_to(secret)
    os.mkfifo(odd["fifo"])
    odd["dir"].mkdir()
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(odd["socket"]))
    try:
        for path in odd.values():
            register_refusal(channel, registration(path))
    finally:
        bound.close()
        odd.pop("dir").rmdir()
        for path in odd.values():
            path.unlink()


def test_a_semaphore_is_nobodys_region(channel: grpc.Channel) -> None:
    semaphore = SHM / f"sem.farthing-test-{uuid4().hex}"
    semaphore.write_bytes(bytes(32))
    try:
        assert "no semaphore" in register_refusal(channel, registration(semaphore))
    finally:
        semaphore.unlink()


def test_the_server_itself_leaves_nothing_there_to_be_registered(served: Served) -> None:
    held = [os.readlink(link) for link in Path(f"/proc/{served.process.pid}/fd").iterdir()]
    assert held
    assert not [path for path in held if path.startswith("/dev/shm")]


def test_names_of_regions_that_are_none_taken_or_too_long(
    channel: grpc.Channel, file: Path
) -> None:
    for name in ("", "n" * 257, "\U0001f600" * 100):
        register_refusal(channel, registration(file, name=name))
    register(channel, registration(file))
    stub = GRPCInferenceServiceStub(channel)
    told = refusal(channel, stub.SystemSharedMemoryRegister, registration(file), "INVALID_ARGUMENT")
    assert "already registered" in told
    for region in ("nosuch", "", "r\0", "R"):
        request = shared()
        place(request.inputs[0], offset=0, region=region)
        infer_refusal(channel, request)


def test_one_callers_regions_are_not_told_to_another(channel: grpc.Channel, file: Path) -> None:
    register(channel, registration(file, name="mine"))
    request = shared()
    place(request.inputs[0], offset=0, region="yours")
    told = infer_refusal(channel, request)
    assert "mine" not in told
    assert file.name not in told


def test_a_file_that_shrank_and_one_that_is_gone(channel: grpc.Channel, file: Path) -> None:
    register(channel, registration(file))
    os.truncate(file, 8)
    assert "shrunk" in infer_refusal(channel, shared())
    request = good()
    place(request.outputs.add(name="y"), offset=16)
    assert "shrunk" in infer_refusal(channel, request)
    assert file.stat().st_size == 8
    os.truncate(file, 32)
    file.unlink()  # the server's hold on it stays good
    GRPCInferenceServiceStub(channel).ModelInfer(shared(), timeout=20)


def test_an_answer_larger_than_its_place_is_not_written(channel: grpc.Channel, file: Path) -> None:
    register(channel, registration(file))
    request = good()
    place(request.outputs.add(name="y"), offset=16, byte_size=15)
    assert "do not fit" in infer_refusal(channel, request)
    assert file.read_bytes()[16:] == b"-" * 16


def test_contents_beside_shared_memory_and_classes_in_it(channel: grpc.Channel, file: Path) -> None:
    register(channel, registration(file))
    request = shared()
    request.raw_input_contents.append(bytes(16))
    assert "raw contents" in infer_refusal(channel, request)
    request = shared()
    request.inputs[0].contents.fp32_contents.extend([1.0] * 4)
    assert "shared memory and typed" in infer_refusal(channel, request)
    request = shared()
    request.outputs[0].parameters["classification"].int64_param = 1
    assert "choose one" in infer_refusal(channel, request)


def test_unregistered_while_in_use_the_request_is_finished(
    channel: grpc.Channel, file: Path, served: Served
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    register(channel, registration(file))
    request = strangers.numbers("slow", 20_000)
    place(request.outputs.add(name="y"), offset=16, byte_size=4)
    with ThreadPoolExecutor(1) as aside:
        call = stub.ModelInfer.future(request, timeout=60)
        strangers.wait_until_running(served, "slow")
        stub.ModelInfer(shared(), timeout=20)
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))
        told = aside.submit(infer_refusal, channel, shared()).result(20)
    assert "no shared memory region 'r'" in told
    answer = call.result(60)
    assert answer.outputs[0].parameters["shared_memory_region"].string_param == "r"
    assert np.frombuffer(file.read_bytes()[16:20], "<f4").tolist() == [0.0]


def test_a_thousand_regions_are_enough(channel: grpc.Channel, file: Path, served: Served) -> None:
    stub = GRPCInferenceServiceStub(channel)
    before = len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))
    refused: list[str] = []
    for number in range(1100):
        try:
            register(channel, registration(file, name=f"r{number}"))
        except grpc.RpcError as error:
            refused.append(error.details())
    assert refused
    assert all("regions are registered; unregister some first" in told for told in refused)
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
    strangers.answers(channel)
    assert len(list(Path(f"/proc/{served.process.pid}/fd").iterdir())) <= before + 8


def test_graphics_memory_is_forbidden_to_who_may_only_name_files(channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    for call, request in (
        (stub.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest()),
        (stub.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="r")),
    ):
        refusal(channel, call, request, "PERMISSION_DENIED")
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(name="r"))  # there is none
