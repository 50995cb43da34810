"""Pure: a server's queue and bill in simulated time, by the server's own scheduler and ledger.

One replica: calls that come when they are due, its front end, which does one thing at a time, its
queue, and its runs. While all cores run the model, what the front end takes is missing there, so
the runs last longer by as much. The clock is a number that jumps from event to event. A fleet whose
callers choose a replica by chance is as many replicas by themselves, each with its share of the
calls, so that one of them tells what all do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import accumulate, count
from math import inf
from random import Random

from loadtests.observed import GOOD, LATE, Observed
from loadtests.plans.replica import Replica
from service import batching
from service.batching import Limits
from service.bill import BUSY, WASTE, Bill
from service.errors import InvalidInput, Overloaded
from service.latency import Latency
from service.ledger import Ledger, Ticket
from service.scheduler import Entry, Queue

_MODEL = ("model", "1", "")


@dataclass(frozen=True)
class Simulated:
    """What came of it.

    Attributes:
        seen: how the calls ended, as a generator would have seen it.
        bill: of the replica, until the last call was over, as its ledger would show it.
        cpu_s: that runs and front end took: a run that lost its core to the front end for a while
            lasted longer, and is charged for that, but did not take more.
    """

    seen: Observed
    bill: Bill
    cpu_s: float

    @property
    def used(self) -> float:
        """Share of the CPU time that was used, as the kernel would tell, 0 to 1."""
        paid = self.bill.paid_core_s
        return self.cpu_s / paid if paid else 0.0

    @property
    def in_time(self) -> float:
        """Share of the calls that were answered within the limit."""
        return self.seen.good / self.seen.offered if self.seen.offered else 1.0

    def part(self, share: float) -> Simulated:
        """So much of its calls, of quick and slow ones alike, and of its bill.

        Args:
            share: of all calls, 0 to 1.
        """
        if share == 1:
            return self
        bill, seen = self.bill, self.seen
        lines = {line: share * core_s for line, core_s in bill.lines.items()}
        left = Observed(share * seen.seconds, limit_s=seen.limit_s, shared=seen.shared)
        answers = [(partial(left.answered, took_s), n) for took_s, n in seen.latency.values()]
        failures = [
            (partial(left.failed, code), number) for code, number in seen.endings.items()
            if code not in (GOOD, LATE)
        ]  # fmt: skip
        passed = 0
        for count_one, number in (*answers, *failures):
            passed += number
            while left.offered < round(share * passed):
                count_one()
                left.offered += 1
        return Simulated(left, replace(
            bill, lines=lines, seconds=share * bill.seconds, paid_core_s=share * bill.paid_core_s,
        ), share * self.cpu_s)  # fmt: skip

    def __add__(self, other: Simulated) -> Simulated:
        """Both, one after the other."""
        seen = Observed(
            self.seen.seconds + other.seen.seconds, limit_s=self.seen.limit_s, shared=False
        )
        seen.merge(self.seen)
        seen.merge(other.seen)
        return Simulated(seen, self.bill + other.bill, self.cpu_s + other.cpu_s)


def simulate(
    replica: Replica, times: Sequence[float], *, seconds: float, limit_s: float, seed: int
) -> Simulated:
    """Let one replica answer these calls.

    Args:
        replica: it.
        times: seconds at which calls are due, ascending.
        seconds: the length of the schedule.
        limit_s: later answers are late; 0 for none.
        seed: of what its runs take.
    """
    return _Server(replica, Observed(seconds, limit_s=limit_s, shared=False), seed).run(times)


@dataclass(eq=False)
class _Call:
    """One request; its parts' shares of their runs are settled when it is over."""

    due: float
    parts: list[_Part] = field(default_factory=list)
    ran: int = 0
    over: bool = False
    shares: list[tuple[Ticket, int]] = field(default_factory=list)


@dataclass(eq=False)
class _Part(Entry):
    """What one run takes of a call."""

    call: _Call = field(kw_only=True)

    @property
    def left(self) -> bool:
        """Whether its call is over."""
        return self.call.over


@dataclass(eq=False)
class _Run:
    """A run that is under way; ``ends`` moves while the front end takes of its cores."""

    batch: list[_Part]
    rows: int
    ticket: Ticket
    begun: float
    ends: float
    expected: float
    over: bool = False


