"""The card itself: its memory, what its management library tells, memory of other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from loadtests.bench.gpu import bare, graphs, places, scales
from service import cuda, nvml
from service.cuda import Cuda, CudaFailed, Gpu

pytestmark = pytest.mark.gpu

# A process that owns memory on the GPU, and shares it until its standard input closes.
OWNER = """
import ctypes, sys
import numpy as np
from cuda.bindings import runtime
def done(answer):
    assert answer[0].value == 0, answer[0].name
    return answer[1] if len(answer) > 1 else None
data = np.frombuffer(bytes.fromhex(sys.argv[2]), np.uint8).copy()
kinds, address = runtime.cudaMemcpyKind, data.ctypes.data
done(runtime.cudaSetDevice(int(sys.argv[1])))
pointer = done(runtime.cudaMalloc(len(data)))
done(runtime.cudaMemcpy(pointer, address, len(data), kinds.cudaMemcpyHostToDevice))
done(runtime.cudaDeviceSynchronize())
handle = done(runtime.cudaIpcGetMemHandle(pointer))
print(ctypes.string_at(int(handle.getPtr()), 64).hex(), flush=True)
sys.stdin.read()
done(runtime.cudaMemcpy(address, pointer, len(data), kinds.cudaMemcpyDeviceToHost))
print(data.tobytes().hex(), flush=True)
"""


@contextmanager
def owner(index: int, data: bytes) -> Iterator[tuple[bytes, subprocess.Popen[str]]]:
    """Another process's memory on the GPU: its handle, and the process."""
    command = [sys.executable, "-c", OWNER, str(index), data.hex()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdin and process.stderr
        line = process.stdout.readline().strip()
        assert line, process.stderr.read()
        yield bytes.fromhex(line), process
        process.stdin.close()


def test_the_gpu_is_described(gpu: Gpu) -> None:
    assert gpu.name and gpu.memory_bytes > 2**30 and gpu.compute >= (7, 0)
    assert len(gpu.uuid) == len("GPU-12345678-1234-1234-1234-123456789012")


def test_bytes_go_to_the_gpu_and_come_back(memory: Cuda) -> None:
    there, back, size = memory.pinned(2**20), memory.pinned(2**20), 2**20
    there[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    pointer, stream = memory.device(size), memory.stream()
    try:
        memory.copy(pointer, int(there.ctypes.data), size, stream)
        memory.copy(int(back.ctypes.data), pointer, size, stream)
        assert np.array_equal(there, back)
    finally:
        memory.ended(stream)
        memory.freed(pointer)


def test_pinned_memory_lives_as_long_as_an_array_that_looks_at_it(memory: Cuda) -> None:
    for _ in range(100):  # would leak 6.4 GB, or crash if it were freed too soon
        part = memory.pinned(2**26)[:16]
        part[:] = 7
        assert part.sum() == 112


def test_more_memory_than_there_is_is_refused_in_a_sentence(gpu: Gpu, memory: Cuda) -> None:
    with pytest.raises(CudaFailed, match="memory"):
        memory.device(2 * gpu.memory_bytes)
    memory.freed(memory.device(1024))  # and the next call works


def test_the_management_library_knows_the_same_card(gpu: Gpu) -> None:
    (card,) = nvml.cards([(gpu.index, gpu.uuid)])
    seen = card.read()
    assert seen.memory_bytes and abs(seen.memory_bytes - gpu.memory_bytes) < 2**31
    assert seen.power_w and 5 < seen.power_w < 2000
    assert seen.celsius and 10 < seen.celsius < 110


def test_work_is_seen_in_energy_and_in_busy_time(gpu: Gpu, tmp_path: Path) -> None:
    place = places.gpu(gpu.index, 0.0)
    (card,) = nvml.cards([(gpu.index, gpu.uuid)])
    path = graphs.resnet(tmp_path / "net.onnx", "fp16", graphs.Image())
    rate = bare.Bare(path, place).rate(graphs.rows(path, 32), seconds=2.0)
    seen = card.read()
    assert rate.joules_per_row is not None and rate.joules_per_row > 0
    assert seen.busy is not None and seen.busy > 0.2


def test_memory_of_another_process_is_read_and_written(gpu: Gpu, memory: Cuda) -> None:
    data = bytes(range(256)) * 16
    with owner(gpu.index, data) as (handle, process):
        pointer = memory.opened(handle)
        host = memory.pinned(len(data))
        memory.copy(int(host.ctypes.data), pointer, len(data))
        assert host.tobytes() == data
        host[:] = 255 - host
        memory.copy(pointer, int(host.ctypes.data), len(data))
        memory.closed(pointer)
        assert process.stdin and process.stdout
        process.stdin.close()
        assert bytes.fromhex(process.stdout.readline()) == bytes(255 - each for each in data)


def test_a_handle_that_is_none_is_refused_and_the_gpu_works_on(memory: Cuda) -> None:
    with pytest.raises(CudaFailed):
        memory.opened(bytes(cuda.HANDLE_BYTES))
    memory.freed(memory.device(1024))


def test_bare_runs_are_on_the_provider_that_was_asked_for(gpu: Gpu, tmp_path: Path) -> None:
    path = graphs.resnet(tmp_path / "net.onnx", "fp16", scales.TOY.image)
    for nhwc in (False, True):
        place = places.gpu(gpu.index, 0.0)
        assert bare.Bare(path, place, nhwc=nhwc).rate(graphs.rows(path, 4), seconds=0.1).rows_per_s
