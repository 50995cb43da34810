"""CUDA shared memory: memory on a GPU that another process made, registered by name.

Whoever may call the RPCs gives a handle to the memory, so neither the handle nor the size is
trusted: a handle opens what its maker still holds, and the size is compared with the allocation's
own. What only its maker can guarantee is that the memory outlives the registration: CUDA calls
what happens else undefined, and a GPU that falls over takes this server's models with it. And CUDA
shares whole blocks: a handle opens what else its maker has in the block, if that is small (CUDA
Runtime API, ``cudaIpcGetMemHandle``). That is why it is a group of control RPCs of its own.

Tensors are copied between a slot and the host, where requests are decoded and answers encoded.
Opening and closing is done by other threads than the event loop's, while nobody records.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from queue import SimpleQueue
from threading import Thread

import numpy as np

from service import cuda, log, recording, slots
from service.cuda import HANDLE_BYTES, Cuda, CudaFailed, Memory
from service.errors import InvalidInput, Unsupported

# New bytes of so many, for who asked to fill in (Python's C API, "Bytes Objects").
_NEW_BYTES = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)


def of_this_machine() -> Sequence[Memory]:
    """The memory of each GPU that this process sees, in their order.

    Raises:
        CudaFailed: there is none that it can use, in one sentence that says why.
    """
    return [Cuda(gpu.index) for gpu in cuda.gpus()]


class _Opened:
    """Another process's memory, let go of when nobody holds it any more."""

    def __init__(self, memory: Memory, stream: int, handle: bytes) -> None:
        self.memory, self.stream = memory, stream
        self.pointer = memory.opened(handle)
        # At the end of the process CUDA may have ended before, and everything with it. Whoever lets
        # go may be the event loop, which must not wait for a recording, or garbage collection.
        weakref.finalize(self, _closing().put, (memory, self.pointer)).atexit = False


@cache
def _closing() -> SimpleQueue[tuple[Memory, int]]:
    """What is to be closed, and the thread that does it; as old as the process."""
    left: SimpleQueue[tuple[Memory, int]] = SimpleQueue()
    Thread(target=_close, args=(left,), name="cuda-regions", daemon=True).start()
    return left


def _close(left: SimpleQueue[tuple[Memory, int]]) -> None:
    while True:
        memory, pointer = left.get()
        try:
            with recording.calling():
                memory.closed(pointer)
        except Exception as error:  # or nothing were closed any more
            log.warning("a region of CUDA shared memory could not be closed", reason=str(error))
        del memory


@dataclass(frozen=True)
class CudaRegion:
    """A registered part of a GPU's memory, from the beginning of what its maker shares.

    Attributes:
        name: what requests call it.
        device_id: of the GPU.
        byte_size: of the region.
    """

    name: str
    device_id: int
    byte_size: int
    _opened: _Opened = field(repr=False, compare=False)


@dataclass(frozen=True)
class CudaSlot:
    """Bytes of such a region, for one tensor; see ``slots.Slot``."""

    region: str
    offset: int
    byte_size: int
    _opened: _Opened = field(repr=False, compare=False)

    def read(self) -> bytes:
        """A copy of its bytes.

        Raises:
            InvalidInput: the GPU refuses.
        """
        if not self.byte_size:
            return b""
        # Without the copy that others would make of what they had filled: of a batch of images it
        # holds up all threads for milliseconds. Nobody else knows these bytes yet.
        data: bytes = _NEW_BYTES(None, self.byte_size)
        self._copy(_address(data), self._start, self.byte_size)
        return data

    def write(self, data: bytes) -> None:
        """Put these bytes at its start; none past its end.

        Raises:
            InvalidInput: they are more than it holds, or the GPU refuses.
        """
        slots.check_fits(self.region, len(data), self.byte_size)
        if data:
            self._copy(self._start, _address(data), len(data))

    @property
    def _start(self) -> int:
        return self._opened.pointer + self.offset

    def _copy(self, to: int, start: int, nbytes: int) -> None:
        try:
            self._opened.memory.copy(to, start, nbytes, self._opened.stream)
        except CudaFailed as error:
            log.warning("CUDA shared memory cannot be copied", reason=str(error))
            raise slots.unusable(self.region) from None


