"""The instances of one model: slots on a thread pool, each busy with one run or idle.

Everything but the run itself happens on the event loop. A run that fails for several callers is run
again for each by himself, so that one bad row fails alone. What runs cost is the ledger's
(``ledger``): a run's rows are put on their requests' account when it begins, whoever still waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from math import inf

from service import batching
from service.account import Account
from service.batching import Answer, Arrays, Limits, Ran, Run, Stacking
from service.callers import Part
from service.errors import Draining, InferenceFailed
from service.fallen import GUARD
from service.latency import Latency
from service.ledger import Ticket
from service.overlap import Overlap, UnderWay
from service.scheduler import Queue
from service.spans import Joint

# rows; seconds of assembly, of the run, expected from taking the rows to answering, and taken
OnRun = Callable[[int, float, float, float, float], None]


class Instances:
    """Where batches run, at most so many at a time.

    Attributes:
        idle: instances without work.
        followed: whether any request so far had a span, so that all are to be looked at.
    """

    def __init__(
        self,
        run: Run,
        queue: Queue[Part],
        limits: Limits,
        *,
        executor: Executor,
        clock: Callable[[], float],
        latency: Latency,
        account: Account,
        on_run: OnRun | None,
    ) -> None:
        """Start with all of them idle; they take from the queue. For the others see ``Batcher``."""
        self._model, self._queue, self._limits = run, queue, limits
        self._stack = run.stack if isinstance(run, Stacking) else None
        self._executor, self._clock = executor, clock
        self._latency, self._account, self._on_run = latency, account, on_run
        self.idle, self.followed = limits.instances, False
        self._busy_until: dict[int, float] = {}
        self._running: set[Part] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._overlap = Overlap(limits.gpus, limits.max_rows) if limits.gpus else None
        self._opening: asyncio.TimerHandle | None = None

    @property
    def free(self) -> int:
        """Instances whose run would compute at once, and not behind another."""
        running, gpus = self._limits.instances - self.idle, self._limits.gpus
        return min(self.idle, max(0, gpus - running)) if gpus else self.idle

    @property
    def busy_until(self) -> tuple[float, ...]:
        """When each of those that are busy is expected to be free."""
        return tuple(self._busy_until.values())

    def dispatch(self) -> None:
        """Start runs while an instance is idle and rows wait."""
        while self.idle and len(self._queue):
            now = self._clock()
            if self._overlap is not None and self._too_early(self._overlap, now):
                return
            batch, late = self._queue.take(now)
            for part in late:
                part.fail_late(now)
            if not batch:
                continue
            self.idle -= 1
            # Not only when the task begins: who comes before that must know of this run.
            rows = sum(part.rows for part in batch)
            self._busy_until[id(batch)] = now + self._latency(rows)
            self._running.update(batch)
            run = None if self._overlap is None else self._overlap.begin(rows, now)
            task = asyncio.get_running_loop().create_task(self._run_batch(batch, run))
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_s: float | None) -> bool:
        """Wait until nothing waits or runs; when that takes too long, tell those who still wait.

        Args:
            timeout_s: None for as long as it takes.

        Returns:
            Whether all of it was finished in time.
        """
        finished = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            finished = False
        for part in (*self._queue, *self._running):
            part.request.fail(Draining("the server shut down before this request was answered"))
        return finished

    def charged(self, ticket: Ticket, feeds: Sequence[Arrays], counts: Sequence[int]) -> Ran:
        """Run on the calling thread and charge it: one thread stacks the rows, all run the model.

        Of a GPU, its own thread charges what it computes (``charging``), and nothing else is.

        Raises:
            InferenceFailed: the model failed.
        """
        account, model = self._account, self._model
        ledger, threads, beside = account.ledger, account.threads, account.beside

        def run(stacked: Arrays) -> Arrays:
            ledger.begin(ticket, threads)
            try:
                return model(stacked)
            finally:
                ledger.begin(ticket, beside)

        ledger.begin(ticket, beside)
        try:
            batched, clock = self._limits.batched, self._clock
            with account.paying(ticket):
                return batching.run(
                    run, feeds, counts, batched=batched, clock=clock, stack=self._stack
                )
        except InferenceFailed as error:
            GUARD.heard(error.__cause__ or error)
            raise
        finally:
            ledger.end(ticket)

    def tell(self, rows: int, ran: Ran, expected_s: float, took_s: float) -> None:
        """Tell whoever counts runs of one."""
        if self._on_run is not None:
            self._on_run(rows, ran.assembly_s, ran.run_s, expected_s, took_s)

    def _too_early(self, overlap: Overlap, now: float) -> bool:
        """Whether what waits may still grow; if so, it is looked at again in time."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        opens = overlap.opens(self._queue.rows, now)
        if now < opens < inf:
            loop = asyncio.get_running_loop()
            self._opening = loop.call_later(opens - now, self.dispatch)
        return now < opens

    async def _run_batch(self, batch: list[Part], run: UnderWay | None) -> None:
        try:
            if not await self._run_and_settle(batch, run):
                # One bad row fails alone. Who comes meanwhile must know how long that takes.
                again = [part for part in batch if not part.left]
                took_s = sum(self._latency(part.rows) for part in again)
                self._busy_until[id(batch)] = self._clock() + took_s
                for part in again:
                    if not part.left:
                        await self._run_and_settle([part])
        finally:
            del self._busy_until[id(batch)]
            self._running.difference_update(batch)
            for part in batch:  # settled already, unless the executor is broken
                part.request.lose(part, InferenceFailed("the server could not run this request"))
            self.idle += 1
            if self._overlap is not None and run is not None:
                self._overlap.end(run, self._clock())
            self.dispatch()

    async def _run_and_settle(self, batch: Sequence[Part], run: UnderWay | None = None) -> bool:
        """Run once; False if it failed and the callers are to be run one by one."""
        started = self._clock()
        feeds, counts = [part.feeds for part in batch], [part.rows for part in batch]
        total = sum(counts)
        expected_s = self._latency(total)
        ticket = self._account.ticket(total)
        for part in batch:
            part.request.charge(self._account.ledger, ticket, part.rows)
        loop = asyncio.get_running_loop()
        try:
            ran = await loop.run_in_executor(self._executor, self.charged, ticket, feeds, counts)
        except InferenceFailed as error:
            if self.followed:
                self._tell_spans(batch, total, started)
            if len(batch) > 1:
                for part in batch:  # each runs again, and pays for that alone
                    part.request.write_off(self._account.ledger, ticket)
                return False
            # Its traceback holds this frame, which holds the tensors; the cause says what failed.
            batch[0].request.fail(error.with_traceback(None))
            return True
        ended = self._clock()
        if run is not None:
            run.run_s = ran.run_s
        self._latency.observe(total, ended - started)
        self.tell(total, ran, expected_s, ended - started)
        if self.followed:
            self._tell_spans(batch, total, started, ran)
        for part, outputs in zip(batch, ran.parts, strict=True):
            queued_s = started - part.arrived
            answer = Answer(outputs, queued_s, ran.assembly_s, ran.run_s, total)
            held = part.request.answer(part, answer, ended, self._limits.max_joined_bytes)
            part.request.hold(self._queue, held)
        return True

    def _tell_spans(
        self, batch: Sequence[Part], rows: int, started: float, ran: Ran | None = None
    ) -> None:
        """Tell the spans of a run's requests of it, if it has any; of one that failed, no times."""
        spans = [part.request.span for part in batch if part.request.span is not None]
        if spans:
            took_s, labels = self._clock() - started, self._account.labels
            spans[0].ran(Joint(labels, len(batch), rows, took_s, ran), spans)
