"""The host's memory in a GPU's place, so that all but the GPU itself runs in tests."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.cuda import CudaFailed

Array = np.ndarray[Any, Any]


@dataclass
class HostMemory:
    """``service.cuda.Memory``: addresses are this process's own.

    Attributes:
        shared: handle -> the array that "another process" shares by it.
        copies: (to, start, bytes, stream) of each copy, in order.
        open: addresses that were opened and not closed.
    """

    shared: dict[bytes, Array] = field(default_factory=dict)
    copies: list[tuple[int, int, int, int]] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    streams: int = 0

    def pinned(self, nbytes: int) -> Array:
        return np.zeros(nbytes, dtype=np.uint8)

    def stream(self) -> int:
        self.streams += 1
        return self.streams

    def copy(self, to: int, start: int, nbytes: int, stream: int = 0) -> None:
        self.copies.append((to, start, nbytes, stream))
        ctypes.memmove(to, start, nbytes)

    def opened(self, handle: bytes) -> int:
        if handle not in self.shared:
            raise CudaFailed("the CUDA runtime answers cudaErrorInvalidValue")
        pointer = int(self.shared[handle].ctypes.data)
        self.open.append(pointer)
        return pointer

    def closed(self, pointer: int) -> None:
        self.open.remove(pointer)
