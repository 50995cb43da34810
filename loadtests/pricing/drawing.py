"""What an answer draws on a server with GPUs: at the rate that was found, and without calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from loadtests import energy
from loadtests.energy import Drawn
from loadtests.observed import Observed
from loadtests.pricing.scrape import Scrape

# Of each of both, a second or two more than is needed, since the server's own looks are behind.
WINDOW_S = energy.LEAST_S + 2.0
_SETTLE_S = 15.0
_NUMBER = 3000  # of its arrivals, which are its own


class Rig(Protocol):
    """What is needed of ``rig.Rig``."""

    def scraped(self) -> Scrape:
        """What the metrics tell now."""

    def run(
        self, rate: float, seconds: float, *, number: int, watch: Callable[[Observed], None]
    ) -> Observed:
        """One open loop."""

    def settle(self, most_s: float) -> None:
        """Wait until nothing is queued."""


def at(
    rate: float,
    rig: Rig,
    told: Callable[[str], None],
    *,
    rest: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Drawn | None:
    """Measure it, which takes half a minute; None at once where the servers tell of no energy.

    Args:
        rate: calls per second.
        rig: the running servers.
        told: what is being done.
        rest: lets time pass without calls.
        clock: monotonic seconds.
    """
    if not energy.tells(rig.scraped().gpus):
        return None
    rig.settle(_SETTLE_S)
    told(f"the GPUs without calls, for {WINDOW_S:g} s")
    quiet = rig.scraped().gpus
    rest(WINDOW_S)
    before, begun = rig.scraped().gpus, clock()
    what = f"the GPUs at {rate:.4g}/s, for {WINDOW_S:g} s"
    told(what)
    seen = rig.run(rate, WINDOW_S, number=_NUMBER, watch=lambda _: told(what))
    after, ended = rig.scraped().gpus, clock()
    return energy.drawn(
        (before, after),
        idle=energy.power(quiet, before),
        calls_per_s=rate,
        seconds=ended - begun,
        answers=seen.answers,
    )
