"""The verb `serve`: settings -> repository -> server -> run until signalled."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from service import arguments, log, repository, server, settings


def serve(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Returns:
        0 if all accepted work was finished, 1 if some was cut off.

    Raises:
        FarthingError: what stops it from starting, in one sentence.
    """
    chosen = arguments.read(argv)
    log.configure(chosen.log_level)
    models = repository.load(chosen)
    finished = asyncio.run(_run(chosen, models))
    if not finished:
        # A run that does not end holds its thread, and the interpreter would wait for it.
        logging.shutdown()
        os._exit(1)
    return 0


async def _run(chosen: settings.Settings, models: repository.Repository) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = await server.start(chosen, models, version=metadata.version("farthing"))
    ready = {
        "ready": True,
        "grpc_port": running.grpc_port,
        "metrics_port": running.metrics_port,
        "models": [
            {
                "name": model.manifest.name,
                "version": model.version,
                "variant": model.variant.name,
                "sha256": model.variant.sha256,
                "reason": model.why,
            }
            for model in models
        ],
    }
    log.info("ready", **ready)
    print(json.dumps(ready), flush=True)
    await stop.wait()
    log.info("draining", seconds=chosen.drain_s)
    finished = await running.drain(chosen.drain_s)
    log.info("stopped", finished=finished)
    return finished


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
