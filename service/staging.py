"""Pure: what a lane has room for, which feeds fit there, and how rows are gathered into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from service.datatypes import BY_NAME
from service.manifest import TensorSpec

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Shape = tuple[int, ...]

# What cudaMalloc's own addresses are multiples of ("CUDA C++ Programming Guide", device memory
# accesses), so that each tensor begins as if it had been allocated alone.
_ALIGNED = 256
# Of one lane. It is held for as long as the model is, pinned on the host, and on the GPU.
_MOST_BYTES = 2**30
BF16_IN_ONNX = 16  # TensorProto.BFLOAT16


@dataclass(frozen=True)
class Room:
    """One tensor's part of a lane's buffers.

    Attributes:
        name: of the tensor.
        dtype: of its arrays; that of the bits for BF16.
        shape: -1 first where that counts rows; all else is fixed.
        offset: bytes before it in the buffers.
        element: its type as ``io_binding`` takes it.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    offset: int
    element: Any

    def sized(self, rows: int) -> Shape:
        """Its shape with so many rows."""
        return (rows, *self.shape[1:]) if self.shape[:1] == (-1,) else self.shape

    def nbytes(self, rows: int) -> int:
        """What so many rows take."""
        return math.prod(self.sized(rows)) * self.dtype.itemsize

    def view(self, block: Array, rows: int) -> Array:
        """Its part of a block of bytes, as an array of so many rows."""
        part = block[self.offset : self.offset + self.nbytes(rows)]
        return part.view(self.dtype).reshape(self.sized(rows))


@dataclass(frozen=True)
class Plan:
    """What each lane of a graph has room for.

    Attributes:
        inputs: all inputs that a run must be given.
        outputs: those whose size follows the rows.
        loose: outputs whose size only a run tells.
        echoed: outputs that are inputs too. ONNX Runtime writes no memory that is bound to those:
            no node makes them.
        max_rows: of one run.
        buckets: numbers of rows that are run, where others are padded to the next of them; empty
            where each runs as it is.
        nbytes: of one lane's buffer, on the host and again on the GPU.
    """

    inputs: tuple[Room, ...]
    outputs: tuple[Room, ...]
    loose: tuple[str, ...]
    max_rows: int
    buckets: tuple[int, ...]
    nbytes: int
    echoed: tuple[str, ...] = ()

    def padded(self, rows: int) -> int:
        """How many rows are run for so many."""
        return next((size for size in self.buckets if size >= rows), rows)

    def rows(self, parts: Sequence[Arrays]) -> int | None:
        """The rows of several callers' feeds, equal in ``batching.shapes``; None if they don't fit.

        Feeds of optional inputs never fit: a lane has no room for them.
        """
        if not self.inputs or any(len(part) != len(self.inputs) for part in parts):
            return None
        first = self.inputs[0]
        if first.shape[:1] != (-1,):
            return 1 if len(parts) == 1 and self._holds(parts[0], 1) else None
        counts = [len(part[first.name]) if first.name in part else 0 for part in parts]
        fits = 0 < sum(counts) <= self.max_rows and all(map(self._holds, parts, counts))
        return sum(counts) if fits else None

    def _holds(self, part: Arrays, rows: int) -> bool:
        return all(
            room.name in part
            and part[room.name].shape == room.sized(rows)
            and part[room.name].dtype == room.dtype
            for room in self.inputs
        )

    def gather(self, views: Mapping[str, Array], parts: Sequence[Arrays], rows: int) -> None:
        """Copy callers' rows behind each other, and zeros behind them up to the bucket.

        Args:
            views: input -> an array of ``max_rows`` rows in a lane.
            parts: as ``rows`` takes them.
            rows: of all parts together.
        """
        for room in self.inputs:
            view = views[room.name]
            if room.shape[:1] != (-1,):
                np.copyto(view, parts[0][room.name])
                continue
            np.concatenate([part[room.name] for part in parts], out=view[:rows])
            view[rows : self.padded(rows)] = 0


def plan(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    seen: Mapping[str, Shape],
    rows: int | None,
    max_rows: int,
    graphs: bool,
) -> Plan | None:
    """What a lane of a graph has room for; None where its tensors have no sizes of their own.

    Args:
        inputs: of the graph.
        outputs: likewise.
        seen: output -> the shape that a run came to, which may be other than the graph says.
        rows: of that run; None where rows can't be told apart.
        max_rows: of one run.
        graphs: whether runs are recorded, which takes a fixed number of rows, and fixed places.
    """
    counted = 0 if rows is None else 1
    specs = (*inputs, *outputs)
    if any(spec.datatype == "BYTES" for spec in specs) or max_rows < 1:
        return None
    if any(
        -1 in spec.shape[counted:] or spec.shape[:counted] not in ((), (-1,)) for spec in inputs
    ):
        return None
    echoed = {spec.name for spec in outputs} & {spec.name for spec in inputs}
    made = [spec for spec in outputs if spec.name not in echoed]
    firm = [spec for spec in made if _is_firm(spec, seen[spec.name], rows)]
    loose = [spec for spec in made if spec not in firm]
    if not made:  # ONNX Runtime runs for some output only
        return None
    if any(spec.datatype == "BF16" for spec in loose):  # numpy can't be given those
        return None
    sizes = [_nbytes(spec, max_rows) for spec in (*inputs, *firm)]
    *offsets, nbytes = accumulate((_up(size) for size in sizes), initial=0)
    if nbytes > _MOST_BYTES:
        return None
    rooms = [_room(spec, at) for spec, at in zip((*inputs, *firm), offsets, strict=True)]
    buckets = sizes_up_to(max_rows if counted else 1) if graphs and not loose else ()
    return Plan(tuple(rooms[: len(inputs)]), tuple(rooms[len(inputs) :]),
                tuple(spec.name for spec in loose), max_rows, buckets, nbytes,
                tuple(sorted(echoed)))  # fmt: skip


def sizes_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 16, then in smaller steps (24, 32, 48, ... 128, 160, ...) up to this, and this.

    Smaller, since padded rows cost as much as others; each size costs a recording.
    """
    sizes, size = {most}, 1
    while size < most:
        sizes.add(size)
        size += size if size < 16 else 8 if size < 32 else max(16, 2 ** (size.bit_length() - 3))
    return tuple(sorted(sizes))


def _is_firm(spec: TensorSpec, seen: Shape, rows: int | None) -> bool:
    counted = 0 if rows is None else 1
    wanted = spec.shape if rows is None else (rows, *spec.shape[1:])
    return -1 not in spec.shape[counted:] and spec.shape[:counted] in ((), (-1,)) and seen == wanted


def _room(spec: TensorSpec, offset: int) -> Room:
    dtype = BY_NAME[spec.datatype].dtype
    element = BF16_IN_ONNX if spec.datatype == "BF16" else dtype
    return Room(spec.name, dtype, spec.shape, offset, element)


def _nbytes(spec: TensorSpec, rows: int) -> int:
    return _room(spec, 0).nbytes(rows)


def _up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
