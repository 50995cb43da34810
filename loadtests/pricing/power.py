"""What a server's GPUs draw while somebody else loads it, looked at once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from loadtests import energy
from loadtests.energy import Drawn
from loadtests.pricing.scrape import Scrape
from service.errors import InvalidSetting

_EVERY_S = 1.0
Look = tuple[float, Scrape]


class Meanwhile:
    """Looks on a thread of its own while the context lasts.

    Attributes:
        looks: when, and what was told, in order.
    """

    def __init__(
        self, scraped: Callable[[], Scrape], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Look once, so that metrics that do not answer are told before the load.

        Raises:
            InvalidSetting: they do not.
        """
        self._scraped, self._clock, self._over = scraped, clock, threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="scraping", daemon=True)
        self.looks: list[Look] = [(clock(), scraped())]

    def __enter__(self) -> Meanwhile:
        # Nobody needs more of a server that tells no energy.
        if energy.tells(self.looks[0][1].gpus):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                scrape = self._scraped()
            except InvalidSetting:  # a scrape may fail; the counters go on
                continue
            self.looks.append((self._clock(), scrape))


def drawn(looks: Sequence[Look], warmup_s: float) -> Drawn | None:
    """What answers took while they came; None where that is not told, or too brief to say.

    Args:
        looks: in order; the generator's start and end, without answers, are left out.
        warmup_s: after the first answers, left out too.
    """
    counts = [scrape.answered for _, scrape in looks]
    grew = [at for at in range(1, len(looks)) if counts[at] > counts[at - 1]]
    if not grew:
        return None
    begins = looks[grew[0]][0] + warmup_s
    # In its first second and its last there were not answers all the time.
    within = [at for at in range(grew[0], grew[-1]) if looks[at][0] >= begins]
    if not within:
        return None
    (begun, before), (ended, after) = looks[within[0]], looks[within[-1]]
    seconds, answers = ended - begun, after.answered - before.answered
    if after.anew(before) or seconds < energy.LEAST_S:
        return None
    return energy.drawn(
        (before.gpus, after.gpus), idle=None, calls_per_s=answers / seconds, seconds=seconds,
        answers=answers,
    )  # fmt: skip
