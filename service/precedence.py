"""What one version runs with: flags, then what was tuned here, then config.pbtxt, then defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service import hardware, log
from service.devices import AUTO, CPU, TENSORRT, Device
from service.errors import ModelUnusable
from service.modelconfig import Options
from service.session import SessionOptions
from service.settings import Settings
from service.tuned import Tuned

_MAX_BATCH, _MAX_BATCH_ON_GPU = 16, 64
# One batch is copied while another is computed.
_INSTANCES_PER_GPU = 2


@dataclass(frozen=True)
class Running:
    """How one version runs.

    Attributes:
        max_batch: rows in one run, where the model has a batch dimension.
        instances: runs at the same time, on one session.
        session: how that session is made.
        overruled: options that do not run as they were tuned, because of flags.
        replaced: what config.pbtxt says otherwise than what was tuned and runs instead.
    """

    max_batch: int
    instances: int
    session: SessionOptions
    overruled: tuple[str, ...] = ()
    replaced: Mapping[str, Any] | None = None

    def on(self, session: SessionOptions) -> Running:
        """The same, with the options of the session that was made: its graph decides some."""
        return replace(self, session=session)


def placed(options: Options, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Where a version runs: as ``--device`` says, but for what its config.pbtxt says.

    Args:
        options: of the model.
        devices: what ``--device`` comes to on this machine.

    Raises:
        ModelUnusable: it asks for a GPU that this server does not use, or for what none can do.
    """
    said = options.gpu
    if not devices[0].is_gpu or said.cpu_only:
        return (CPU,)
    if said.refusal:
        raise ModelUnusable(said.refusal, told=said.refusal)
    if missing := set(said.gpus) - {device.index for device in devices}:
        used = ", ".join(map(str, devices))
        sentence = f"config: instance_group.gpus has {min(missing)}, and this server uses {used}"
        raise ModelUnusable(sentence, told=sentence)
    taken = [device for device in devices if not said.gpus or device.index in said.gpus]
    return tuple(replace(device, kind=TENSORRT) if said.tensorrt else device for device in taken)


def settled(
    settings: Settings,
    options: Options,
    tuned: Tuned | None = None,
    *,
    devices: tuple[Device, ...] = (CPU,),
) -> Running:
    """How a version runs.

    Instances and threads were tuned as a pair: a flag that gives one of them otherwise undoes both,
    since the other alone was never measured and could exceed the CPUs.

    Args:
        settings: of the server; 0 and None say nothing.
        options: of the model.
        tuned: what was found for this hardware, or None.
        devices: where it runs.
    """
    on_gpu = devices[0].is_gpu
    config = dict(options.gpu.session if on_gpu else options.session)
    pair = None if tuned is None or _undone(settings, tuned) else tuned
    instances = settings.instances or (pair and pair.instances) or _instances(options, devices)
    threads = (
        settings.threads
        or (pair and pair.threads)
        or config.get("threads")
        or _threads(settings, instances, on_gpu=on_gpu)
    )
    spins = (settings.spin, tuned.spin if tuned else None, config.get("spin"))
    spin = next((said for said in spins if said is not None), False)
    if config.get("inter_op_threads") == 0:  # ONNX Runtime would count the host's cores
        config["inter_op_threads"] = threads
    max_batch = (
        settings.max_batch
        or (tuned and tuned.max_batch)
        or options.max_batch
        or (_MAX_BATCH_ON_GPU if on_gpu else _MAX_BATCH)
    )
    session = SessionOptions(**{**config, "threads": threads, "spin": spin})
    if on_gpu:
        rows = 0 if options.max_batch == 0 else max_batch
        session = _on_gpu(settings, options, session, devices, instances=instances, rows=rows)
        if tuned and settings.cuda_graphs == AUTO and tuned.cuda_graphs is not None:
            session = replace(session, cuda_graphs=tuned.cuda_graphs)
    running = Running(max_batch=max_batch, instances=instances, session=session)
    return running if tuned is None else _compared(running, options, tuned)


def _instances(options: Options, devices: tuple[Device, ...]) -> int:
    """Without a flag or what was tuned; Triton counts them for each GPU."""
    if not devices[0].is_gpu:
        return options.instances or 1
    return len(devices) * (options.gpu.instances or _INSTANCES_PER_GPU)


def _threads(settings: Settings, instances: int, *, on_gpu: bool) -> int:
    """Without a flag or what was tuned: beside a GPU one, which computes shapes."""
    if on_gpu and settings.cpu_fallback != "any":
        return 1
    return max(1, hardware.cpus() // instances)


def _on_gpu(
    settings: Settings,
    options: Options,
    session: SessionOptions,
    devices: tuple[Device, ...],
    *,
    instances: int,
    rows: int,
) -> SessionOptions:
    """The same for GPUs."""
    provider = dict(options.gpu.provider)
    if settings.gpu_mem_mib:
        provider["gpu_mem_limit"] = str(settings.gpu_mem_mib * 2**20)
    said = {"on": True, "off": False}.get(settings.cuda_graphs, options.gpu.cuda_graphs)
    return replace(
        session,
        devices=devices,
        cpu_fallback=settings.cpu_fallback,
        provider=tuple(sorted(provider.items())),
        cuda_graphs=said,
        lanes=-(-instances // len(devices)),
        max_rows=rows,
        trt_cache=settings.trt_cache,
    )


def _undone(settings: Settings, tuned: Tuned) -> bool:
    """Whether a flag gives instances or threads otherwise than they were tuned."""
    same_instances = settings.instances in (0, tuned.instances)
    return not (same_instances and settings.threads in (0, tuned.threads))


def _compared(running: Running, options: Options, tuned: Tuned) -> Running:
    """The same, with what differs from what was tuned, and from what config.pbtxt says.

    0 rows say that there is no batch dimension, wherever they are said; no limit wins over that.
    """
    session, on_gpu = running.session, running.session.devices[0].is_gpu
    said = options.gpu.session if on_gpu else options.session
    instances = options.instances
    if on_gpu:
        instances = options.gpu.instances and _instances(options, session.devices)
    # our name, Triton's name, what runs, what was tuned, what config.pbtxt says
    knobs: list[tuple[str, str, Any, Any, Any]] = [
        ("max_batch", "max_batch_size", running.max_batch, tuned.max_batch, options.max_batch),
        ("instances", "instance_group", running.instances, tuned.instances, instances),
        ("threads", "intra_op_thread_count", session.threads, tuned.threads, said.get("threads")),
        ("spin", "session.intra_op.allow_spinning", session.spin, tuned.spin, said.get("spin")),
    ]
    if on_gpu:
        said_graphs = options.gpu.cuda_graphs or None
        graphs = ("cuda_graphs", "optimization.cuda.graphs", session.cuda_graphs)
        knobs.append((*graphs, tuned.cuda_graphs, said_graphs))
    if 0 in (tuned.max_batch, options.max_batch):
        del knobs[0]
    return replace(
        running,
        overruled=tuple(name for name, _, runs, best, _ in knobs if runs != best),
        replaced={
            name: config
            for _, name, runs, best, config in knobs
            if runs == best and config not in (None, runs)
        },
    )


def warn_of_too_many(name: str, running: Running) -> None:
    """Say so where more threads would run than this process has CPUs."""
    threads, cpus = running.session.threads, hardware.cpus()
    if running.instances * threads > cpus and not running.session.devices[0].is_gpu:
        log.warning(
            "instances x threads exceed the CPUs that this process may use, so the kernel will "
            "make runs wait for each other and p99 will rise; give fewer",
            model=name,
            instances=running.instances,
            threads=threads,
            cpus=cpus,
        )
