"""The card itself: its memory, what its management library tells, memory of other processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from loadtests.bench.gpu import bare, graphs, places, scales
from loadtests.bench.gpu.places import EXHAUSTIVE, Way
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


def is_slice(gpu: Gpu) -> bool:
    """Whether it is part of a card: what the driver lists under the card's own name."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return False
    done = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False)
    return f"MIG-{gpu.uuid.removeprefix('GPU-')}" in done.stdout


def test_the_gpu_is_described(gpu: Gpu) -> None:
    assert gpu.name and gpu.memory_bytes > 2**30 and gpu.compute >= (7, 5)
    assert len(gpu.uuid) == len("GPU-12345678-1234-1234-1234-123456789012")


def test_bytes_go_to_the_gpu_and_come_back(memory: Cuda) -> None:
    size = 2**20
    there, back = memory.pinned(size), memory.pinned(size)
    there[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    pointer, stream = memory.device(size), memory.stream()
    try:
        memory.copy(pointer, int(there.ctypes.data), size, stream)
        memory.copy(int(back.ctypes.data), pointer, size, stream)
        assert np.array_equal(there, back)
    finally:
        memory.ended(stream)
        memory.freed(pointer)
        memory.unpinned(there)
        memory.unpinned(back)


def test_pinned_memory_that_is_given_back_is_there_for_others(memory: Cuda) -> None:
    before = psutil.virtual_memory().available
    for _ in range(100):  # 12.8 GB in all
        host = memory.pinned(2**27)
        host[:] = 7
        assert host[-16:].sum() == 112
        memory.unpinned(host)
    assert before - psutil.virtual_memory().available < 6e9


def test_more_memory_than_there_is_is_refused_in_a_sentence(gpu: Gpu, memory: Cuda) -> None:
    with pytest.raises(CudaFailed, match="memory"):
        memory.device(2 * gpu.memory_bytes)
    memory.freed(memory.device(1024))  # and the next call works


def test_the_management_library_knows_the_same_card(gpu: Gpu) -> None:
    (card,) = nvml.cards([(gpu.index, gpu.uuid)])
    seen = card.read()
    if not is_slice(gpu):
        assert seen.memory_bytes and abs(seen.memory_bytes - gpu.memory_bytes) < 2**31
        assert seen.power_w and 5 < seen.power_w < 2000
        assert seen.celsius and 10 < seen.celsius < 110


def test_work_is_seen_in_energy_and_in_busy_time(gpu: Gpu, tmp_path: Path) -> None:
    place = places.gpu(gpu.index, 0.0)
    if is_slice(gpu):
        pytest.skip("a slice of a card (MIG) tells neither")
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
        memory.unpinned(host)
        assert process.stdin and process.stdout
        process.stdin.close()
        assert bytes.fromhex(process.stdout.readline()) == bytes(255 - each for each in data)


def test_a_handle_that_is_none_is_refused_and_the_gpu_works_on(memory: Cuda) -> None:
    with pytest.raises(CudaFailed):
        memory.opened(bytes(cuda.HANDLE_BYTES))
    memory.freed(memory.device(1024))


def test_bare_runs_are_on_the_provider_that_was_asked_for(gpu: Gpu, tmp_path: Path) -> None:
    path = graphs.resnet(tmp_path / "net.onnx", "fp16", scales.TOY.image)
    for way in (Way(), Way(nhwc=True, tf32=True), Way(search=EXHAUSTIVE)):
        place = places.gpu(gpu.index, 0.0)
        assert bare.Bare(path, place, way).rate(graphs.rows(path, 4), seconds=0.1).rows_per_s
