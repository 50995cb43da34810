"""Pure: how a session is made; with the path of its graph it decides a session fully."""

from __future__ import annotations

from dataclasses import dataclass

from service.devices import CPU, Device


@dataclass(frozen=True)
class SessionOptions:
    """What decides how fast a session runs, and how much memory it holds.

    Attributes:
        threads: threads of one run; 0 means every CPU this process may use.
        spin: whether idle threads wait in a busy loop.
        inter_op_threads: nodes of one run at the same time, where ``parallel``.
        parallel: whether nodes that do not need each other run at the same time.
        graph_level: name of a GraphOptimizationLevel, e.g. ``ORT_ENABLE_BASIC``; None means
            ONNX Runtime's own, which is all.
        mem_arena: whether memory of past runs is kept for the next ones.
        mem_pattern: whether the memory of a run is planned from those of the same shapes.
        config: further entries of the session, as ONNX Runtime names them.
        run_config: further entries of each run, e.g. ``memory.enable_memory_arena_shrinkage``.
        devices: where it runs; on several, a copy of the graph lies on each.
        cpu_fallback: which nodes may run on the CPU where the device is a GPU: ``shapes``,
            ``none`` or ``any``.
        provider: further options of the GPU's provider, as ONNX Runtime names them.
        cuda_graphs: whether runs are recorded once for each bucket of rows, and replayed; None
            where the graph decides it.
        lanes: batches that are under way on each GPU at the same time.
        max_rows: of one run; 0 means unknown, so that no lane is made for it.
        trt_cache: directory of TensorRT's engines and timings; empty keeps none.
    """

    threads: int = 0
    spin: bool = False
    inter_op_threads: int = 1
    parallel: bool = False
    graph_level: str | None = None
    mem_arena: bool = True
    mem_pattern: bool = True
    config: tuple[tuple[str, str], ...] = ()
    run_config: tuple[tuple[str, str], ...] = ()
    devices: tuple[Device, ...] = (CPU,)
    cpu_fallback: str = "shapes"
    provider: tuple[tuple[str, str], ...] = ()
    cuda_graphs: bool | None = False
    lanes: int = 1
    max_rows: int = 0
    trt_cache: str = ""
