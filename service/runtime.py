"""Makes ONNX Runtime's own sessions: on the CPU, or on GPUs with no silent fall-back."""

import os

# Before the import, and for child processes too: the wheels since 1.29 write a device id to disk
# and send events unless this is set when the library is loaded (onnxruntime pull request 27379).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import io
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from traceback import clear_frames
from typing import Any

import onnxruntime as ort

from service import buffers, cuda, graphs, hardware, log, manifest, providers, sizes
from service.buffers import UNRECORDED, OnGpu
from service.devices import CUDA, TENSORRT, Device
from service.errors import ModelUnusable
from service.sessionoptions import SessionOptions

# ONNX Runtime's lines are no JSON, and a caller's bad rows would write some; what they say is in
# the exceptions too.
SILENT = 4
_CUDA_MEMORY = "cuda"  # of TensorRT's provider too
SHRINKAGE = "memory.enable_memory_arena_shrinkage"
_GRAPHS_REFUSED = "cannot use the graph capture feature"  # core/session/inference_session.cc


# a session, feeds, options of the run
Plain = Callable[[Any, Mapping[str, Any], Any], dict[str, Any]]


class NotOnGpu(ModelUnusable):
    """A GPU cannot run the graph, or not all of it, and the CPU may not help out."""


@dataclass(frozen=True)
class Copy:
    """A graph on one device.

    Attributes:
        device: where it lies.
        ort: ONNX Runtime's session.
        run_options: of each run; None where there are none.
        graphs: whether its runs are recorded and replayed.
    """

    device: Device
    ort: Any
    run_options: Any = None
    graphs: bool = False


def copies(path: Path, options: SessionOptions) -> tuple[Copy, ...]:
    """The graph on each of the devices.

    Raises:
        ModelUnusable: a GPU cannot run it, with what to do about it. Whatever ONNX Runtime raises
            of the file itself comes as it is.
    """
    if not options.devices[0].is_gpu:
        # It would say on standard output that it tries again, which is in vain.
        session = ort.InferenceSession(
            str(path), session_options(options), providers=[providers.CPU_PROVIDER],
            enable_fallback=0,
        )  # fmt: skip
        return (Copy(options.devices[0], session, run_options(options)),)
    preload()
    facts = graphs.facts(path)
    made: list[Copy] = []
    try:
        for device in options.devices:
            own = replace(options, cuda_graphs=recorded(options, facts, device))
            made.append(_on_gpu(path, own, facts, device))
    except BaseException:
        end(made)
        raise
    return tuple(made)


def recorded(options: SessionOptions, facts: graphs.Facts, device: Device) -> bool:
    """Whether runs are to be recorded; where nobody says so, those that save cuDNN its plans.

    ONNX Runtime keeps the plans of a Conv for the last number of rows only, and makes them anew
    for each other (core/providers/cuda/nn/conv.cc; issue 23006); a replay makes none.
    """
    if options.cuda_graphs is not None:
        return options.cuda_graphs
    return device.kind == CUDA and facts.convolves and facts.fixed_rows


def unrecorded(path: Path, said: str) -> None:
    """Log that a graph's runs are not recorded though they were to be, and why."""
    log.warning("its runs cannot be recorded as CUDA graphs, and run without",
                file=path.name, reason=said.strip().split("\n", 1)[0][:500])  # fmt: skip


def end(made: list[Copy]) -> None:
    """Let go of copies, of those on GPUs on the threads that run there; the list is emptied."""
    while made:
        copy = made.pop()
        device, held = copy.device, [copy.ort]
        del copy
        if device.is_gpu:
            buffers.end(buffers.turn(device.index), held)


def _on_gpu(path: Path, options: SessionOptions, facts: graphs.Facts, device: Device) -> Copy:
    try:
        return _tried(path, options, facts, device)
    except ModelUnusable:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        said = str(error)
        if _GRAPHS_REFUSED in said and options.cuda_graphs:
            unrecorded(path, said)
            return _on_gpu(path, replace(options, cuda_graphs=False), facts, device)
        if "disable_cpu_ep_fallback" in said or "fallback to CPU EP" in said:
            # The same is said where there is no provider at all: what is so is seen without it.
            end([_tried(path, options, facts, device, named=True)])
            sentence = "a part of it can only run on the CPU, which --cpu-fallback none rules out"
            raise NotOnGpu(f"{path}: {sentence}; {providers.REMEDY}", told=sentence) from error
        if "TensorRT libraries" in said:
            sentence = f"TensorRT is not there; {providers.TENSORRT_WHEEL}"
            raise NotOnGpu(f"{path}: {sentence}", told="TensorRT is not there") from error
        if full := providers.memory_full(said, options):
            raise ModelUnusable(f"{path} does not fit on {device}: {full}", told=full) from error
        raise