def _address(data: bytes) -> int:
    return int(np.frombuffer(data, dtype=np.uint8).ctypes.data)


class CudaRegions(slots.Named[CudaRegion]):
    """All regions of this kind that are registered."""

    def __init__(
        self,
        memories: Callable[[], Sequence[Memory]] = of_this_machine,
        max_name: int = 256,
        *,
        most: int = 1024,
    ) -> None:
        """Start without any.

        Args:
            memories: of the GPUs, by their index; asked when something is registered.
            max_name: bytes of a region's name.
            most: regions at the same time.
        """
        super().__init__(max_name, most)
        self._memories = memories
        self._streams: dict[int, int] = {}
        self._told = ""
        self._opens = threading.Lock()

    async def register(self, name: str, handle: bytes, device_id: int, byte_size: int) -> None:
        """Make a GPU's memory known under a name.

        Args:
            name: for requests; must be new.
            handle: cudaIpcMemHandle_t, as its maker got it.
            device_id: index of the GPU, as this process counts them.
            byte_size: of the region.

        Raises:
            InvalidInput: the name is taken, there is no such GPU, the handle can't be opened there,
                or the memory is shorter, or too many regions are registered.
            Unsupported: this server has no GPU that it can use.
        """
        self.check_new(name)
        if len(handle) != HANDLE_BYTES:
            raise InvalidInput(
                f"a handle of CUDA shared memory has {HANDLE_BYTES} bytes, as cudaIpcGetMemHandle "
                f"gives them; this has {len(handle)}"
            )
        self._coming.add(name)
        try:
            opened = await asyncio.to_thread(self._open, handle, device_id, byte_size)
            self._regions[name] = CudaRegion(name, device_id, byte_size, opened)
        finally:
            self._coming.discard(name)

    def slot(self, name: str, offset: int, byte_size: int) -> CudaSlot:
        """Part of a region, for one tensor.

        Args:
            name: the region's.
            offset: bytes before the slot in the region.
            byte_size: of the slot.

        Raises:
            InvalidInput: there is no such region, or it is too short.
        """
        region = self.known(name)
        slots.check_within(name, region.byte_size, offset, byte_size)
        return CudaSlot(name, offset, byte_size, region._opened)

    def _open(self, handle: bytes, device_id: int, byte_size: int) -> _Opened:
        """The memory; waits as long as another thread records."""
        with self._opens, recording.calling():
            memory = self._memory(device_id)
            opened: _Opened | None = None
            try:
                if device_id not in self._streams:
                    self._streams[device_id] = memory.stream()
                opened = _Opened(memory, self._streams[device_id], handle)
                size = memory.size(opened.pointer)
            except CudaFailed as error:
                opened = None  # or the refusal would hold it
                log.warning("CUDA shared memory cannot be opened", reason=str(error))
                raise InvalidInput(
                    f"the handle cannot be opened on GPU {device_id}: it must come from another "
                    "process of this machine that still holds the memory, on the same GPU, and "
                    "both must see each other's processes (in containers: --ipc host)"
                ) from None
        if not 0 < byte_size <= size:
            del opened  # likewise
            raise InvalidInput(
                f"the memory behind the handle has {size} bytes; {byte_size} do not lie within it"
            )
        return opened

    def _memory(self, device_id: int) -> Memory:
        try:
            memories = self._memories()
        except CudaFailed as error:
            if str(error) != self._told:  # by the first who asks: strangers may ask often
                self._told = str(error)
                log.warning("CUDA shared memory is asked for and not there", reason=self._told)
            raise Unsupported(
                "this server has no GPU that it can use, so there is no CUDA shared memory here; "
                "its log says why"
            ) from None
        if not 0 <= device_id < len(memories):
            raise InvalidInput(
                f"there is no GPU {device_id}; this server sees {len(memories)}, counted from 0"
            )
        return memories[device_id]
