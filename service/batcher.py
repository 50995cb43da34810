"""Rows of several callers in one run; each caller settled by itself. The only concurrency we write.

What it is. One queue per model, drained by a fixed number of *instances*: slots on a thread pool,
each busy with one run or idle. Everything but the run itself happens on the event loop, so there
is no lock: a method runs to its next ``await`` undisturbed.

The rule. A batch is formed at the moment an instance falls idle, never earlier: it takes the
request that is due first and whatever else fits behind it. Who would be late is refused when it
comes, or dropped before it runs (``scheduler``). Under light load a request runs at once and
alone; under heavy load batches grow by themselves, because more is waiting. There is no window to
tune, and no instance idles while a row waits ("work-conserving").

Prior art. mosec and Triton wait for a window to close; text-embeddings-inference prefetches one
batch and skips callers who left; Netflix' concurrency-limits end each permit exactly once. Taken:
skip the departed, settle once, refuse at the bound at once. Rejected: a window, since on an idle
server it only adds delay; one outcome for a whole batch, since a bad row then fails its
neighbours (a failing batch is run again, request by request); shrinking a batch to save a late
head, which is how servers collapse under overload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from service import batching
from service.batching import Answer, Arrays, Limits, Ran, Run
from service.errors import DeadlineExceeded, Draining, InferenceFailed, ServingError
from service.latency import Latency
from service.scheduler import Entry, Queue

OnRun = Callable[[int, float, float], None]


@dataclass(eq=False)
class _Caller(Entry):
    settled: asyncio.Future[Answer] = field(kw_only=True)

    @property
    def left(self) -> bool:
        return self.settled.done()


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
    ) -> None:
        """Assign; nothing starts before the first ``submit``.

        Args:
            run: arrays in, arrays out; called on the executor's threads.
            limits: how much to take on.
            executor: at least ``limits.instances`` threads that nobody else uses.
            clock: monotonic seconds, the same that deadlines are given in.
            on_run: told rows, seconds of assembly and seconds of running, once for each run.
            latency: what is known of its runs already; it goes on learning here.
        """
        self._run = run
        self._limits = limits
        self._executor = executor
        self._clock = clock
        self._on_run = on_run
        self._latency = latency or Latency()
        self._queue: Queue[_Caller] = Queue(limits, self._latency)
        self._busy_until: dict[int, float] = {}
        self._idle = limits.instances
        self._draining = False
        self._running: set[_Caller] = set()
        self._tasks: set[asyncio.Task[None]] = set()

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
        return len(self._queue)

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
            InvalidInput: more rows than one run takes.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed first, or the model's own limit of waiting.
            Draining: the server is going away.
            InferenceFailed: the model failed on these rows.
            asyncio.CancelledError: the caller left.
        """
        level = self._queue.level(priority)
        caller = _Caller(
            feeds,
            rows,
            nbytes,
            level,
            self._clock(),
            deadline,
            settled=asyncio.get_running_loop().create_future(),
        )
        timer = self._admit(caller)
        try:
            async with asyncio.timeout(self._remaining(deadline)):
                return await caller.settled
        except TimeoutError:
            raise _too_late() from None
        finally:
            if timer is not None:
                timer.cancel()
            self._forget(caller)

    def expect(self, rows: int, deadline: float | None, priority: int = 0) -> None:
        """Refuse what ``submit`` would refuse for load or time, before anyone decodes it."""
        # Nobody has looked yet whether these are rows at all: too many are decoding's to refuse.
        rows, level = min(rows, self._limits.max_rows), self._queue.level(priority)
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
        for caller in (*self._queue, *self._running):
            _fail(caller, Draining("the server shut down before this request was answered"))
        return finished

    def _admit(self, caller: _Caller) -> asyncio.TimerHandle | None:
        """Queue a request; the timer, if any, ends its waiting by the model's queue policy."""
        self._check(caller)
        timeout_s = self._limits.policy(caller.priority).timeout_s
        timer = None
        if timeout_s is not None:
            caller.start_by = caller.arrived + timeout_s
            timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, caller)
        self._queue.put(caller)
        self._dispatch()
        return timer

    def _check(self, entry: Entry) -> None:
        now, busy_until = self._clock(), tuple(self._busy_until.values())
        if self._draining:
            raise Draining()
        if entry.deadline is not None and entry.deadline <= now:
            raise _too_late()
        self._queue.check(entry, now=now, idle=self._idle, busy_until=busy_until)

    def _expire(self, caller: _Caller) -> None:
        if caller.waiting:
            self._queue.remove(caller)
            _fail(caller, _waited_too_long())

    def _remaining(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._clock()

    def _forget(self, caller: _Caller) -> None:
        """Take a request whose caller is gone out of the queue, if it is still there."""
        if not caller.settled.done():
            caller.settled.cancel()
        elif not caller.settled.cancelled():
            caller.settled.exception()  # read, so that asyncio does not report it as forgotten
        self._queue.remove(caller)

    def _dispatch(self) -> None:
        """Start runs while an instance is idle and rows wait."""
        while self._idle and len(self._queue):
            now = self._clock()
            batch, late = self._queue.take(now)
            for caller in late:
                waited = caller.start_by is not None and caller.start_by <= now
                _fail(caller, _waited_too_long() if waited else _too_late())
            if not batch:
                continue
            self._idle -= 1
            # Not only when the task begins: who comes before that must know of this run.
            rows = sum(caller.rows for caller in batch)
            self._busy_until[id(batch)] = now + self._latency(rows)
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, batch: list[_Caller]) -> None:
        self._running.update(batch)
        try:
            await self._run_and_settle(batch)
        finally:
            del self._busy_until[id(batch)]
            self._running.difference_update(batch)
            for caller in batch:  # settled already, unless the executor is broken
                _fail(caller, InferenceFailed("the server could not run this request"))
            self._idle += 1
            self._dispatch()

    async def _run_and_settle(self, batch: Sequence[_Caller]) -> None:
        loop = asyncio.get_running_loop()
        started = self._clock()
        try:
            ran = await loop.run_in_executor(self._executor, self._run_rows, batch)
        except InferenceFailed as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for caller in batch:
                if not caller.settled.done():
                    await self._run_and_settle([caller])
            return
        total = sum(caller.rows for caller in batch)
        self._latency.observe(total, self._clock() - started)
        if self._on_run is not None:
            self._on_run(total, ran.assembly_s, ran.run_s)
        for caller, outputs in zip(batch, ran.parts, strict=True):
            if not caller.settled.done():
                queued_s = started - caller.arrived
                caller.settled.set_result(
                    Answer(outputs, queued_s, ran.assembly_s, ran.run_s, total)
                )

    def _run_rows(self, batch: Sequence[_Caller]) -> Ran:
        """One run; on an executor's thread.

        Raises:
            InferenceFailed: for whatever the model raises. Translated here, since a StopIteration
                cannot pass through a future.
        """
        try:
            if not self._limits.batched:
                return batching.run_alone(self._run, batch[0].feeds, self._clock)
            feeds, counts = [c.feeds for c in batch], [c.rows for c in batch]
            return batching.run_together(self._run, feeds, counts, self._clock)
        except InferenceFailed:
            raise
        except Exception as error:
            raise InferenceFailed("the model failed on this input") from error


def _fail(caller: _Caller, error: ServingError) -> None:
    if not caller.settled.done():
        caller.settled.set_exception(error)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model could answer")


def _waited_too_long() -> DeadlineExceeded:
    return DeadlineExceeded("the request waited longer than the model's queue policy allows")
