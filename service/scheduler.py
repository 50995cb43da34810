"""Pure: who waits, who is refused, and which rows run next; no clock, no thread, no event loop.

Requests wait in the order of their priority, then of their arrival. A run takes the first of them
and whatever behind it shares its shapes and still fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service import batching
from service.batching import Arrays, Limits
from service.errors import InvalidInput, Overloaded

_RETRY_AFTER_MS = 100


@dataclass(eq=False)
class Entry:
    """One request in the queue.

    Attributes:
        feeds: input name -> array, with ``rows`` rows each.
        rows: at least 1.
        nbytes: what it holds in memory while it waits.
        priority: 1 is the first to run; 0 where the model has no levels.
        arrived: when, in seconds.
        deadline: when the answer is worthless; None if never.
        start_by: when waiting any longer is refused by the model's queue policy; None if never.
    """

    feeds: Arrays
    rows: int
    nbytes: int
    priority: int
    arrived: float
    deadline: float | None = None
    start_by: float | None = None
    waiting: bool = field(default=False, init=False)
    shapes: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Work out with whom it may share a run."""
        self.shapes = batching.shapes(self.feeds)

    @property
    def left(self) -> bool:
        """Whether its caller has gone."""
        return False

    def late(self, now: float) -> bool:
        """Whether there is no point in running it any more."""
        return any(end is not None and end <= now for end in (self.deadline, self.start_by))


E = TypeVar("E", bound=Entry)


class Queue(Generic[E]):
    """The requests that wait for one model."""

    def __init__(self, limits: Limits) -> None:
        """Start empty; ``limits`` say how much may wait."""
        self._limits = limits
        self._levels: dict[int, deque[E]] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0

    def __len__(self) -> int:
        """Requests that wait now."""
        return self.requests

    def __iter__(self) -> Iterator[E]:
        """The waiting, first to run first."""
        for priority in sorted(self._levels):
            yield from tuple(self._levels[priority])

    def level(self, priority: int) -> int:
        """The level that a caller's wish comes to: out of range is the default, as in Triton."""
        limits = self._limits
        return priority if 0 < priority <= limits.priority_levels else limits.default_priority

    def check(self, entry: E, *, idle: bool) -> None:
        """Make sure that a request may wait, or run at once on an idle instance.

        Raises:
            InvalidInput: it has more rows than one run takes.
            Overloaded: too much waits already.
        """
        limits = self._limits
        if entry.rows > limits.max_rows and limits.batched:
            raise InvalidInput(
                f"the request has {entry.rows} rows; the model runs at most {limits.max_rows} at "
                "a time: split it, or have the server's --max-batch raised"
            )
        if idle:  # nothing can be waiting then, and an idle server refuses nobody
            return
        if self.rows + entry.rows > limits.max_queue_rows:
            raise _full(
                f"{self.rows} rows are waiting and the queue takes {limits.max_queue_rows}", "rows"
            )
        if self.nbytes + entry.nbytes > limits.max_queue_bytes:
            raise _full(
                f"{self.nbytes} bytes are waiting and the queue takes {limits.max_queue_bytes}",
                "bytes",
            )
        most = limits.policy(entry.priority).max_requests
        waiting = len(self._levels.get(entry.priority, ()))
        if most and waiting >= most:
            raise _full(
                f"{waiting} requests are waiting and the model's queue takes {most}", "requests"
            )

    def put(self, entry: E) -> None:
        """Let a request wait."""
        self._levels.setdefault(entry.priority, deque()).append(entry)
        entry.waiting = True
        self.requests += 1
        self.rows += entry.rows
        self.nbytes += entry.nbytes

    def remove(self, entry: E) -> None:
        """Take a request out, wherever it stands; nothing happens if it waits no longer."""
        if entry.waiting:
            level = self._levels[entry.priority]
            level.remove(entry)
            if not level:
                del self._levels[entry.priority]
            entry.waiting = False
            self.requests -= 1
            self.rows -= entry.rows
            self.nbytes -= entry.nbytes

    def take(self, now: float) -> tuple[list[E], list[E]]:
        """The next run, and those who are late; both leave the queue, and so do the departed.

        Returns:
            The requests of one run, empty if nobody waits; and those to be told that time is up.
        """
        batch: list[E] = []
        late: list[E] = []
        rows = 0
        for entry in self:
            if entry.left:
                self.remove(entry)
            elif entry.late(now):
                self.remove(entry)
                late.append(entry)
            elif not batch or self._joins(entry, batch[0], rows):
                self.remove(entry)
                batch.append(entry)
                rows += entry.rows
            if rows >= self._limits.max_rows or (batch and not self._limits.batched):
                break
        return batch, late

    def _joins(self, entry: E, head: E, rows: int) -> bool:
        fits = rows + entry.rows <= self._limits.max_rows
        return self._limits.batched and fits and entry.shapes == head.shapes


def _full(sentence: str, what: str) -> Overloaded:
    return Overloaded(
        f"{sentence}; try again later", retry_after_ms=_RETRY_AFTER_MS, reason=f"queue_{what}"
    )
