"""Where the core-seconds of a process go, so that the lines of the bill add up at any moment.

The sum. ``busy + waste + warm_up + unsettled + serving + idle = cores x age of the process``. A run
of t seconds on k threads takes k x t; where more threads run than there are cores, all are scaled
down alike. ``serving`` is CPU that the front end's threads used, as somebody else reads it. What
nobody took is ``idle``.

How. A ``Ticket`` is one run: ``begin`` and ``end`` stand around it, on its thread, and ``settle``
says for how many of its rows which line pays: that is known only when their callers are told. The
front end's CPU is known for whole periods: when one is closed (at every ``read``, and once a second
while runs begin), runs and front end may claim more together than the cores had, since the one
slowed down the other; then the claims of that period are scaled to what is left. What is settled
before that, or held by a ticket that is still open, is kept apart until then (``_fresh``), and is
final afterwards. So a line never falls, and nothing is counted twice or lost, but for rounding.

What. On GPUs all is of GPU-seconds: ``cores`` is how many there are, a run takes one, the front end
none (``bill.Unit``). Energy goes to the lines of each period by their seconds, so it adds up too.

In a simulation. It knows no threads and no sockets: with a clock of simulated seconds, and
``cpu=lambda: serving_s`` for what the front end is to have used so far, ``begin``, ``end`` and
``settle`` at simulated times, then ``read``, give the bill that a server would have shown.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from service.bill import (
    CORE,
    IDLE,
    NO_MODEL,
    OF_MODELS,
    OF_PROCESS,
    SERVING,
    WARM_UP,
    Bill,
    Energy,
    Line,
    Price,
    Unit,
)
from service.figures import Labels
from service.metering import Meter
from service.tickets import Ticket

__all__ = ["PERIOD_S", "Ledger", "Ticket"]
PERIOD_S = 1.0
K = TypeVar("K")


class Ledger:
    """The core-seconds of one process; any thread may call it. See the top of this file.

    Attributes:
        unit: what is paid for by the second.
        price: what the process costs; None where that is not known.
        meter: of energy.
    """

    def __init__(
        self,
        *,
        cores: float,
        clock: Callable[[], float],
        cpu: Callable[[], float] = lambda: 0.0,
        age_s: float = 0.0,
        price: Price | None = None,
        unit: Unit = CORE,
        energy: Energy | None = None,
    ) -> None:
        """Begin the account.

        Args:
            cores: CPUs that this process may keep busy, in fractions by quota; or GPUs.
            clock: monotonic seconds.
            cpu: CPU seconds that the front end has used so far.
            age_s: of the process now; it was starting all that time.
            price: what it costs; None where that is not known.
            unit: what ``cores`` and all seconds are of.
            energy: that it draws; None where nobody tells.
        """
        self._cores, self._clock, self._cpu, self.price = cores, clock, cpu, price
        self.unit, self.meter = unit, Meter(energy, cores)
        self._lock = Lock()
        self._now = self._closed = clock()
        self._began = self._now - age_s
        self._front_s = cpu()  # of the front end, accounted for
        self._not_front_s = 0.0  # in what ``cpu`` says, of runs on the front end's threads
        self._ready = False
        self._threads = 0  # that run now
        # Of this period: seconds that one thread would have got, and core-seconds that all claim.
        self._turn, self._claimed = 0.0, 0.0
        self._tickets: dict[Ticket, None] = {}
        self._lines: dict[Line, float] = {(NO_MODEL, kind): 0.0 for kind in OF_PROCESS}
        self._lines[NO_MODEL, WARM_UP] = cores * age_s
        self._fresh: dict[Line, float] = {}

    def begin(self, ticket: Ticket, threads: int) -> None:
        """A run begins, or goes on, on so many threads; on 0 it takes nothing for a while."""
        with self._lock:
            self._advance()
            if ticket._threads:
                self._stop(ticket)
            self._tickets[ticket] = None
            ticket._threads, ticket._since = threads, self._turn
            self._threads += threads
            due = self._now - self._closed >= PERIOD_S
        if due:
            self.read()

    def end(self, ticket: Ticket, kind: str | None = None, *, front_s: float = 0.0) -> float:
        """A run ends, or pauses: it may begin again.

        Args:
            ticket: that has begun.
            kind: the line that pays for all of its rows, if that is known already.
            front_s: CPU seconds of it that ``cpu`` takes for the front end's.

        Returns:
            Core-seconds that were settled, as they are before the period is closed.
        """
        with self._lock:
            self._advance()
            self._stop(ticket)
            self._not_front_s += front_s
            return 0.0 if kind is None else self._settle(ticket, ticket._open_rows, kind)

    def settle(self, ticket: Ticket, rows: int, kind: str) -> float:
        """Let one line pay for so many rows, also for what is still to come of the run.

        Returns:
            Core-seconds that were settled, as they are before the period is closed.
        """
        with self._lock:
            if ticket._threads:
                self._advance()
                self._gain(ticket)
            return self._settle(ticket, rows, kind)

    def ready(self) -> None:
        """From now on what nobody takes is idle; until now the process was starting."""
        self.read()
        self._ready = True

    def know(self, labels: Labels) -> None:
        """Show the lines of a model from now on, though they may be zero."""
        with self._lock:
            for kind in OF_MODELS:
                self._lines.setdefault((labels, kind), 0.0)

    def usd(self, core_s: float) -> float | None:
        """What so many core-seconds cost; None where the price is not known."""
        if self.price is None:
            return None
        return self.price.usd_per_hour / 3600.0 / self._cores * core_s

    def read(self) -> Bill:
        """The bill as of now, which closes a period."""
        cpu_s, joules = self._cpu(), self.meter.read()  # before the lock: it takes a while
        with self._lock:
            self._close(cpu_s, joules)
            unsettled, unsettled_j = dict[Labels, float](), dict[Labels, float]()
            for ticket in self._tickets:
                _pay(unsettled, ticket.labels, ticket._final)
                _pay(unsettled_j, ticket.labels, ticket._joules)
            seconds = self._now - self._began
            hourly = self.price.usd_per_hour if self.price else None
            return Bill(
                lines=dict(self._lines),
                unsettled=unsettled,
                cores=self._cores,
                seconds=seconds,
                paid_core_s=self._cores * seconds,
                paid_usd=None if hourly is None else hourly * seconds / 3600.0,
                unit=self.unit,
                joules=dict(self.meter.lines),
                unsettled_j=unsettled_j,
                drawn_j=self.meter.drawn,
            )

    def _advance(self) -> None:
        now = self._clock()
        passed_s = now - self._now
        if passed_s <= 0.0:
            return
        self._now = now
        threads = self._threads
        if threads > self._cores:
            self._turn += passed_s * self._cores / threads
            self._claimed += passed_s * self._cores
        elif threads:
            self._turn += passed_s
            self._claimed += passed_s * threads

    def _stop(self, ticket: Ticket) -> None:
        self._gain(ticket)
        self._threads -= ticket._threads
        ticket._threads = 0
        if not ticket._open_rows:
            self._tickets.pop(ticket, None)  # gone already if it was settled while it took nothing

    def _gain(self, ticket: Ticket) -> None:
        """Give a run what it has taken since it was last looked at; settled rows pay at once."""
        core_s = ticket._threads * (self._turn - ticket._since)
        ticket._since = self._turn
        if ticket._fates is None:
            ticket._fresh += core_s
            return
        for kind, rows in ticket._fates.items():
            _pay(self._fresh, (ticket.labels, kind), core_s * rows / ticket.rows)
        ticket._fresh += core_s * ticket._open_rows / ticket.rows

    def _settle(self, ticket: Ticket, rows: int, kind: str) -> float:
        final, fresh, joules = ticket._final, ticket._fresh, ticket._joules
        left = ticket._open_rows - rows
        if left < 0:
            raise ValueError("more rows are settled than the run had")
        if left:
            share = rows / ticket._open_rows
            final, fresh, joules = final * share, fresh * share, joules * share
        ticket._open_rows = left
        ticket._final -= final
        ticket._fresh -= fresh
        ticket._joules -= joules
        if ticket._fates is None:
            ticket._fates = {kind: rows}
        else:
            ticket._fates[kind] = ticket._fates.get(kind, 0) + rows
        line = (ticket.labels, kind)
        _pay(self._fresh, line, fresh)
        if final:
            _pay(self._lines, line, final)
        self.meter.pay(line, joules)
        if not left and not ticket._threads:
            self._tickets.pop(ticket, None)  # it is not there if it never began
        return final + fresh

    def _close(self, cpu_s: float, joules: float) -> None:
        """End the period: all that it brought is final."""
        self._advance()
        had = self._cores * (self._now - self._closed)
        # What the front end's reader is ahead or behind is put right in the next period.
        used_s = cpu_s - self._not_front_s - self._front_s
        serving = min(max(used_s, 0.0), had)
        self._front_s += serving
        for ticket in self._tickets:
            if ticket._threads:
                self._gain(ticket)
                ticket._since = 0.0
        scale = 1.0
        if self._claimed > had - serving:
            scale = (had - serving) / self._claimed
        drawn = self.meter.each(joules, had)
        for ticket in self._tickets:
            ticket._final += scale * ticket._fresh
            ticket._joules += drawn * scale * ticket._fresh
            ticket._fresh = 0.0
        for line, core_s in self._fresh.items():
            self._finish(line, scale * core_s, drawn)
        self._fresh.clear()
        rest = max(0.0, had - serving - scale * self._claimed)
        self._finish((NO_MODEL, SERVING), serving, drawn)
        self._finish((NO_MODEL, IDLE if self._ready else WARM_UP), rest, drawn)
        self._closed, self._turn, self._claimed = self._now, 0.0, 0.0

    def _finish(self, line: Line, core_s: float, drawn: float) -> None:
        _pay(self._lines, line, core_s)
        self.meter.pay(line, drawn * core_s)


def _pay(lines: dict[K, float], line: K, amount: float) -> None:
    lines[line] = lines.get(line, 0.0) + amount
