"""The verb `serve`: settings -> repository -> server -> run until signalled."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import metadata
from typing import Any

from service import arguments, fallen, keeping, layout, log, machine, repository, server, settings
from service.cuda import Cuda, Gpu
from service.errors import InvalidSetting
from service.pins import pins

_INTERRUPTED = 130
# What computes on a GPU takes Python's lock again between two runs, and waits this long for a
# thread that does not let it go: 5.6 ms in the median at Python's own 5 ms, 0.8 at this (measured
# beside an event loop that is always busy).
_SWITCH_S = 0.0005


def serve(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Returns:
        0 if all accepted work was finished, 1 if some was cut off.

    Raises:
        FarthingError: what stops it from starting, in one sentence.
    """
    chosen = arguments.read(argv)
    log.configure(chosen.log_level)
    layout.places(chosen.repository)  # what is wrong at first sight is said at once
    server.check(chosen)
    _take_files()
    gpus = _gpus(chosen.device, argv)
    if gpus:
        sys.setswitchinterval(_SWITCH_S)
    elif idle := arguments.idle_without_gpus(chosen):
        log.warning("these count on GPUs only, and models run on the CPU", options=idle)
    models = _loaded(chosen, gpus)
    absent = set(pins(chosen.variant, "--variant")) - {model.manifest.name for model in models}
    if absent:  # it may come later, or be mistyped
        log.warning("--variant pins models that are not served", models=sorted(absent))
    return asyncio.run(_run(chosen, models, gpus))


def _gpus(device: str, argv: Sequence[str]) -> tuple[Gpu, ...]:
    """Those that models run on; empty for the CPU.

    Raises:
        InvalidSetting: they cannot be had, called what whoever asked for them wrote.
    """
    try:
        return machine.found(device).gpus
    except InvalidSetting as error:
        written = f"{arguments.written('device', argv)}{device}"
        raise InvalidSetting(str(error).replace(f"--device {device}", written, 1)) from error


def _take_files() -> None:
    """Open as many files at a time as we may: each connection is one, and shells allow few."""
    with suppress(OSError, ValueError):  # as few as we may have, then
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loaded(chosen: settings.Settings, gpus: Sequence[Gpu]) -> repository.Repository:
    """Load on a thread of its own, since a signal would wait until ONNX Runtime comes back."""
    book = keeping.book(chosen, gpus)
    with ThreadPoolExecutor(1, thread_name_prefix="loading") as pool:
        loading = pool.submit(repository.load, chosen, book=book)
        try:
            return loading.result()
        except KeyboardInterrupt:
            log.info("interrupted while loading models")
            logging.shutdown()
            os._exit(_INTERRUPTED)  # nothing else ends a thread that is in ONNX Runtime


async def _run(
    chosen: settings.Settings, models: repository.Repository, gpus: Sequence[Gpu]
) -> int:
    stop, hurry = _signals()
    running = await server.start(chosen, models, version=metadata.version("farthing"))
    if gpus:
        loop, memories = asyncio.get_running_loop(), [Cuda(gpu.index) for gpu in gpus]
        fell = partial(loop.call_soon_threadsafe, running.fall)
        fallen.GUARD.arm(partial(fallen.asked, memories), fell)
    # What is there now stays; looking through it again and again would hold up calls for 10 ms.
    gc.collect()
    gc.freeze()
    models.book.ledger.ready()
    _tell_ready(running, models)
    await stop.wait()
    log.info("draining", grace_s=chosen.grace_s, drain_s=chosen.drain_s)
    finished = await running.drain(chosen.drain_s, grace_s=chosen.grace_s, hurry=hurry)
    log.info("stopped", finished=finished)
    if not finished:
        # A run that does not end holds its thread, and the interpreter would wait for it.
        logging.shutdown()
        os._exit(1)
    return 0


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: any signal asks to stop; SIGINT, and every one after the first, to hurry."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled(number: signal.Signals) -> None:
        if stop.is_set() or number == signal.SIGINT:
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled, number)
    return stop, hurry


def _tell_ready(running: server.Server, models: repository.Repository) -> None:
    ready: dict[str, Any] = {"ready": True, "grpc_port": running.grpc_port}
    if running.control_port is not None:
        ready["control_port"] = running.control_port
    ready["metrics_port"] = running.metrics_port
    ready["models"] = [
        {
            "name": model.manifest.name,
            "version": model.version,
            "variant": model.variant.name,
            "sha256": model.variant.sha256,
            "reason": model.why,
        }
        for model in models
    ]
    log.info("ready", **ready)
    print(json.dumps(ready), flush=True)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
