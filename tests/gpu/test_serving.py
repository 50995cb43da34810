"""`farthing serve` on a GPU, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from loadtests.bench import servers
from loadtests.bench.gpu import graphs, scales, served
from loadtests.bench.gpu.places import Place
from loadtests.bench.gpu.served import Load
from service.cuda import Gpu
from service.devices import Device
from service.proto import inference_pb2 as pb
from service.proto import inference_pb2_grpc as rpc
from service.session import Session, SessionOptions
from tests.gpu.test_cards import owner

pytestmark = pytest.mark.gpu


@contextmanager
def serving(directory: Path, device: Device, *options: str, precision: str = "fp32") -> Iterator[
    tuple[servers.Server, rpc.GRPCInferenceServiceStub, Path]
]:  # fmt: skip
    graph = graphs.resnet(servers.place(directory), precision, scales.TOY.image)
    place = Place(device).serve()
    with (
        servers.farthing(directory / "models", *place, *options) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        yield server, rpc.GRPCInferenceServiceStub(channel), graph


def answered(stub: Any, graph: Path, count: int) -> np.ndarray[Any, Any]:
    rows = graphs.rows(graph, count)
    request = pb.ModelInferRequest(model_name=servers.MODEL)
    request.inputs.add(name="x", datatype="UINT8", shape=rows.shape)
    request.raw_input_contents.append(rows.tobytes())
    answer = stub.ModelInfer(request, timeout=30)
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(count, -1)


def expected(graph: Path, count: int) -> np.ndarray[Any, Any]:
    rows = graphs.rows(graph, count)
    return Session(graph, SessionOptions(threads=1)).run({"x": rows})["y"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_server_answers_from_the_gpu(tmp_path: Path, device: Device, precision: str) -> None:
    with serving(tmp_path, device, precision=precision) as (server, stub, graph):
        for count in (1, 5, 16, 40):
            np.testing.assert_allclose(
                answered(stub, graph, count), expected(graph, count), rtol=2e-2, atol=2e-2
            )
        if device.is_gpu:
            assert server.metric("farthing_gpu_seconds_total") > 0
            assert server.metric("farthing_core_seconds_total") == 0
            assert server.metric("farthing_gpu_memory_bytes") > 2**30
            assert server.metric("nv_gpu_memory_total_bytes") > 2**30
        else:  # which proves that there is a metric of this name
            assert server.metric("farthing_core_seconds_total") > 0


def test_recorded_graphs_serve_the_same(tmp_path: Path, device: Device) -> None:
    options = ("--cuda-graphs", "on", "--max-batch", "8")
    with serving(tmp_path, device, *options) as (_, stub, graph):
        for count in (8, 1, 3, 8):
            np.testing.assert_allclose(
                answered(stub, graph, count), expected(graph, count), rtol=1e-3, atol=1e-3
            )


def test_many_callers_are_all_answered(tmp_path: Path, device: Device) -> None:
    graph = graphs.resnet(servers.place(tmp_path), "fp32", scales.TOY.image)
    rig = served.rig(
        graph, Place(device), generators=1, ahead_s=1.5, warm_s=0.2, most_rows=4
    )  # fmt: skip
    with rig as running:
        for load in (Load(callers=32, seconds=2.0), Load(callers=8, rows=4, shared=True)):
            seen = running.seen(load)
            assert seen.calls.answers == seen.calls.offered > 0, seen.calls.endings


def test_a_gpu_that_is_not_there_ends_the_server_with_2_and_one_sentence(
    tmp_path: Path, gpu: Gpu
) -> None:
    graphs.resnet(servers.place(tmp_path), "fp32", scales.TOY.image)
    done = subprocess.run(
        [sys.executable, "-m", "farthing", "serve", str(tmp_path / "models"), "--device", "cuda:99",
         "--grpc-port", "0", "--metrics-port", "0"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "99" in done.stderr and "Traceback" not in done.stderr
    assert gpu.name


def test_rows_in_another_process_memory_on_the_gpu_are_answered(
    tmp_path: Path, device: Device, gpu: Gpu
) -> None:
    with serving(tmp_path, device, "--control", "cuda-shared-memory") as (_, stub, graph):
        rows = graphs.rows(graph, 3)
        with owner(gpu.index, rows.tobytes()) as (handle, _process):
            stub.CudaSharedMemoryRegister(
                pb.CudaSharedMemoryRegisterRequest(
                    name="rows", raw_handle=handle, device_id=gpu.index, byte_size=rows.nbytes
                ),
                timeout=30,
            )
            request = pb.ModelInferRequest(model_name=servers.MODEL)
            tensor = request.inputs.add(name="x", datatype="UINT8", shape=rows.shape)
            tensor.parameters["shared_memory_region"].string_param = "rows"
            tensor.parameters["shared_memory_byte_size"].int64_param = rows.nbytes
            answer = stub.ModelInfer(request, timeout=30)
            stub.CudaSharedMemoryUnregister(
                pb.CudaSharedMemoryUnregisterRequest(name="rows"), timeout=30
            )
    got = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(3, -1)
    np.testing.assert_allclose(got, expected(graph, 3), rtol=1e-3, atol=1e-3)


def test_cuda_shared_memory_is_refused_unless_it_is_switched_on(
    tmp_path: Path, device: Device
) -> None:
    with serving(tmp_path, device) as (_, stub, _graph), pytest.raises(grpc.RpcError) as refused:
        stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(), timeout=30)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_region_larger_than_what_its_maker_shares_is_refused(
    tmp_path: Path, device: Device, gpu: Gpu
) -> None:
    with (
        serving(tmp_path, device, "--control", "cuda-shared-memory") as (_, stub, graph),
        owner(gpu.index, bytes(4096)) as (handle, _process),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.CudaSharedMemoryRegister(
                pb.CudaSharedMemoryRegisterRequest(
                    name="rows", raw_handle=handle, device_id=gpu.index, byte_size=2**40
                ),
                timeout=30,
            )
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert answered(stub, graph, 1).shape[0] == 1  # and the server goes on