class _Server:
    """One replica while it is simulated."""

    def __init__(self, replica: Replica, seen: Observed, seed: int) -> None:
        self._replica, self._seen, self._chance = replica, seen, Random(seed)
        self._factors = [factor for factor, _ in replica.noise]
        self._often = list(accumulate(often for _, often in replica.noise))
        self._now = self._front_free = self._front_s = self._runs_s = 0.0
        self._ledger = Ledger(
            cores=replica.cores, clock=lambda: self._now, cpu=lambda: self._front_s
        )
        self._ledger.ready()
        self._latency = Latency()
        for rows, seconds in replica.runs:
            self._latency.observe(rows, seconds)
        limits = Limits(replica.max_rows, replica.queue_rows, instances=replica.instances)
        self._queue: Queue[_Part] = Queue(limits, self._latency)
        self._threads = max(1, round(replica.cores / replica.instances))
        self._runs: dict[_Run, None] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def run(self, times: Sequence[float]) -> Simulated:
        """Answer all calls."""
        way_s, coming = self._replica.way_s / 2, iter(times)
        due = next(coming, inf)
        while self._events or due < inf:
            if not self._events or due + way_s <= self._events[0][0]:
                self._now = due + way_s
                self._arrive(due)
                due = next(coming, inf)
            else:
                self._now, _, happens = heappop(self._events)
                happens()
        self._now = max(self._now, self._seen.seconds)
        return Simulated(self._seen, self._ledger.read(), self._runs_s + self._front_s)

    def _at(self, moment: float, happens: Callable[[], None]) -> None:
        heappush(self._events, (moment, next(self._numbers), happens))

    def _front(self, seconds: float) -> float:
        """Let the front end work so long, after what it has to do already; when it is done."""
        self._front_free = max(self._now, self._front_free) + seconds
        self._front_s += seconds
        runs = [run for run in self._runs if not run.over]
        threads = self._threads * len(runs)
        missing = max(0.0, min(1.0, threads + 1 - self._replica.cores))
        for run in runs:
            run.ends += seconds * missing / threads
        return self._front_free

    def _arrive(self, due: float) -> None:
        self._seen.offered += 1
        self._seen.sent(0.0)
        self._at(self._front(self._replica.serving_s / 2), partial(self._admit, due))

    def _admit(self, due: float) -> None:
        """Queue a request that was read, or refuse it."""
        now, replica, call = self._now, self._replica, _Call(due)
        deadline = due + replica.deadline_s
        whole = Entry({}, replica.rows, 0, 0, now, deadline)
        if whole.late(now):
            return self._fail(call, "DEADLINE_EXCEEDED")
        busy_until = [run.expected for run in self._runs]
        idle = replica.instances - len(self._runs)
        try:
            sure = self._queue.check(whole, now=now, idle=idle, busy_until=busy_until)
        except InvalidInput:
            return self._fail(call, "INVALID_ARGUMENT")
        except Overloaded:
            return self._fail(call, "RESOURCE_EXHAUSTED")
        for feeds, rows in batching.cut({}, replica.rows, replica.max_rows):
            first = not call.parts
            part = _Part(feeds, rows, 0, 0, now, deadline, first=first, sure=sure, call=call)
            call.parts.append(part)
            self._queue.put(part)
        return self._dispatch()

    def _dispatch(self) -> None:
        """Start runs while an instance is idle and rows wait."""
        while len(self._runs) < self._replica.instances and len(self._queue):
            batch, late = self._queue.take(self._now)
            for part in late:
                self._fail(part.call, "DEADLINE_EXCEEDED")
            if not batch:
                continue
            rows = sum(part.rows for part in batch)
            (factor,) = self._chance.choices(self._factors, cum_weights=self._often)
            run_s = self._replica.run_s(rows, factor)
            self._runs_s += run_s * min(self._threads, self._replica.cores)
            ticket, expected = Ticket(_MODEL, rows), self._now + self._latency(rows)
            run = _Run(batch, rows, ticket, self._now, self._now + run_s, expected)
            self._runs[run] = None
            self._ledger.begin(ticket, self._threads)
            self._at(run.ends, partial(self._ran, run))

    def _ran(self, run: _Run) -> None:
        """A run is over, unless it was slowed down; the front end hears of it in its turn."""
        if run.ends > self._now:
            self._at(run.ends, partial(self._ran, run))
            return
        run.over = True
        self._ledger.end(run.ticket)
        self._at(max(self._now, self._front_free), partial(self._answer, run))

    def _answer(self, run: _Run) -> None:
        """Begin the next run, then tell the callers of this one."""
        self._latency.observe(run.rows, self._now - run.begun)
        del self._runs[run]
        self._dispatch()
        for part in run.batch:
            call = part.call
            call.ran += 1
            call.shares.append((run.ticket, part.rows))
            if call.over:
                self._settle(call, WASTE)
            elif call.ran == len(call.parts):
                self._return(call)

    def _return(self, call: _Call) -> None:
        """Send an answer, for which its caller waits no longer than its deadline."""
        at = self._front(self._replica.serving_s / 2) + self._replica.way_s / 2
        if at - call.due > self._replica.deadline_s:
            return self._fail(call, "DEADLINE_EXCEEDED")
        self._seen.answered(at - call.due)
        return self._settle(call, BUSY)

    def _fail(self, call: _Call, code: str) -> None:
        if not call.over:
            self._seen.failed(code)
            for part in call.parts:
                self._queue.remove(part)
        self._settle(call, WASTE)

    def _settle(self, call: _Call, kind: str) -> None:
        call.over = True
        for ticket, rows in call.shares:
            self._ledger.settle(ticket, rows, kind)
        call.shares.clear()
