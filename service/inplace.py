"""Which runs are over before another thread would have begun them, so that they run where they are.

A run on a thread costs two switches of threads, a future, and a turn of the event loop; for the
smallest models that is several times the run. What runs in place holds up the event loop, so it is
only for models whose shapes are known beforehand, and only while the runs stay short (batcher).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from statistics import median

from service.account import Account
from service.batching import Answer, Arrays, Ran
from service.bill import BUSY, WASTE
from service.latency import Latency
from service.ledger import Ticket
from service.spans import Joint, Span

Runs = Callable[[Sequence[Arrays], Sequence[int]], Ran]
Tell = Callable[[int, Ran, float, float], None]
# what is made of an answer
Then = Callable[[Answer], object]

_TIMES = 21
# As many runs tell a model that is far too large; the first does what later ones need not.
_GLANCE = 3
# Runs that hold up the event loop for longer go to a thread, whatever the warm-up said.
LONGEST_S = 0.005
# Of the others one of so many is learned from: learning takes a tenth of a small request.
_SAMPLED = 8


class InPlace:
    """The runs of one model that stay on the event loop, where all calls wait for them."""

    def __init__(
        self,
        run: Runs,
        most: int,
        *,
        latency: Latency,
        clock: Callable[[], float],
        cpu: Callable[[], float],
        account: Account,
        tell: Tell,
    ) -> None:
        """Start.

        Args:
            run: several callers' feeds and rows in, what came of them out.
            most: rows of the largest run that was found short enough, by ``rows``; 0 for none.
            latency: what runs take; it goes on learning here.
            clock: seconds.
            cpu: CPU seconds of the calling thread, which is one of the front end's.
            account: pays for the runs.
            tell: told rows, the run, the seconds that were expected and those that it took.
        """
        self._run, self._most, self._latency = run, most, latency
        self._clock, self._cpu, self._account, self._tell = clock, cpu, account, tell
        self._runs = 0

    def takes(self, rows: int) -> bool:
        """Whether a run of so many rows stays."""
        return rows <= self._most and self._latency(rows) < LONGEST_S

    def run(
        self,
        feeds: Arrays,
        rows: int,
        deadline: float | None,
        then: Then,
        span: Span | None = None,
    ) -> Answer:
        """Run one caller's rows here and now; for the arguments see ``Batcher.submit``.

        Raises:
            InferenceFailed: the model failed on them.
        """
        account, kind = self._account, WASTE
        ticket = account.ticket(rows)
        try:
            answer = self._charged(ticket, feeds, rows, span)
            then(answer)
            if deadline is None or self._clock() <= deadline:
                kind = BUSY
        finally:
            core_s = account.ledger.settle(ticket, rows, kind)
        answer.core_s = core_s
        return answer

    def _charged(self, ticket: Ticket, feeds: Arrays, rows: int, span: Span | None) -> Answer:
        account, ran = self._account, None
        started, cpu_s, expected_s = self._clock(), self._cpu(), self._latency(rows)
        account.ledger.begin(ticket, account.threads)
        try:
            ran = self._run([feeds], [rows])
        finally:
            took_s, used_s = self._clock() - started, self._cpu() - cpu_s
            account.ledger.end(ticket, front_s=used_s)
            # CPU, since whoever shares it may stall any run. Somebody has found out how to make
            # this model slow: it will not hold up all others a second time.
            if used_s >= LONGEST_S:
                self._most = 0
            self._runs += 1
            if took_s >= LONGEST_S or self._runs % _SAMPLED == 0:
                self._latency.observe(rows, took_s)
            if span is not None:
                span.ran(Joint(account.labels, 1, rows, took_s, ran), (span,))
        self._tell(rows, ran, expected_s, took_s)
        return Answer(ran.parts[0], 0.0, ran.assembly_s, ran.run_s, rows)


def hop_s(executor: Executor, clock: Callable[[], float]) -> float:
    """Seconds from an event loop to a thread of this executor and back, median."""

    async def measure() -> float:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(_TIMES):
            begun = clock()
            await loop.run_in_executor(executor, clock)
            times.append(clock() - begun)
        return median(times)

    with ThreadPoolExecutor(1) as aside:  # who calls this may have an event loop already
        return aside.submit(lambda: asyncio.run(measure())).result()


def rows(run: Callable[[int], None], most: int, limit_s: float, clock: Callable[[], float]) -> int:
    """Rows, a power of two, of the largest run that takes less than this; 0 if none does.

    Args:
        run: runs so many rows, once.
        most: rows of a full run.
        limit_s: seconds that a run may take, median.
        clock: seconds.
    """
    size, found = 1, 0
    while size <= most:
        times: list[float] = []
        while len(times) < _TIMES:
            begun = clock()
            run(size)
            times.append(clock() - begun)
            if len(times) >= _GLANCE and min(times) > limit_s:
                return found
        if median(times) > limit_s:
            return found
        size, found = 2 * size, size
    return found
