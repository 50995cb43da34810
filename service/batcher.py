"""Rows of several callers in one run; each caller settled by itself. The only concurrency we write.

What it is. One queue per model, drained by a fixed number of *instances*: slots on a thread pool,
each busy with one run or idle. Everything but the run happens on the event loop, so there is no
lock: a method runs to its next ``await`` undisturbed. A run that is shorter than the way to a
thread (``inplace``) happens there too, with no queue at all.

The rule. A batch is formed when an instance is free, never earlier: it takes the request that is
due first and whatever else fits behind it. Who would be late is refused on arrival, or dropped
before the run (``scheduler``). Under light load a request runs at once and alone; under heavy load
batches grow by themselves, because more is waiting. There is no window to tune, and no instance
idles while a row waits ("work-conserving"). What is too large for a run waits as several parts.

Prior art. mosec and Triton wait for a window to close; text-embeddings-inference prefetches one
batch and skips callers who left; Netflix' concurrency-limits end each permit exactly once. Taken:
skip the departed, settle once, refuse at the bound at once. Rejected: a window, since on an idle
server it only adds delay; one outcome for a whole batch, since a bad row then fails its neighbours
(a failing batch is run again, request by request); shrinking a batch to save a late head, which is
how servers collapse under overload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

from service import batching
from service.batching import Answer, Arrays, Limits, Ran, Run
from service.callers import Part, Request, too_late, waited_too_long
from service.errors import Draining, InferenceFailed
from service.inplace import InPlace
from service.latency import Latency
from service.scheduler import Entry, Queue

# rows; seconds of assembly, of the run, expected from taking the rows to answering, and taken
OnRun = Callable[[int, float, float, float, float], None]


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
    ) -> None:
        """Assign; nothing starts before the first ``submit``.

        Args:
            run: arrays in, arrays out; called on the executor's threads.
            limits: how much to take on.
            executor: at least ``limits.instances`` threads that nobody else uses.
            clock: monotonic seconds, the same that deadlines are given in.
            on_run: told of each run, once.
            latency: what is known of its runs already; it goes on learning here.
            cpu: CPU seconds of the calling thread.
        """
        self._run = partial(batching.run, run, batched=limits.batched, clock=clock)
        self._limits = limits
        self._executor = executor
        self._clock = clock
        self._on_run = on_run
        self._latency = latency or Latency()
        self._in_place = InPlace(
            self._run, limits.in_place_rows, latency=self._latency, clock=clock, cpu=cpu,
            tell=self._tell,
        )  # fmt: skip
        self._queue: Queue[Part] = Queue(limits, self._latency)
        self._busy_until: dict[int, float] = {}
        self._idle = limits.instances
        self._draining = False
        self._running: set[Part] = set()
        self._tasks: set[asyncio.Task[None]] = set()

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
        return self._limits.instances - self._idle

    async def submit(
        self,
        feeds: Arrays,
        rows: int,
        deadline: float | None,
        *,
        nbytes: int = 0,
        priority: int = 0,
    ) -> Answer:
        """Wait for this request's rows to be run; give up when its caller does.

        Args:
            feeds: input name -> array, with ``rows`` rows each.
            rows: at least 1.
            deadline: when the answer is worthless, on the batcher's clock; None if never.
            nbytes: what the request holds in memory while it waits.
            priority: 1 is the first; 0, or one that the model has not, for its default.

        Raises:
            InvalidInput: more rows than ever run and wait together.
            Overloaded: the queue is full, or the deadline would pass.
            DeadlineExceeded: the deadline passed first, or the model's own limit of waiting.
            Draining: the server is going away.
            InferenceFailed: the model failed on these rows.
            asyncio.CancelledError: the caller left.
        """
        if self._idle and not len(self._queue) and self._in_place.takes(rows):
            self._check_open(deadline)
            return self._in_place.run(feeds, rows)
        level = self._queue.level(priority)
        whole = Entry(feeds, rows, nbytes, level, self._clock(), deadline)
        request, timers = self._admit(whole)
        try:
            return await request.settled
        finally:
            for timer in timers:
                timer.cancel()
            self._forget(request)
            # An error that leaves holds this frame, and is held by the request: without this, such
            # a cycle would keep the tensors until the next full garbage collection.
            del request, whole, timers

    def expect(self, rows: int, deadline: float | None, priority: int = 0) -> None:
        """Refuse what ``submit`` would refuse for load or time, before anyone decodes it."""
        if self._idle and not len(self._queue):
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

    def _admit(self, whole: Entry) -> tuple[Request, list[asyncio.TimerHandle]]:
        """Queue a request's parts; the timers, if any, end its waiting."""
        sure = self._check(whole)
        loop, limits = asyncio.get_running_loop(), self._limits
        timeout_s = limits.policy(whole.priority).timeout_s
        timers = []
        request = Request(loop.create_future())
        if whole.deadline is not None:
            left_s = whole.deadline - whole.arrived
            timers.append(loop.call_later(left_s, lambda: request.fail(too_late())))
        if timeout_s is not None:
            timers.append(loop.call_later(timeout_s, self._expire, request))
        pieces = batching.cut(whole.feeds, whole.rows, limits.max_rows)
        if len(pieces) > 1:  # the parts share their bytes, which are held until the last has run
            self._hold(request, whole.nbytes)
        for feeds, rows in pieces:
            first, nbytes = not request.parts, 0 if len(pieces) > 1 else whole.nbytes
            # Once begun, it has not waited in vain.
            start_by = whole.arrived + timeout_s if timeout_s is not None and first else None
            part = Part(feeds, rows, nbytes, whole.priority, whole.arrived, whole.deadline,
                        start_by, first=first, sure=sure, request=request)  # fmt: skip
            request.parts.append(part)
            self._queue.put(part)
        self._dispatch()
        return request, timers

    def _check(self, entry: Entry) -> bool:
        now, busy_until = self._check_open(entry.deadline), tuple(self._busy_until.values())
        return self._queue.check(entry, now=now, idle=self._idle, busy_until=busy_until)

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

    def _hold(self, request: Request, nbytes: int) -> None:
        # Counted as waiting until the request is over.
        request.nbytes += nbytes
        self._queue.nbytes += nbytes

    def _forget(self, request: Request) -> None:
        """Take what is left of a request that is over out of the queue."""
        request.leave()
        self._hold(request, -request.nbytes)
        for part in request.parts:
            self._queue.remove(part)
        request.let_go()

    def _dispatch(self) -> None:
        """Start runs while an instance is idle and rows wait."""
        while self._idle and len(self._queue):
            now = self._clock()
            batch, late = self._queue.take(now)
            for part in late:
                part.fail_late(now)
            if not batch:
                continue
            self._idle -= 1
            # Not only when the task begins: who comes before that must know of this run.
            rows = sum(part.rows for part in batch)
            self._busy_until[id(batch)] = now + self._latency(rows)
            self._running.update(batch)
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, batch: list[Part]) -> None:
        try:
            if not await self._run_and_settle(batch):
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
            self._idle += 1
            self._dispatch()

    async def _run_and_settle(self, batch: Sequence[Part]) -> bool:
        """Run once; False if it failed and the callers are to be run one by one."""
        started = self._clock()
        feeds, counts = [part.feeds for part in batch], [part.rows for part in batch]
        total = sum(counts)
        expected_s = self._latency(total)
        loop = asyncio.get_running_loop()
        try:
            ran = await loop.run_in_executor(self._executor, self._run, feeds, counts)
        except InferenceFailed as error:
            if len(batch) > 1:
                return False
            # Its traceback holds this frame, which holds the tensors; the cause says what failed.
            batch[0].request.fail(error.with_traceback(None))
            return True
        ended = self._clock()
        self._latency.observe(total, ended - started)
        self._tell(total, ran, expected_s, ended - started)
        for part, outputs in zip(batch, ran.parts, strict=True):
            queued_s = started - part.arrived
            answer = Answer(outputs, queued_s, ran.assembly_s, ran.run_s, total)
            held = part.request.answer(part, answer, ended, self._limits.max_joined_bytes)
            self._hold(part.request, held)
        return True

    def _tell(self, rows: int, ran: Ran, expected_s: float, took_s: float) -> None:
        if self._on_run is not None:
            self._on_run(rows, ran.assembly_s, ran.run_s, expected_s, took_s)
