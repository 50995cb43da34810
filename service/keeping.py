"""The book of a server that begins: what its ledger counts, and who watches its GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from service import cputime, hardware, log, nvml
from service.bill import CORE, GPU, Price
from service.cuda import Gpu
from service.gpuwatch import Watch
from service.ledger import Ledger
from service.nvml import Card, NvmlFailed
from service.settings import Settings
from service.statistics import Book

Cards = Callable[[Sequence[tuple[int, str]]], Sequence[Card]]


def book(settings: Settings, gpus: Sequence[Gpu], cards: Cards = nvml.cards) -> Book:
    """Begin it: of GPU-seconds and their energy where there are GPUs, else of core-seconds.

    Args:
        settings: of the server.
        gpus: that it uses; empty on a CPU.
        cards: opens those of so many indices and uuids, to be watched.
    """
    watch, hourly = watching(gpus, cards), settings.price_usd_per_hour
    watch.start()
    ledger = Ledger(
        cores=float(len(gpus)) or hardware.cores(),
        clock=time.monotonic,
        cpu=_no_front_end if gpus else cputime.FrontEnd(),
        age_s=cputime.age_s(),
        price=Price(hourly, settings.price_id) if hourly else None,
        unit=GPU if gpus else CORE,
        energy=watch if watch.tells_energy else None,
    )
    return Book(target_s=settings.latency_target_ms / 1000, ledger=ledger, gpus=watch.seen)


def watching(gpus: Sequence[Gpu], cards: Cards = nvml.cards) -> Watch:
    """Who looks at them; of none, with a word in the log, where they cannot be looked at."""
    if not gpus:
        return Watch()
    try:
        return Watch(cards([(gpu.index, gpu.uuid) for gpu in gpus]))
    except NvmlFailed as error:
        log.warning("models run, but there are no figures of the GPUs", reason=str(error))
        return Watch()


def _no_front_end() -> float:
    """GPU-seconds that it takes."""
    return 0.0
