"""Rows of several callers in one run; each caller settled by itself. The only concurrency we write.

What it is. One queue per model, drained by a fixed number of ``instances``: slots on a thread pool,
each busy with one run or idle. Everything but the run happens on the event loop, so there is no
lock: a method runs to its next ``await`` undisturbed. A run that is shorter than the way to a
thread (``inplace``) happens there too, with no queue at all.

The rule. A batch is formed when an instance is free, never earlier: it takes the request that is
due first and whatever else fits behind it. Who would be late is refused on arrival, or dropped
before the run (``scheduler``). Under light load a request runs at once and alone; under heavy load
batches grow by themselves, because more is waiting. There is no window to tune, and no instance
idles while a row waits ("work-conserving"); on a GPU, which computes one run at a time, the next
batch is formed just before it is free (``overlap``). What is too large for a run waits as several
parts.

Prior art. mosec and Triton wait for a window to close; text-embeddings-inference prefetches one
batch and skips callers who left; Netflix' concurrency-limits end each permit exactly once. Taken:
skip the departed, settle once, refuse at the bound at once. Rejected: a window, since on an idle
server it only adds delay; one outcome for a whole batch, since a bad row then fails its neighbours
(a failing batch is run again, request by request); shrinking a batch to save a late head, which is
how servers collapse under overload.

What it cost. Here a caller gets his answer or not, so here it is decided which line of the ledger
pays for his rows: busy where he was answered before his deadline, else waste.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from service import batching
from service.account import Account
from service.batching import Answer, Arrays, Limits, Run
from service.bill import BUSY, NO_MODEL, WASTE
from service.callers import Part, Request, too_late, waited_too_long
from service.errors import Draining
from service.inplace import InPlace, Then
from service.instances import Instances, OnRun
from service.latency import Latency
from service.ledger import Ledger
from service.scheduler import Entry, Queue
from service.spans import Span


def _nothing(answer: Answer) -> None:
    """What is made of an answer by whoever only wants to have it."""


class Batcher:
    """Forms batches for one model and runs them; see the top of this file."""

    def __init__(
        self,
        run: Run,
        limits: Limits,
        *,
        executor: Executor,
        clock: Callable[[], float],
        on_run: OnRun | None = None,
        latency: Latency | None = None,
        cpu: Callable[[], float] = time.thread_time,
        account: Account | None = None,
    ) -> None:
        """Assign; nothing starts before the first ``submit``.

        Args:
            run: arrays in, arrays out; called on the executor's threads. ``batching.Stacking``
                where it reads rows in memory of its own.
            limits: how much to take on.
            executor: at least ``limits.instances`` threads that nobody else uses.
            clock: monotonic seconds, the same that deadlines are given in.
            on_run: told of each run, once.
            latency: what is known of its runs already; it goes on learning here.
            cpu: CPU seconds of the calling thread.
            account: pays for the runs; None for one that nobody reads.
        """
        self._limits, self._clock = limits, clock
        latency = latency or Latency()
        account = account or Account(Ledger(cores=1.0, clock=clock), NO_MODEL, threads=1)
        self._ledger = account.ledger
        self._queue: Queue[Part] = Queue(limits, latency)
        self._instances = Instances(
            run, self._queue, limits, executor=executor, clock=clock, latency=latency,
            account=account, on_run=on_run,
        )  # fmt: skip
        self._in_place = InPlace(
            partial(batching.run, run, batched=limits.batched, clock=clock), limits.in_place_rows,
            latency=latency, clock=clock, cpu=cpu, account=account, tell=self._instances.tell,
        )  # fmt: skip
        self._draining = False

    @property
    def max_request_rows(self) -> int:
        """Rows of one request, at most."""
        return self._limits.max_request_rows

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue now."""
        return self._queue.rows

    @property
    def waiting_bytes(self) -> int:
        """Bytes of tensors in the queue now."""
        return self._queue.nbytes

    @property
    def waiting_requests(self) -> int:
        """Requests in the queue now."""
        return self._queue.requests

    @property
    def running(self) -> int:
        """Instances that are busy now."""
        return self._limits.instances - self._instances.idle

    @property
    def wait_s(self) -> float:
        """Seconds until a newcomer of one row would be run, by what is expected of the runs."""
        instances = self._instances
        return self._queue.wait(
            now=self._clock(), idle=instances.free, busy_until=instances.busy_until
        )

    async def submit(
        self,
        feeds: Arrays,
        rows: int,
        deadline: float | None,
        *,
        nbytes: int = 0,
        priority: int = 0,
        then: Then = _nothing,
        span: Span | None = None,
    ) -> Answer:
        """Wait for this request's rows to be run; give up when its caller does.

        Args:
            feeds: input name -> array, with ``rows`` rows each.
            rows: at least 1.
            deadline: when the answer is worthless, on the batcher's clock; None if never.
            nbytes: what the request holds in memory while it waits.
            priority: 1 is the first; 0, or one that the model has not, for its default.
            then: what is made of the answer before it is known whether its rows ran for nothing:
                they did if this raises, or ends after the deadline.
            span: told of the runs of these rows; None if nobody follows this request.

        Raises:
            InvalidInput: more rows than ever run and wait together.
            Overloaded: the queue is full, or the deadline would pass.
            DeadlineExceeded: the deadline passed first, or the model's own limit of waiting.
            Draining: the server is going away.
            InferenceFailed: the model failed on these rows.
            asyncio.CancelledError: the caller left.
        """
        if self._instances.idle and not len(self._queue) and self._in_place.takes(rows):
            self._check_open(deadline)
            return self._in_place.run(feeds, rows, deadline, then, span)
        level = self._queue.level(priority)
        whole = Entry(feeds, rows, nbytes, level, self._clock(), deadline)
        request, timers = self._admit(whole, span)
        try:
            answer = await request.settled
            then(answer)
            good = deadline is None or self._clock() <= deadline
            answer.core_s = request.pay(self._ledger, BUSY if good else WASTE)
            return answer
        finally:
            for timer in timers:
                timer.cancel()
            self._forget(request)
            # An error that leaves holds this frame, and is held by the request: without this, such
            # a cycle would keep the tensors until the next full garbage collection.
            del request, whole, timers

    def expect(self, rows: int, deadline: float | None, priority: int = 0) -> None:
        """Refuse what ``submit`` would refuse for load or time, before anyone decodes it."""
        if self._instances.idle and not len(self._queue):
            self._check_open(deadline)
            return
        # Nobody has looked yet whether these are rows at all: too many are decoding's to refuse.
        if rows <= self._limits.max_request_rows:
            level = self._queue.level(priority)
            self._check(Entry({}, rows, 0, level, self._clock(), deadline))

    async def drain(self, timeout_s: float | None) -> bool:
        """Take no new work, and finish what was accepted, however long it takes if None is given.

        Returns:
            Whether all of it was finished in time; the callers of what was not are told so, but a
            run that is under way goes on until the process ends.
        """
        self._draining = True
        return await self._instances.finish(timeout_s)

    def _admit(self, whole: Entry, span: Span | None) -> tuple[Request, list[asyncio.TimerHandle]]:
        """Queue a request's parts; the timers, if any, end its waiting."""
        sure = self._check(whole)
        loop, limits = asyncio.get_running_loop(), self._limits
        timeout_s = limits.policy(whole.priority).timeout_s
        timers = []
        request = Request(loop.create_future(), span)
        if span is not None:
            self._instances.followed = True
        if whole.deadline is not None:
            left_s = whole.deadline - whole.arrived
            timers.append(loop.call_later(left_s, lambda: request.fail(too_late())))
        if timeout_s is not None:
            timers.append(loop.call_later(timeout_s, self._expire, request))
        pieces = batching.cut(whole.feeds, whole.rows, limits.max_rows)
        if len(pieces) > 1:  # the parts share their bytes, which are held until the last has run
            request.hold(self._queue, whole.nbytes)
        for feeds, rows in pieces:
            first, nbytes = not request.parts, 0 if len(pieces) > 1 else whole.nbytes
            # Once begun, it has not waited in vain.
            start_by = whole.arrived + timeout_s if timeout_s is not None and first else None
            part = Part(feeds, rows, nbytes, whole.priority, whole.arrived, whole.deadline,
                        start_by, first=first, sure=sure, request=request)  # fmt: skip
            request.parts.append(part)
            self._queue.put(part)
        self._instances.dispatch()
        return request, timers

    def _check(self, entry: Entry) -> bool:
        now, instances = self._check_open(entry.deadline), self._instances
        return self._queue.check(
            entry, now=now, idle=instances.idle, busy_until=instances.busy_until
        )

    def _check_open(self, deadline: float | None) -> float:
        """Refuse what no server could answer any more; the time."""
        now = self._clock()
        if self._draining:
            raise Draining()
        if deadline is not None and deadline <= now:
            raise too_late()
        return now

    def _expire(self, request: Request) -> None:
        if any(part.first and part.waiting for part in request.parts):
            request.fail(waited_too_long())
            self._forget(request)

    def _forget(self, request: Request) -> None:
        """Take what is left of a request that is over out of the queue, and off the ledger."""
        request.leave()
        request.pay(self._ledger, WASTE)  # nothing is left to pay for one that was answered
        request.hold(self._queue, -request.nbytes)
        for part in request.parts:
            self._queue.remove(part)
        request.let_go()
