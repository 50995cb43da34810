"""What one version runs with: flags, then what was tuned here, then config.pbtxt, then defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
        overruled: flags that win over what was tuned.
        replaced: what config.pbtxt says and what was tuned wins over.
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
    given = dict(options.session)
    pair = tuned
    if tuned and (
        settings.instances not in (0, tuned.instances) or settings.threads not in (0, tuned.threads)
    ):
        pair = None
    instances = settings.instances or (pair and pair.instances) or options.instances or 1
    threads = (
        settings.threads
        or (pair and pair.threads)
        or given.pop("threads", 0)
        or max(1, hardware.cpus() // instances)
    )
    said = (settings.spin, tuned.spin if tuned else None, given.pop("spin", None))
    given.pop("threads", None)
    if given.get("inter_op_threads") == 0:  # ONNX Runtime would count the host's cores
        given["inter_op_threads"] = threads
    return Running(
        max_batch=settings.max_batch
        or (tuned and tuned.max_batch)
        or options.max_batch
        or _MAX_BATCH,
        instances=instances,
        session=SessionOptions(
            threads=threads, spin=next((spin for spin in said if spin is not None), False), **given
        ),
        overruled=_overruled(settings, tuned) if tuned else (),
        replaced=_replaced(options, tuned) if tuned else {},
    )


def _overruled(settings: Settings, tuned: Tuned) -> tuple[str, ...]:
    given: dict[str, tuple[Any, Any]] = {
        "--max-batch": (settings.max_batch or None, tuned.max_batch),
        "--instances": (settings.instances or None, tuned.instances),
        "--threads": (settings.threads or None, tuned.threads),
        "--spin": (settings.spin, tuned.spin),
    }
    return tuple(flag for flag, (mine, its) in given.items() if mine not in (None, its))


def _replaced(options: Options, tuned: Tuned) -> dict[str, Any]:
    said: dict[str, tuple[Any, Any]] = {
        "max_batch_size": (options.max_batch, tuned.max_batch),
        "instance_group": (options.instances, tuned.instances),
        "intra_op_thread_count": (options.session.get("threads"), tuned.threads),
        "session.intra_op.allow_spinning": (options.session.get("spin"), tuned.spin),
    }
    return {name: mine for name, (mine, its) in said.items() if mine not in (None, its)}


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
