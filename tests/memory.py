"""The host's memory in a GPU's place, so that all but the GPU itself runs in tests."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from service.cuda import CudaFailed, Move

Array = np.ndarray[Any, Any]


@dataclass
class HostMemory:
    """``service.cuda.Memory``: addresses are this process's own.

    Attributes:
        shared: handle -> the array that "another process" shares by it.
        copied: (to, start, bytes, stream) of each copy, in order.
        open: addresses that were opened and not closed.
        held: address -> memory that was asked for and not given back.
        locked: address -> host memory that was pinned and not given back.
        streams: those that were made and not given back.
        most_bytes: of all that is held; more is refused, as by a GPU that is full.
    """

    shared: dict[bytes, Array] = field(default_factory=dict)
    copied: list[tuple[int, int, int, int]] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    held: dict[int, Array] = field(default_factory=dict)
    locked: dict[int, Array] = field(default_factory=dict)
    streams: set[int] = field(default_factory=set)
    most_bytes: int = 2**40
    _streams: Iterator[int] = field(default_factory=lambda: count(1))

    def pinned(self, nbytes: int) -> Array:
        host = np.zeros(nbytes, dtype=np.uint8)
        self.locked[int(host.ctypes.data)] = host
        return host

    def unpinned(self, host: Array) -> None:
        del self.locked[int(host.ctypes.data)]

    def device(self, nbytes: int) -> int:
        if sum(array.nbytes for array in self.held.values()) + nbytes > self.most_bytes:
            raise CudaFailed("the GPU's memory, or the host's that can be pinned, is used up")
        array = np.full(nbytes, 0xA5, dtype=np.uint8)  # what others left there
        self.held[int(array.ctypes.data)] = array
        return int(array.ctypes.data)

    def freed(self, pointer: int) -> None:
        del self.held[pointer]

    def stream(self) -> int:
        made = next(self._streams)
        self.streams.add(made)
        return made

    def ended(self, stream: int) -> None:
        self.streams.remove(stream)

    def copy(self, to: int, start: int, nbytes: int, stream: int = 0) -> None:
        self.copies([(to, start, nbytes)], stream)

    def copies(self, moves: Sequence[Move], stream: int = 0) -> None:
        for to, start, nbytes in moves:
            self.copied.append((to, start, nbytes, stream))
            ctypes.memmove(to, start, nbytes)

    def opened(self, handle: bytes) -> int:
        if handle not in self.shared:
            raise CudaFailed("the CUDA runtime answers cudaErrorInvalidValue")
        pointer = int(self.shared[handle].ctypes.data)
        self.open.append(pointer)
        return pointer

    def size(self, pointer: int) -> int:
        (array,) = {id(a): a for a in self.shared.values() if a.ctypes.data == pointer}.values()
        return int(array.nbytes)

    def closed(self, pointer: int) -> None:
        self.open.remove(pointer)
