"""A graph as it lies on one GPU, and one lane's memory there: gather, copy, run, copy back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ParamSpec, TypeVar

from service import charging, cputime, log
from service.cuda import CudaFailed, Memory
from service.staging import Array, Arrays, Plan, Room

Outputs = dict[str, Array]
P = ParamSpec("P")
R = TypeVar("R")

UNRECORDED = -1  # ``gpu_graph_id`` of runs that are neither recorded nor replayed


@cache
def turn(index: int) -> Executor:
    """The thread on which all runs of one GPU compute, one after another; as old as the process."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"gpu:{index}", initializer=cputime.computes)


@dataclass(frozen=True, eq=False)
class OnGpu:
    """A graph as it lies on one GPU.

    Attributes:
        session: ONNX Runtime's.
        memory: the GPU's.
        device: its kind and index, as ``io_binding`` takes them.
        turn: the thread on which it computes.
        options: of a run, by ``gpu_graph_id``.
        plain: runs that session on arrays of the host, as far as any feeds go.
    """

    session: Any
    memory: Memory
    device: tuple[str, int]
    turn: Executor
    options: Callable[[int], Any]
    plain: Callable[[Any, Arrays], Outputs]

    def compute(self, what: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do this on the GPU's thread, when its turn comes; the caller's account pays for it."""
        return self.turn.submit(charging.charged(what), *args, **kwargs).result()


class Buffers:
    """One lane's memory on the host and on the GPU, and what is bound to it."""

    def __init__(self, on: OnGpu, plan: Plan, number: int) -> None:
        """Take the memory.

        Args:
            on: the graph.
            plan: what there must be room for.
            number: of the lane, for the names of its recorded graphs.

        Raises:
            CudaFailed: there is not as much.
        """
        self._on, self._plan, self._number = on, plan, number
        # While a run is recorded, CUDA lets no thread of the process allocate or free anything; on
        # the GPU's thread that can't be.
        self._host, self._stream, self._device = on.turn.submit(self._taken).result()
        self.views = {room.name: room.view(self._host, plan.max_rows) for room in plan.inputs}
        self._bound: dict[int, tuple[Any, Any]] = {}

    def run(self, rows: int) -> Outputs:
        """Run the rows that were gathered; the answers stay as they are when the lane goes on."""
        on, plan = self._on, self._plan
        padded = plan.padded(rows)
        on.memory.copies([self._inwards(room, padded) for room in plan.inputs], self._stream)
        loose = on.compute(self._compute, padded)
        on.memory.copies([self._outwards(room, rows) for room in plan.outputs], self._stream)
        return loose | {room.name: room.view(self._host, rows).copy() for room in plan.outputs}

    def close(self) -> None:
        """Give the memory back when the GPU's thread comes to it; no run may follow."""
        with suppress(RuntimeError):  # the process ends, and its memory with it
            self._on.turn.submit(self._give_back)

    def _taken(self) -> tuple[Array, int, int]:
        memory, nbytes = self._on.memory, max(1, self._plan.nbytes)
        host, stream = memory.pinned(nbytes), memory.stream()
        try:
            return host, stream, memory.device(nbytes)
        except CudaFailed:
            memory.ended(stream)
            raise

    def _give_back(self) -> None:
        self._bound.clear()
        try:
            self._on.memory.ended(self._stream)
            self._on.memory.freed(self._device)
        except CudaFailed as error:  # a GPU that fell over keeps nothing either
            log.warning("a lane's memory could not be given back", reason=str(error))

    def _compute(self, padded: int) -> Outputs:
        binding, options = self._binding(padded)
        self._on.session.run_with_iobinding(binding, options)
        if not self._plan.loose:
            return {}
        # They come behind the others. What ONNX Runtime made of them is held by the arrays.
        made = binding.get_outputs()[len(self._plan.outputs) :]
        return {name: value.numpy() for name, value in zip(self._plan.loose, made, strict=True)}

    def _binding(self, padded: int) -> tuple[Any, Any]:
        if padded in self._bound:
            return self._bound[padded]
        on, plan = self._on, self._plan
        binding = on.session.io_binding()
        for room in plan.inputs:
            binding.bind_input(*self._where(room, padded))
        for room in plan.outputs:
            binding.bind_output(*self._where(room, padded))
        for name in plan.loose:
            binding.bind_output(name, "cpu")
        graph = UNRECORDED
        if padded in plan.buckets:
            graph = 1 + self._number * len(plan.buckets) + plan.buckets.index(padded)
        made = binding, on.options(graph)
        # A second run would write what ONNX Runtime made for the first, if it were kept.
        if not plan.loose:
            self._bound[padded] = made
        return made

    def _where(self, room: Room, rows: int) -> tuple[str, str, int, Any, list[int], int]:
        kind, index = self._on.device
        at = self._device + room.offset
        return room.name, kind, index, room.element, list(room.sized(rows)), at

    def _inwards(self, room: Room, rows: int) -> tuple[int, int, int]:
        host = int(self._host.ctypes.data)
        return self._device + room.offset, host + room.offset, room.nbytes(rows)

    def _outwards(self, room: Room, rows: int) -> tuple[int, int, int]:
        device, host, nbytes = self._inwards(room, rows)
        return host, device, nbytes
