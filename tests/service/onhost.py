"""A graph on ONNX Runtime's CPU provider, where lanes look for a GPU: all but the GPU is real."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service import staging
from service.buffers import OnGpu
from service.datatypes import BY_NAME
from service.lanes import Lanes
from service.session import Session, SessionOptions
from service.staging import Plan
from tests.memory import HostMemory

Array = np.ndarray[Any, Any]


class Recorded:
    """A session of ONNX Runtime that writes down how it is run.

    Attributes:
        runs: thread, ``gpu_graph_id`` and binding of each bound run, in order.
        before: called when a bound run begins, on its thread.
    """

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.real: Any = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.runs: list[tuple[int, int, Any]] = []
        self.before: Callable[[], None] = lambda: None

    def io_binding(self) -> Any:
        return self.real.io_binding()

    def run_with_iobinding(self, binding: Any, graph: int) -> None:
        self.runs.append((threading.get_ident(), graph, binding))
        self.before()
        self.real.run_with_iobinding(binding)


def settled(*places: OnGpu) -> None:
    """Wait until the GPUs' threads have done what they were asked so far."""
    for place in places:
        place.turn.submit(int).result(20)


def plain(session: Recorded, feeds: dict[str, Array]) -> dict[str, Array]:
    names = [node.name for node in session.real.get_outputs()]
    return dict(zip(names, session.real.run(names, dict(feeds)), strict=True))


def place(path: Path, memory: HostMemory | None = None) -> OnGpu:
    """The graph "on a GPU" with a thread of its own, which ends with the test's process."""
    turn = ThreadPoolExecutor(1, thread_name_prefix="gpu")
    return OnGpu(
        Recorded(path), memory or HostMemory(), ("cpu", 0), turn, lambda graph: graph, plain
    )


def planned(path: Path, rows: int | None, max_rows: int, *, graphs: bool = False) -> Plan | None:
    """The plan of a graph, by one run on zeros."""
    session = Session(path, SessionOptions(threads=1))
    feeds = {
        spec.name: np.zeros([rows or 1, *spec.shape[1:]] if spec.shape[:1] == (-1,) else spec.shape,
                            BY_NAME[spec.datatype].dtype)
        for spec in session.inputs
    }  # fmt: skip
    seen = {name: array.shape for name, array in session.run(feeds).items()}
    return staging.plan(session.inputs, session.outputs, seen=seen, rows=rows, max_rows=max_rows,
                        graphs=graphs)  # fmt: skip


def laid(
    path: Path, *places: OnGpu, each: int = 2, max_rows: int = 8, graphs: bool = False
) -> Lanes:
    """Lanes with buffers for a graph whose rows can be told apart."""
    plan = planned(path, 1, max_rows, graphs=graphs)
    assert plan is not None
    lanes = Lanes(places, each, no_plan)
    lanes.lay(plan)
    return lanes


def no_plan(*, seen: object, rows: object) -> None:
    """Whatever a run comes to, there is no room for it."""
