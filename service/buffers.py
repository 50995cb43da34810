"""A graph as it lies on one GPU, and one lane's memory there: gather, copy, run, copy back."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from service import charging, cputime, log, recording
from service.cuda import CudaFailed, Memory, Move
from service.staging import Array, Arrays, Plan, Room

Outputs = dict[str, Array]
P = ParamSpec("P")
R = TypeVar("R")

UNRECORDED = -1  # ``gpu_graph_id`` of runs that are neither recorded nor replayed


@cache
def turn(index: int) -> Executor:
    """The thread on which all runs of one GPU compute, one after another; as old as the process."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"gpu:{index}", initializer=cputime.computes)


class NotRecorded(RuntimeError):
    """A run failed that was to be recorded; unrecorded it may do."""


@dataclass(eq=False)
class OnGpu:
    """A graph as it lies on one GPU.

    Attributes:
        session: ONNX Runtime's; None when it was let go.
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
        paid = charging.charged(what)  # but not for the wait until others have recorded
        return self.turn.submit(_called, partial(paid, *args, **kwargs)).result()

    def record(self, what: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, while no other thread calls CUDA.

        Raises:
            NotRecorded: it failed.
        """
        paid = charging.charged(what)
        return self.turn.submit(_recorded, partial(paid, *args, **kwargs)).result()

    def run_plain(self, feeds: Arrays) -> Outputs:
        """Run on arrays of the host."""
        return self.compute(lambda: self.plain(self.session, feeds))

    def let_go(self) -> Future[None] | None:
        """End ONNX Runtime's session, on the GPU's thread; nobody may be running it any more.

        There alone: ONNX Runtime's sessions share what a thread that runs them keeps, without a
        lock (core/providers/cuda/cuda_execution_provider.cc, PerThreadContextCache).
        """
        with suppress(RuntimeError):  # the process ends, and its memory with it
            return self.turn.submit(_called, self._forget)
        return None

    def _forget(self) -> None:
        self.session = None


def end(turn: Executor, sessions: list[Any]) -> None:
    """End these sessions of ONNX Runtime on a GPU's thread; whoever calls keeps no other reference.

    Args:
        turn: of that GPU.
        sessions: emptied there.
    """
    with suppress(RuntimeError):  # as above
        turn.submit(_called, sessions.clear).result()


def _called(what: Callable[[], R]) -> R:
    with recording.calling():
        return _forgetful(what)


def _recorded(what: Callable[[], R]) -> R:
    with recording.recording():
        try:
            return _forgetful(what)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise NotRecorded(str(error)) from error


def _forgetful(what: Callable[[], R]) -> R:
    try:
        return what()
    except BaseException as error:
        # Whoever catches it must not be the last who holds a session of ONNX Runtime.
        traceback.clear_frames(error.__traceback__)
        raise


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
        self._host, self._stream, self._device = on.turn.submit(_called, self._taken).result()
        self.views = {room.name: room.view(self._host, plan.max_rows) for room in plan.inputs}
        self._bound: dict[int, tuple[Any, Any]] = {}
        self._recorded: set[int] = set()

    def run(self, rows: int) -> Outputs:
        """Run the rows that were gathered; the answers stay as they are when the lane goes on."""
        on, plan = self._on, self._plan
        padded = plan.padded(rows)
        self._copied(self._inwards(room, padded) for room in plan.inputs)
        first = padded in plan.buckets and padded not in self._recorded
        loose = (on.record if first else on.compute)(self._compute, padded)
        self._recorded.add(padded)
        self._copied(self._outwards(room, rows) for room in plan.outputs)
        told = [*plan.outputs, *(room for room in plan.inputs if room.name in plan.echoed)]
        return loose | {room.name: room.view(self._host, rows).copy() for room in told}

    def _copied(self, moves: Iterable[Move]) -> None:
        with recording.calling():  # for the wait until they are done, which spoils recordings too
            self._on.memory.copies([*moves], self._stream)

    def close(self) -> None:
        """Give the memory back when the GPU's thread comes to it; no run may follow."""
        with suppress(RuntimeError):  # the process ends, and its memory with it
            self._on.turn.submit(_called, self._give_back)

    def _taken(self) -> tuple[Array, int, int]:
        memory, nbytes = self._on.memory, max(1, self._plan.nbytes)
        with ExitStack() as back:
            host = memory.pinned(nbytes)
            back.callback(memory.unpinned, host)
            stream = memory.stream()
            back.callback(memory.ended, stream)
            device = memory.device(nbytes)
            back.pop_all()
        return host, stream, device

    def _give_back(self) -> None:
        self._bound.clear()
        self.views = {}
        memory = self._on.memory
        for give_back in (partial(memory.ended, self._stream), partial(memory.freed, self._device),
                          partial(memory.unpinned, self._host)):  # fmt: skip
            try:
                give_back()
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
