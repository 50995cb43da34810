"""The only room of NVIDIA's CUDA runtime: GPUs, pinned memory, copies, other processes' memory.

What it is asked for is small, so that tests put the host's memory in its place (tests/memory.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from service.errors import FarthingError

Array = np.ndarray[Any, Any]
# to, from, bytes; either end may be on the host or on the GPU
Move = tuple[int, int, int]


class CudaFailed(FarthingError):
    """The CUDA runtime refused something, with its own name for the reason."""


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process sees.

    Attributes:
        index: as CUDA counts those that ``CUDA_VISIBLE_DEVICES`` leaves.
        name: e.g. ``NVIDIA H200``.
        uuid: as nvidia-smi writes it, ``GPU-...``.
        memory_bytes: all of its memory.
        compute: capability, e.g. (9, 0).
    """

    index: int
    name: str
    uuid: str
    memory_bytes: int
    compute: tuple[int, int]


class Memory(Protocol):
    """One GPU's memory, as far as batches and shared memory need it; pointers are addresses."""

    def pinned(self, nbytes: int) -> Array:
        """Page-locked host memory, as uint8; until ``unpinned``, when nobody may look at it."""

    def unpinned(self, host: Array) -> None:
        """Give back what ``pinned`` gave."""

    def device(self, nbytes: int) -> int:
        """The address of new memory on the GPU, with anything in it; until ``freed``."""

    def freed(self, pointer: int) -> None:
        """Give back what ``device`` gave."""

    def stream(self) -> int:
        """A queue of copies of its own; until ``ended``."""

    def ended(self, stream: int) -> None:
        """Give back what ``stream`` gave."""

    def copy(self, to: int, start: int, nbytes: int, stream: int = 0) -> None:
        """Copy between any two addresses, host or device, and wait until it is done."""

    def copies(self, moves: Sequence[Move], stream: int = 0) -> None:
        """Several copies, in their order, and one wait for all of them."""

    def opened(self, handle: bytes) -> int:
        """The address of memory that another process shares by this handle of 64 bytes."""

    def size(self, pointer: int) -> int:
        """Bytes from there to the end of its allocation."""

    def closed(self, pointer: int) -> None:
        """Let go of what ``opened`` gave."""


HANDLE_BYTES = 64  # CUDA_IPC_HANDLE_SIZE


class Cuda:
    """``Memory`` of a real GPU.

    Raises:
        CudaFailed: by any method, where the CUDA runtime refuses.
    """

    def __init__(self, index: int) -> None:
        """Take the GPU of that index; its context is made by the first call."""
        self.index = index

    def pinned(self, nbytes: int) -> Array:
        """Page-locked host memory, as uint8; until ``unpinned``, when nobody may look at it."""
        runtime = self._runtime()
        pointer = _done(runtime.cudaHostAlloc(nbytes, runtime.cudaHostAllocPortable))
        held = (ctypes.c_uint8 * nbytes).from_address(int(pointer))
        return np.frombuffer(memoryview(held), dtype=np.uint8)

    def unpinned(self, host: Array) -> None:
        """Give back what ``pinned`` gave."""
        # Not by a finalizer: that is on any thread, perhaps while another records, and where no
        # GPU was chosen it would make a context on the first.
        _done(self._runtime().cudaFreeHost(int(host.ctypes.data)))

    def device(self, nbytes: int) -> int:
        """The address of new memory on the GPU, with anything in it; until ``freed``."""
        return int(_done(self._runtime().cudaMalloc(nbytes)))

    def freed(self, pointer: int) -> None:
        """Give back what ``device`` gave."""
        _done(self._runtime().cudaFree(pointer))

    def stream(self) -> int:
        """A queue of copies of its own; until ``ended``."""
        runtime = self._runtime()
        return int(_done(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)))

    def ended(self, stream: int) -> None:
        """Give back what ``stream`` gave."""
        _done(self._runtime().cudaStreamDestroy(stream))

    def copy(self, to: int, start: int, nbytes: int, stream: int = 0) -> None:
        """Copy between any two addresses, host or device, and wait until it is done."""
        self.copies([(to, start, nbytes)], stream)

    def copies(self, moves: Sequence[Move], stream: int = 0) -> None:
        """Several copies, in their order, and one wait for all of them."""
        runtime = self._runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
        for to, start, nbytes in moves:
            _done(runtime.cudaMemcpyAsync(to, start, nbytes, kind, stream))
        _done(runtime.cudaStreamSynchronize(stream))

    def opened(self, handle: bytes) -> int:
        """The address of memory that another process shares by this handle of 64 bytes."""
        runtime = self._runtime()
        given = runtime.cudaIpcMemHandle_t()
        ctypes.memmove(int(given.getPtr()), handle, HANDLE_BYTES)
        lazy = runtime.cudaIpcMemLazyEnablePeerAccess
        return int(_done(runtime.cudaIpcOpenMemHandle(given, lazy)))

    def size(self, pointer: int) -> int:
        """Bytes from there to the end of its allocation."""
        self._runtime()  # makes the GPU's context this thread's
        from cuda.bindings import driver

        base, nbytes = _done(driver.cuMemGetAddressRange(pointer))
        return int(base) + int(nbytes) - pointer

    def closed(self, pointer: int) -> None:
        """Let go of what ``opened`` gave."""
        _done(self._runtime().cudaIpcCloseMemHandle(pointer))

    def _runtime(self) -> Any:
        """The library, with this thread set to this GPU."""
        runtime = _library()
        _done(runtime.cudaSetDevice(self.index))
        return runtime


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process sees.

    Raises:
        CudaFailed: there is no driver, an old one, or no GPU, in one sentence that says which.
    """
    runtime = _library()
    found = []
    for index in range(_done(runtime.cudaGetDeviceCount())):
        about = _done(runtime.cudaGetDeviceProperties(index))
        found.append(
            Gpu(index, about.name.split(b"\0")[0].decode(), _uuid(bytes(about.uuid.bytes)),
                int(about.totalGlobalMem), (int(about.major), int(about.minor)))
        )  # fmt: skip
    return tuple(found)


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _library() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise CudaFailed(
            f"the CUDA runtime for Python cannot be imported ({error}); pip install 'farthing[gpu]'"
        ) from error
    return runtime


# What users can mend, by the runtime's names (CUDA Runtime API, "Error Handling").
_MENDS = {
    "cudaErrorInsufficientDriver": "the NVIDIA driver is missing, or older than CUDA 13 needs (580 "
    "on Linux); install it, and in a container run with the NVIDIA runtime (--gpus all)",
    "cudaErrorNoDevice": "there is no NVIDIA GPU that this process may use; look at nvidia-smi and "
    "at CUDA_VISIBLE_DEVICES",
    "cudaErrorMemoryAllocation": "the GPU's memory, or the host's that can be pinned, is used up",
    "cudaErrorDevicesUnavailable": "the GPU is taken by another process in exclusive mode",
}


def _done(answer: tuple[Any, ...]) -> Any:
    """What a call came to, without its error code; several values as a tuple.

    Raises:
        CudaFailed: the code is an error.
    """
    code, *values = answer
    if code.value != 0:
        raise CudaFailed(_MENDS.get(code.name, f"the CUDA runtime answers {code.name}"))
    if len(values) > 1:
        return tuple(values)
    return values[0] if values else None
