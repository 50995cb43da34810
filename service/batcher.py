"""Rows of several callers in one run; each caller settled by itself. The only concurrency we write.

What it is. One queue per model, drained by a fixed number of *instances*: slots on a thread pool,
each busy with one run or idle. Everything but the run itself happens on the event loop, so there
is no lock: a method runs to its next ``await`` undisturbed.

The rule. A batch is formed at the moment an instance falls idle, never earlier: it takes the
oldest waiting request and whatever else fits behind it. Under light load a request runs at once and
alone; under heavy load batches grow by themselves, because more is waiting. There is no window to
tune, and no instance idles while a row waits ("work-conserving").

Prior art. mosec and Triton wait for a window to close; text-embeddings-inference prefetches one
batch and skips callers who left; Netflix' concurrency-limits end each permit exactly once. Taken:
skip the departed, settle once, refuse at the bound at once. Rejected: a window, since on an idle
server it only adds delay; one outcome for a whole batch, since a bad row then fails its
neighbours (a failing batch is run again, request by request); shrinking a batch to save a late
head, which is how servers collapse under overload.

Owners. ``submit``: its caller's waiting and deadline. ``_dispatch``: the queue. ``_run_batch``: one
instance, until its batch is settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from service import batching
from service.batching import Answer, Arrays, Limits, Run
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidInput,
    Overloaded,
    ServingError,
)


@dataclass(eq=False)
class _Entry:
    feeds: Arrays
    rows: int
    deadline: float | None
    arrived: float
    settled: asyncio.Future[Answer]
    waiting: bool = True
    shapes: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = batching.shapes(self.feeds)


class Batcher:
    """Forms batches for one model and runs them; see the top of this file."""

    def __init__(
        self, run: Run, limits: Limits, *, executor: Executor, clock: Callable[[], float]
    ) -> None:
        """Assign; nothing starts before the first ``submit``.

        Args:
            run: arrays in, arrays out; called on the executor's threads.
            limits: how much to take on.
            executor: at least ``limits.instances`` threads that nobody else uses.
            clock: monotonic seconds, the same that deadlines are given in.
        """
        self._run = run
        self._limits = limits
        self._executor = executor
        self._clock = clock
        self._waiting: deque[_Entry] = deque()
        self._waiting_rows = 0
        self._idle = limits.instances
        self._draining = False
        self._running: set[_Entry] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue now."""
        return self._waiting_rows

    @property
    def draining(self) -> bool:
        """Whether it takes no new work any more."""
        return self._draining

    @property
    def running(self) -> int:
        """Instances that are busy now."""
        return self._limits.instances - self._idle

    async def submit(self, feeds: Arrays, rows: int, deadline: float | None) -> Answer:
        """Wait for this request's rows to be run; give up when its caller does.

        Args:
            feeds: input name -> array, with ``rows`` rows each.
            rows: at least 1.
            deadline: when the answer is worthless, on the batcher's clock; None if never.

        Raises:
            InvalidInput: more rows than one run takes.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed first.
            Draining: the server is going away.
            InferenceFailed: the model failed on these rows.
            asyncio.CancelledError: the caller left.
        """
        entry = self._admit(feeds, rows, deadline)
        try:
            async with asyncio.timeout(self._remaining(deadline)):
                return await entry.settled
        except TimeoutError:
            raise _too_late() from None
        finally:
            self._forget(entry)

    async def drain(self, timeout_s: float) -> bool:
        """Take no new work, and finish what was accepted.

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
        for entry in (*self._waiting, *self._running):
            _fail(entry, Draining("the server shut down before this request was answered"))
        return finished

    def _admit(self, feeds: Arrays, rows: int, deadline: float | None) -> _Entry:
        limits = self._limits
        if self._draining:
            raise Draining("the server is shutting down; ask another")
        if rows > limits.max_rows and limits.batched:
            raise InvalidInput(
                f"the request has {rows} rows; the model runs at most {limits.max_rows} at a time"
            )
        remaining = self._remaining(deadline)
        if remaining is not None and remaining <= 0:
            raise _too_late()
        if not self._idle and self._waiting_rows + rows > limits.max_queue_rows:
            raise Overloaded(
                f"{self._waiting_rows} rows are waiting and the queue takes "
                f"{limits.max_queue_rows}; try again later",
                retry_after_ms=100,
            )
        settled = asyncio.get_running_loop().create_future()
        entry = _Entry(feeds, rows, deadline, self._clock(), settled)
        self._waiting.append(entry)
        self._waiting_rows += rows
        self._dispatch()
        return entry

    def _remaining(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._clock()

    def _forget(self, entry: _Entry) -> None:
        """Take an entry whose caller is gone out of the queue, if it is still there."""
        if not entry.settled.done():
            entry.settled.cancel()
        elif not entry.settled.cancelled():
            entry.settled.exception()  # read, so that asyncio does not report it as forgotten
        if entry.waiting:
            self._waiting.remove(entry)
            self._took_out(entry)

    def _dispatch(self) -> None:
        """Start runs while an instance is idle and rows wait."""
        while self._idle and (batch := self._next_batch()):
            self._idle -= 1
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)

    def _took_out(self, entry: _Entry) -> None:
        entry.waiting = False
        self._waiting_rows -= entry.rows

    def _next_batch(self) -> list[_Entry]:
        """The oldest live request and, in order, those behind it that fit into its run."""
        batch: list[_Entry] = []
        passed: deque[_Entry] = deque()
        rows = 0
        while self._waiting:
            entry = self._waiting.popleft()
            if entry.settled.done():
                self._took_out(entry)
            elif entry.deadline is not None and entry.deadline <= self._clock():
                self._took_out(entry)
                _fail(entry, _too_late())
            elif not batch or self._joins(entry, batch[0], rows):
                self._took_out(entry)
                batch.append(entry)
                rows += entry.rows
            else:
                passed.append(entry)
                if rows >= self._limits.max_rows:
                    break
        self._waiting.extendleft(reversed(passed))
        return batch

    def _joins(self, entry: _Entry, head: _Entry, rows: int) -> bool:
        fits = rows + entry.rows <= self._limits.max_rows
        return self._limits.batched and fits and entry.shapes == head.shapes

    async def _run_batch(self, batch: list[_Entry]) -> None:
        self._running.update(batch)
        try:
            await self._run_and_settle(batch)
        finally:
            self._running.difference_update(batch)
            for entry in batch:  # settled already, unless the executor is broken
                _fail(entry, InferenceFailed("the server could not run this request"))
            self._idle += 1
            self._dispatch()

    async def _run_and_settle(self, batch: Sequence[_Entry]) -> None:
        loop = asyncio.get_running_loop()
        started = self._clock()
        try:
            parts = await loop.run_in_executor(self._executor, self._run_rows, batch)
        except InferenceFailed as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for entry in batch:
                if not entry.settled.done():
                    await self._run_and_settle([entry])
            return
        run_s = self._clock() - started
        total = sum(entry.rows for entry in batch)
        for entry, outputs in zip(batch, parts, strict=True):
            if not entry.settled.done():
                entry.settled.set_result(
                    Answer(outputs, started - entry.arrived, 0.0, run_s, total)
                )

    def _run_rows(self, batch: Sequence[_Entry]) -> list[Arrays]:
        """One run; on an executor's thread.

        Raises:
            InferenceFailed: for whatever the model raises. Translated here, since a StopIteration
                cannot pass through a future.
        """
        try:
            if not self._limits.batched:
                return [self._run(batch[0].feeds)]
            return batching.run_together(
                self._run, [entry.feeds for entry in batch], [entry.rows for entry in batch]
            )
        except InferenceFailed:
            raise
        except Exception as error:
            raise InferenceFailed("the model failed on this input") from error


def _fail(entry: _Entry, error: ServingError) -> None:
    if not entry.settled.done():
        entry.settled.set_exception(error)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model could answer")
