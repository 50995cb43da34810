"""What one version runs with: flags, then what was tuned here, then config.pbtxt, then defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service import hardware, log
from service.modelconfig import Options
from service.session import SessionOptions
from service.settings import Settings
from service.tuned import Tuned

_MAX_BATCH = 16


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


def settled(settings: Settings, options: Options, tuned: Tuned | None = None) -> Running:
    """How a version runs.

    Instances and threads were tuned as a pair: a flag that gives one of them otherwise undoes both,
    since the other alone was never measured and could exceed the CPUs.

    Args:
        settings: of the server; 0 and None say nothing.
        options: of the model.
        tuned: what was found for this hardware, or None.
    """
    config = dict(options.session)
    pair = None if tuned is None or _undone(settings, tuned) else tuned
    instances = settings.instances or (pair and pair.instances) or options.instances or 1
    threads = (
        settings.threads
        or (pair and pair.threads)
        or config.get("threads")
        or max(1, hardware.cpus() // instances)
    )
    spins = (settings.spin, tuned.spin if tuned else None, config.get("spin"))
    spin = next((said for said in spins if said is not None), False)
    if config.get("inter_op_threads") == 0:  # ONNX Runtime would count the host's cores
        config["inter_op_threads"] = threads
    running = Running(
        max_batch=settings.max_batch
        or (tuned and tuned.max_batch)
        or options.max_batch
        or _MAX_BATCH,
        instances=instances,
        session=SessionOptions(**{**config, "threads": threads, "spin": spin}),
    )
    return running if tuned is None else _compared(running, options, tuned)


def _undone(settings: Settings, tuned: Tuned) -> bool:
    """Whether a flag gives instances or threads otherwise than they were tuned."""
    same_instances = settings.instances in (0, tuned.instances)
    return not (same_instances and settings.threads in (0, tuned.threads))


def _compared(running: Running, options: Options, tuned: Tuned) -> Running:
    """The same, with what differs from what was tuned, and from what config.pbtxt says.

    0 rows say that there is no batch dimension, wherever they are said; no limit wins over that.
    """
    session, said = running.session, options.session
    # our name, Triton's name, what runs, what was tuned, what config.pbtxt says
    knobs = [
        ("max_batch", "max_batch_size", running.max_batch, tuned.max_batch, options.max_batch),
        ("instances", "instance_group", running.instances, tuned.instances, options.instances),
        ("threads", "intra_op_thread_count", session.threads, tuned.threads, said.get("threads")),
        ("spin", "session.intra_op.allow_spinning", session.spin, tuned.spin, said.get("spin")),
    ]
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
    if running.instances * threads > cpus:
        log.warning(
            "instances x threads exceed the CPUs that this process may use, so the kernel will "
            "make runs wait for each other and p99 will rise; give fewer",
            model=name,
            instances=running.instances,
            threads=threads,
            cpus=cpus,
        )
