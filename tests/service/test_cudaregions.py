"""CUDA shared memory, with the host's in the GPU's place: what a client may name."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from service import log, recording
from service.cuda import CudaFailed, Memory, Move
from service.cudaregions import CudaRegions
from service.errors import InvalidInput, Unsupported
from service.regions import Regions
from service.sharedmemory import SharedMemory
from tests.memory import HostMemory
from tests.service.stage import until

HANDLE, OTHER = b"a" * 64, b"b" * 64


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = log.LOGGER.propagate
    log.LOGGER.propagate = True
    with caplog.at_level(logging.INFO, log.LOGGER.name):
        yield
    log.LOGGER.propagate = before


@pytest.fixture
def gpu() -> HostMemory:
    """Another process shares ten bytes of it, and as many once more."""
    return HostMemory(
        {
            HANDLE: np.frombuffer(b"0123456789", np.uint8).copy(),
            OTHER: np.frombuffer(b"abcdefghij", np.uint8).copy(),
        }
    )


@pytest.fixture
async def regions(gpu: HostMemory) -> CudaRegions:
    made = CudaRegions(lambda: [HostMemory(), gpu])
    await made.register("r", HANDLE, 1, 8)
    return made


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as refused:
        call()
    return str(refused.value)


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(InvalidInput) as refusing:
        await call
    return str(refusing.value)


def test_slots_are_read_and_written_on_the_gpu(regions: CudaRegions, gpu: HostMemory) -> None:
    assert regions.slot("r", 2, 3).read() == b"234"
    assert regions.slot("r", 0, 8).read() == b"01234567"
    assert regions.slot("r", 8, 0).read() == b""
    regions.slot("r", 2, 3).write(b"xy")
    assert gpu.shared[HANDLE].tobytes() == b"01xy456789"
    assert {copied[3] for copied in gpu.copied} == gpu.streams  # one queue of its own


def test_nothing_is_written_past_a_slot(regions: CudaRegions, gpu: HostMemory) -> None:
    told = refusal(lambda: regions.slot("r", 2, 3).write(b"wxyz"))
    assert "4 bytes do not fit into the 3 bytes" in told and gpu.copied == []


@pytest.mark.parametrize(
    ("name", "handle", "device_id", "byte_size", "sentence"),
    [
        ("", HANDLE, 1, 8, "needs a name"),
        ("r", OTHER, 1, 8, "already registered; unregister it first"),
        ("n" * 257, HANDLE, 1, 8, "at most 256 bytes"),
        ("n", b"", 1, 8, "has 64 bytes, as cudaIpcGetMemHandle gives them; this has 0"),
        ("n", HANDLE[:-1], 1, 8, "this has 63"),
        ("n", b"c" * 64, 1, 8, "cannot be opened on GPU 1: it must come from another process"),
        ("n", HANDLE, 0, 8, "cannot be opened on GPU 0"),
        ("n", HANDLE, 2, 8, "there is no GPU 2; this server sees 2, counted from 0"),
        ("n", HANDLE, -1, 8, "there is no GPU -1"),
        ("n", HANDLE, 2**62, 8, "there is no GPU 4611686018427387904"),
        ("n", HANDLE, 1, 0, "has 10 bytes; 0 do not lie within it"),
        ("n", HANDLE, 1, 11, "has 10 bytes; 11 do not lie within it"),
        ("n", HANDLE, 1, 2**64 - 1, "has 10 bytes; 18446744073709551615 do not"),
    ],
)
async def test_what_cannot_be_registered_is_refused_and_leaves_nothing_open(
    regions: CudaRegions, gpu: HostMemory,
    name: str, handle: bytes, device_id: int, byte_size: int, sentence: str,
) -> None:  # fmt: skip
    assert sentence in await refused(regions.register(name, handle, device_id, byte_size))
    gc.collect()
    await until(lambda: len(gpu.open) == 1)
    assert [region.name for region in regions.status("")] == ["r"]


@pytest.mark.parametrize(
    ("name", "offset", "byte_size", "sentence"),
    [
        ("r", 0, 9, "has 8 bytes; offset 0 and size 9 do not lie within it"),
        ("r", 9, 0, "offset 9 and size 0"),
        ("r", -1, 2, "offset -1 and size 2"),
        ("r", 0, -1, "offset 0 and size -1"),
        ("r", 2**63, 2**63, "do not lie within it"),
        ("other", 0, 1, "no shared memory region 'other' is registered"),
        ("n" * 257, 0, 1, "at most 256 bytes"),
    ],
)
def test_a_slot_lies_within_its_region(
    regions: CudaRegions, name: str, offset: int, byte_size: int, sentence: str
) -> None:
    assert sentence in refusal(lambda: regions.slot(name, offset, byte_size))


async def test_a_request_that_uses_a_region_finishes_before_its_memory_is_let_go(
    regions: CudaRegions, gpu: HostMemory
) -> None:
    slot = regions.slot("r", 0, 2)
    regions.unregister("r")
    assert slot.read() == b"01" and len(gpu.open) == 1
    assert "no shared memory region 'r'" in refusal(lambda: regions.status("r"))
    await regions.register("r", OTHER, 1, 4)  # the name is free at once
    assert slot.read() == b"01" and regions.slot("r", 0, 2).read() == b"ab"
    del slot
    await until(lambda: gpu.open == [gpu.shared[OTHER].ctypes.data])


async def test_unregistering_all_and_what_is_not_there(
    regions: CudaRegions, gpu: HostMemory
) -> None:
    await regions.register("s", OTHER, 1, 10)
    regions.unregister("nobody")
    assert len(regions.status("")) == 2
    regions.unregister("")
    assert regions.status("") == []
    await until(lambda: gpu.open == [])


async def test_there_is_an_end_to_regions(gpu: HostMemory) -> None:
    regions = CudaRegions(lambda: [gpu], most=2)
    await regions.register("a", HANDLE, 0, 1)
    await regions.register("b", HANDLE, 0, 1)
    assert "2 shared memory regions are registered" in await refused(
        regions.register("c", OTHER, 0, 1)
    )


def test_status_tells_what_was_registered(regions: CudaRegions) -> None:
    (region,) = regions.status("r")
    assert (region.name, region.device_id, region.byte_size) == ("r", 1, 8)


async def test_without_a_gpu_the_caller_is_told_so_and_the_log_why_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def none() -> Sequence[Memory]:
        raise CudaFailed("the NVIDIA driver is missing, in /secret/place")

    regions = CudaRegions(none)
    for _ in range(3):
        with pytest.raises(Unsupported, match="no GPU that it can use") as error:
            await regions.register("n", HANDLE, 0, 8)
        assert "secret" not in str(error.value)
    assert [record.getMessage() for record in caplog.records].count(
        "CUDA shared memory is asked for and not there"
    ) == 1
    regions.unregister("")
    assert regions.status("") == []


async def test_memory_that_is_gone_is_a_sentence_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Gone(HostMemory):
        def copies(self, moves: Sequence[Move], stream: int = 0) -> None:
            raise CudaFailed("the CUDA runtime answers cudaErrorInvalidValue")

        def closed(self, pointer: int) -> None:
            raise CudaFailed("the CUDA runtime answers cudaErrorContextIsDestroyed")

    gpu = Gone({HANDLE: np.zeros(10, np.uint8)})
    regions = CudaRegions(lambda: [gpu])
    await regions.register("r", HANDLE, 0, 10)
    slots = [regions.slot("r", 0, 4)]
    assert "cannot be read or written any more" in refusal(lambda: slots[0].write(b"ab"))
    assert "cannot be read or written any more" in refusal(slots.pop().read)
    regions.unregister("r")
    gc.collect()  # the errors hold frames
    await until(lambda: len(caplog.records) == 3)


async def test_a_name_is_of_one_kind_only(tmp_path: Path, gpu: HostMemory) -> None:
    (tmp_path / "data").write_bytes(b"in a file!")
    memory = SharedMemory(Regions(tmp_path), CudaRegions(lambda: [gpu]))
    await memory.register_cuda("c", HANDLE, 0, 10)
    memory.register_system("s", "/data", 0, 10)
    assert "'c' is already registered" in refusal(
        lambda: memory.register_system("c", "/data", 0, 10)
    )
    assert "'s' is already registered" in await refused(memory.register_cuda("s", OTHER, 0, 10))
    assert memory.slot("c", 0, 4).read() == b"0123"
    assert memory.slot("s", 0, 4).read() == b"in a"
    memory.cuda.unregister("")
    memory.register_system("c", "/data", 5, 5)
    assert memory.slot("c", 0, 4).read() == b"file"
    assert "no shared memory region 'x'" in refusal(lambda: memory.slot("x", 0, 1))


async def test_memory_is_opened_and_closed_while_nobody_records(gpu: HostMemory) -> None:
    regions = CudaRegions(lambda: [gpu])
    recorded, over = threading.Event(), threading.Event()

    def record() -> None:
        with recording.recording():
            recorded.set()
            assert over.wait(20)

    async def once(what: Callable[[], object], then: Callable[[], bool]) -> None:
        """That goes on at once, but calls the GPU only when the recording is over."""
        thread = threading.Thread(target=record)
        thread.start()
        assert recorded.wait(20)
        what()
        await asyncio.sleep(0.05)  # in which it could have
        assert not then()
        over.set()
        await until(then)
        thread.join(20)
        recorded.clear()
        over.clear()

    coming: list[asyncio.Task[None]] = []
    await once(
        lambda: coming.append(asyncio.create_task(regions.register("r", HANDLE, 0, 8))),
        lambda: len(gpu.open) == 1,
    )
    await coming[0]
    await once(lambda: regions.unregister("r"), lambda: gpu.open == [])


async def test_a_name_is_taken_while_its_memory_is_being_opened(
    tmp_path: Path, gpu: HostMemory
) -> None:
    (tmp_path / "data").write_bytes(b"in a file!")
    opening, go_on = threading.Event(), threading.Event()

    def slowly() -> Sequence[Memory]:
        opening.set()
        assert go_on.wait(20)
        return [gpu]

    memory = SharedMemory(Regions(tmp_path), CudaRegions(slowly))
    coming = asyncio.create_task(memory.register_cuda("r", HANDLE, 0, 8))
    await until(opening.is_set)
    assert "already registered" in refusal(lambda: memory.register_system("r", "/data", 0, 10))
    assert "already registered" in await refused(memory.register_cuda("r", OTHER, 0, 8))
    assert "no shared memory region 'r'" in refusal(lambda: memory.slot("r", 0, 1))
    go_on.set()
    await coming
    assert memory.slot("r", 0, 2).read() == b"01"


async def test_memory_whose_caller_left_while_it_was_opened_is_let_go(gpu: HostMemory) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def slowly() -> Sequence[Memory]:
        opening.set()
        assert go_on.wait(20)
        return [gpu]

    regions = CudaRegions(slowly)
    coming = asyncio.create_task(regions.register("r", HANDLE, 0, 8))
    await until(opening.is_set)
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming
    go_on.set()
    await until(lambda: bool(gpu.streams))
    await until(lambda: gpu.open == [])
    assert "r" not in regions
