"""Pure: who is admitted, who waits, and which rows run next; no clock, no thread, no event loop.

Earliest deadline first, within levels of priority. A request is admitted if it would be answered in
time behind those that are before it; when an instance falls free, the earliest run together, and a
head that cannot be answered in time any more is dropped: never is a batch made smaller to save it,
since that is how servers collapse under overload. All this rests on ``latency``, which errs on the
high side. A request without a deadline stands where one would that is due ``AGED_S`` after its
arrival, so that it neither holds up those in a hurry nor starves.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Generic, TypeVar

from service import batching
from service.batching import Arrays, Limits
from service.errors import InvalidInput, Overloaded
from service.latency import Latency

AGED_S = 1.0
# From an answer that is there to the caller who has it.
WAY_BACK_S = 0.002
# Of what an estimate says, a caller is sent away for this long at least.
_RETRY_AFTER_MS = 10

# Level of priority, time by which it should be done, and a number that no other has.
Order = tuple[int, float, int]


@dataclass(eq=False)
class Entry:
    """One request in the queue.

    Attributes:
        feeds: input name -> array, with ``rows`` rows each.
        rows: at least 1, and at most what one run takes; of a whole request, which is only checked,
            any number.
        nbytes: what it holds in memory while it waits.
        priority: 1 is the first to run; 0 where the model has no levels.
        arrived: when, in seconds.
        deadline: when the answer is worthless; None if never.
        start_by: when waiting any longer is refused by the model's queue policy; None if never.
        first: whether it stands for its request where requests are counted; of one that runs in
            parts, only the first does.
        sure: whether it is run whatever the estimate says, since it met an idle server.
    """

    feeds: Arrays
    rows: int
    nbytes: int
    priority: int
    arrived: float
    deadline: float | None = None
    start_by: float | None = None
    first: bool = True
    sure: bool = False
    waiting: bool = field(default=False, init=False)
    shapes: tuple[Any, ...] = field(init=False)
    order: Order = field(default=(0, 0.0, 0), init=False)

    def __post_init__(self) -> None:
        """Work out with whom it may share a run."""
        self.shapes = batching.shapes(self.feeds)

    @property
    def left(self) -> bool:
        """Whether its caller has gone."""
        return False

    @property
    def due(self) -> float:
        """When it should be done, of one without a deadline too."""
        return self.arrived + AGED_S if self.deadline is None else self.deadline

    def late(self, now: float) -> bool:
        """Whether there is no point in running it any more."""
        return any(end is not None and end <= now for end in (self.deadline, self.start_by))


E = TypeVar("E", bound=Entry)


class Queue(Generic[E]):
    """The requests that wait for one model."""

    def __init__(self, limits: Limits, latency: Latency) -> None:
        """Start empty.

        Args:
            limits: how much may wait.
            latency: what a run takes, by its rows.
        """
        self._limits = limits
        self._latency = latency
        self._waiting: list[E] = []
        self._number = 0
        self.rows = self.nbytes = self.requests = 0

    def __len__(self) -> int:
        """Entries that wait now; see ``requests``."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[E]:
        """The waiting, first to run first."""
        return iter(tuple(self._waiting))

    def level(self, priority: int) -> int:
        """The level that a caller's wish comes to: out of range is the default, as in Triton."""
        limits = self._limits
        return priority if 0 < priority <= limits.priority_levels else limits.default_priority

    def check(self, entry: Entry, *, now: float, idle: int, busy_until: Sequence[float]) -> bool:
        """Make sure that a request would be answered in time, and that there is room for it.

        Args:
            entry: not in the queue yet.
            now: seconds, on the clock of all other times.
            idle: instances without work. One of them takes the request at once, whatever the
                estimate says: an estimate that is too high could never fall otherwise.
            busy_until: when each of the other instances is expected to be free.

        Returns:
            Whether it met an idle server, so that it is to be run whatever the estimate says.

        Raises:
            InvalidInput: it has more rows than could ever run and wait.
            Overloaded: too much waits already, or its deadline would pass.
        """
        limits = self._limits
        if entry.rows > limits.max_request_rows and limits.batched:
            raise InvalidInput(
                f"the request has {entry.rows} rows; this server takes at most "
                f"{limits.max_request_rows} of this model at a time: send fewer, or have its "
                "--max-queue-rows raised"
            )
        # One that runs in parts waits even then.
        alone = bool(idle) and not self._waiting
        if not alone and self.rows + entry.rows > limits.max_queue_rows:
            raise _full(
                f"{self.rows} rows are waiting, the request has {entry.rows}, and the queue takes "
                f"{limits.max_queue_rows}",
                "rows",
            )
        waits = not alone or entry.rows > limits.max_rows
        if waits and self.nbytes + entry.nbytes > limits.max_queue_bytes:
            raise _full(
                f"{self.nbytes} bytes are waiting and the queue takes {limits.max_queue_bytes}",
                "bytes",
            )
        if alone:
            return True
        most = limits.policy(entry.priority).max_requests
        waiting = 0
        if most:
            waiting = sum(one.first and one.priority == entry.priority for one in self._waiting)
        if most and waiting >= most:
            raise _full(
                f"{waiting} requests are waiting and the model's queue takes {most}", "requests"
            )
        if entry.deadline is not None:
            ends = self._finish(entry, now, busy_until) + WAY_BACK_S
            if ends > entry.deadline:
                raise Overloaded(
                    "too much waits for an answer before the deadline; try again later",
                    reason="queue_time",
                    # By then as much of it is done as was too much.
                    retry_after_ms=max(_RETRY_AFTER_MS, ceil(1000 * (ends - entry.deadline))),
                )
        return False

    def wait(self, *, now: float, idle: int, busy_until: Sequence[float]) -> float:
        """Seconds until one row more, behind all that waits, would be run; any thread may ask.

        For the arguments see ``check``.
        """
        most = self._limits.max_rows
        free = sorted([now] * idle + [max(end, now) for end in busy_until]) or [now]
        turns, instance = divmod(self.rows // most, len(free))
        return free[instance] + turns * self._latency(most) - now

    def _finish(self, entry: Entry, now: float, busy_until: Sequence[float]) -> float:
        """When a request that stands in its place in the queue is expected to be answered."""
        most = self._limits.max_rows
        place = bisect_left(self._waiting, self._order(entry), key=lambda one: one.order)
        runs, rest = divmod(sum(one.rows for one in self._waiting[:place]), most)
        if rest and rest + entry.rows > most:  # it begins a run of its own
            runs, rest = runs + 1, 0
        more, last = divmod(rest + entry.rows, most)
        if more and not last:
            more, last = more - 1, most
        free = sorted(max(end, now) for end in busy_until) or [now]

        def starts(run: int) -> float:
            turns, instance = divmod(run, len(free))
            return free[instance] + turns * self._latency(most)

        ends = starts(runs + more) + self._latency(last)
        # With several instances, the full runs before the last may end after it.
        return max(ends, starts(runs + more - 1) + self._latency(most)) if more else ends

    def put(self, entry: E) -> None:
        """Let a request wait."""
        self._number += 1
        entry.order = self._order(entry)
        insort(self._waiting, entry, key=lambda one: one.order)
        entry.waiting = True
        self.rows += entry.rows
        self.nbytes += entry.nbytes
        self.requests += entry.first

    def _order(self, entry: Entry) -> Order:
        return entry.priority, entry.due, self._number

    def remove(self, entry: E) -> None:
        """Take a request out, wherever it stands; nothing happens if it waits no longer."""
        if entry.waiting:
            del self._waiting[bisect_left(self._waiting, entry.order, key=lambda one: one.order)]
            entry.waiting = False
            self.rows -= entry.rows
            self.nbytes -= entry.nbytes
            self.requests -= entry.first

    def take(self, now: float) -> tuple[list[E], list[E]]:
        """The next run, and those who are late; both leave the queue, and so do the departed.

        The last who waits is run whatever the estimate says, as one who meets an idle instance is.

        Returns:
            The requests of one run, empty if nobody waits; and those to be told that time is up.
        """
        late: list[E] = []
        for entry in self:  # at once, where many are lost; the rest is found out batch by batch
            if not self._lost(entry, now, entry.rows):
                break
            self.remove(entry)
            late.append(entry)
        while True:
            batch = self._first(now, late)
            rows = sum(one.rows for one in batch)
            head = min((one for one in batch if one.deadline is not None and not one.sure),
                       key=lambda one: one.due, default=None)  # fmt: skip
            if head is not None and self._lost(head, now, rows):
                self.remove(head)
                late.append(head)
                continue
            for one in batch:
                self.remove(one)
            return batch, late

    def _lost(self, entry: E, now: float, rows: int) -> bool:
        """Whether it would be late in a run of so many rows, if that began now."""
        if entry.deadline is None or entry.sure or len(self._waiting) == 1:
            return False
        return now + self._latency(rows) + WAY_BACK_S > entry.deadline

    def _first(self, now: float, late: list[E]) -> list[E]:
        """Those who would run together now; the departed and the late are taken out on the way."""
        batch: list[E] = []
        rows = 0
        for entry in self:
            if entry.left:
                self.remove(entry)
            elif entry.late(now):
                self.remove(entry)
                late.append(entry)
            elif not batch or self._joins(entry, batch[0], rows):
                batch.append(entry)
                rows += entry.rows
            if rows >= self._limits.max_rows or (batch and not self._limits.batched):
                break
        return batch

    def _joins(self, entry: E, head: E, rows: int) -> bool:
        fits = rows + entry.rows <= self._limits.max_rows
        return self._limits.batched and fits and entry.shapes == head.shapes


def _full(sentence: str, what: str) -> Overloaded:
    return Overloaded(f"{sentence}; try again later", reason=f"queue_{what}")