def _tried(
    path: Path, options: SessionOptions, facts: graphs.Facts, device: Device, *, named: bool = False
) -> Copy:
    """Made and checked; ``named`` lets ONNX Runtime put nodes on the CPU, to be named."""
    engines = _engines(path, options, device)
    if device.kind == TENSORRT:
        log.info("TensorRT builds its engines, or takes those it kept; it may take minutes",
                 file=path.name, kept=engines)  # fmt: skip
    plan = providers.planned(device, options, facts, engines=engines)
    allowed = replace(options, cpu_fallback=providers.ANY) if named else options
    entries = tuple(providers.entries(device, allowed).items())
    session = ort.InferenceSession(
        str(path), session_options(replace(options, config=(*options.config, *entries))),
        providers=plan, enable_fallback=0,
    )  # fmt: skip
    try:
        made = session.get_providers()
        if made[: len(plan)] != [name for name, _ in plan]:
            sentence = f"ONNX Runtime could not make {device}'s provider, and took {made[0]}"
            raise NotOnGpu(f"{path}: {sentence}; `farthing doctor` says why", told=sentence)
        check_nodes(session, path, options)
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold the session
        held = [session]
        del session
        buffers.end(buffers.turn(device.index), held)
        raise
    graphs_on = providers.graphs_on(device, options)
    if graphs_on and "gpu:" in dict(options.run_config).get(SHRINKAGE, ""):
        log.warning(f"{SHRINKAGE} of a GPU has no effect on runs that are recorded: they need their"
                    " memory where it was", file=path.name)  # fmt: skip
    return Copy(device, session, run_options(options, device), graphs_on)


@cache
def preload() -> None:
    """Load CUDA and cuDNN from their wheels, once; what does not load is seen later by its lack."""
    said = io.StringIO()
    with redirect_stdout(said):  # our own standard output is one line of JSON
        ort.set_default_logger_severity(SILENT)
        ort.preload_dlls()
    if said.getvalue():
        log.info("libraries of CUDA that did not load", said=said.getvalue().strip()[:2000])


def check_nodes(session: Any, path: Path, options: SessionOptions) -> None:
    """Make sure that only such nodes run on the CPU as may; those that do are logged.

    Args:
        session: that keeps the record of its nodes.
        path: of its graph, for messages.
        options: say which may.

    Raises:
        NotOnGpu: others do, and which.
    """
    assigned = session.get_provider_graph_assignment_info()
    there = (part for part in assigned if part.ep_name == providers.CPU_PROVIDER)
    on_cpu = Counter((node.name, node.op_type) for part in there for node in part.get_nodes())
    if not on_cpu:
        return
    if sentence := providers.refused(on_cpu, options.cpu_fallback, sizes.nodes(path)):
        raise NotOnGpu(f"{path}: {sentence}", told=sentence)
    count = sum(len(part.get_nodes()) for part in assigned)
    log.info("nodes that run on the CPU", file=path.name, nodes=providers.counted(on_cpu),
             of=count, allowed=options.cpu_fallback)  # fmt: skip


def _engines(path: Path, options: SessionOptions, device: Device) -> str:
    """A directory of this file's own: TensorRT does not look at the weights of what it cached.

    Raises:
        ModelUnusable: it cannot be written.
    """
    if device.kind != TENSORRT or not options.trt_cache:
        return ""
    directory = Path(options.trt_cache) / manifest.sha256_of(path)[:16]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sentence = f"--trt-cache {options.trt_cache} cannot be written: {error.strerror}"
        raise ModelUnusable(sentence, told="the cache of engines cannot be written") from error
    return str(directory)


def session_options(options: SessionOptions) -> Any:
    """ONNX Runtime's own form of the options, but for the providers."""
    result = ort.SessionOptions()
    result.intra_op_num_threads = options.threads or hardware.cpus()
    result.inter_op_num_threads = options.inter_op_threads
    if options.parallel:
        result.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if options.graph_level is not None:
        result.graph_optimization_level = getattr(ort.GraphOptimizationLevel, options.graph_level)
    result.enable_cpu_mem_arena = options.mem_arena
    result.enable_mem_pattern = options.mem_pattern
    spinning = "1" if options.spin else "0"
    result.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    for name, value in options.config:
        result.add_session_config_entry(name, value)
    result.log_severity_level = SILENT
    return result


def place(copy: Copy, options: SessionOptions, plain: Plain) -> OnGpu:
    """A copy as lanes take it.

    Args:
        copy: on a GPU.
        options: of the session.
        plain: runs a session on arrays of the host, with options of the run.
    """

    def of_graph(graph: int) -> Any:
        return run_options(options, copy.device, graph if copy.graphs else None)

    # Else the first plain run would be recorded, and what it was fed replayed for all others.
    unrecorded = of_graph(UNRECORDED)
    return OnGpu(
        copy.ort, cuda.Cuda(copy.device.index), (_CUDA_MEMORY, copy.device.index),
        buffers.turn(copy.device.index), of_graph,
        lambda session, feeds: plain(session, feeds, unrecorded),
    )  # fmt: skip


def run_options(
    options: SessionOptions, device: Device | None = None, graph: int | None = None
) -> Any:
    """ONNX Runtime's own form of what is said of each run; None where nothing is.

    Args:
        options: of the session.
        device: of a GPU, whose own number takes the place of any in the entries.
        graph: which recorded graph is meant; None where none are recorded.
    """
    if not options.run_config and graph is None:
        return None
    result = ort.RunOptions()
    if graph is not None:
        result.add_run_config_entry("gpu_graph_id", str(graph))
    for name, value in options.run_config:
        own = value if device is None else value.replace("gpu:0", f"gpu:{device.index}")
        if graph is not None and name == SHRINKAGE:  # replays use the memory that would be freed
            own = ";".join(part for part in own.split(";") if not part.startswith("gpu:"))
        if own:
            result.add_run_config_entry(name, own)
    return result


def telemetry_is_off() -> bool:
    """Whether ONNX Runtime was loaded with its telemetry switched off."""
    return os.environ.get("ORT_DISABLE_TELEMETRY") == "1"
