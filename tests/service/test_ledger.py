"""Whatever runs, ends and is settled in whatever order: the lines add up, and none ever falls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.account import told_of
from service.bill import BUSY, GPU, IDLE, NO_MODEL, SERVING, WARM_UP, WASTE, Bill, Line, Price
from service.figures import Labels
from service.ledger import PERIOD_S, Ledger, Ticket
from tests.fakes import ManualClock

LABELS = (("a", "1", "fp32"), ("a", "2", "int8"), ("b", "1", "fp32"))
KINDS = (BUSY, WASTE, WARM_UP)
CLOSE = pytest.approx


@dataclass
class Known:
    """What the oracle remembers of a ticket: one fate and one sum for each row."""

    labels: Labels
    threads: int = 0
    fates: list[str | None] = field(default_factory=list)
    core_s: list[float] = field(default_factory=list)
    period: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)


class Oracle:
    """The same account kept the slow way: each row by itself, integrated step by step."""

    def __init__(self, cores: float, age_s: float) -> None:
        self.cores, self.ready = cores, False
        self.own = {SERVING: 0.0, IDLE: 0.0, WARM_UP: cores * age_s}
        self.own_j = dict.fromkeys(self.own, 0.0)
        self.tickets: list[Known] = []
        self.had = self.counted_j = 0.0

    def pass_time(self, seconds: float) -> None:
        running = [ticket for ticket in self.tickets if ticket.threads]
        wanted = sum(ticket.threads for ticket in running)
        for ticket in running:
            got = ticket.threads * seconds * min(1.0, self.cores / wanted)
            ticket.period = [held + got / len(ticket.period) for held in ticket.period]
        self.had += self.cores * seconds

    def settle(self, ticket: Known, rows: int, kind: str) -> None:
        undecided = [at for at, fate in enumerate(ticket.fates) if fate is None]
        for at in undecided[:rows]:
            ticket.fates[at] = kind

    def close(self, front_s: float, joules: float = 0.0) -> None:
        """End a period; ``front_s`` is what the front end has used in all, and so is energy."""
        serving = min(max(front_s - self.own[SERVING], 0.0), self.had)
        claimed = sum(sum(ticket.period) for ticket in self.tickets)
        scale = min(1.0, (self.had - serving) / claimed) if claimed else 1.0
        each_j = (joules - self.counted_j) / self.had if self.had else 0.0
        self.counted_j = joules if self.had else self.counted_j
        for ticket in self.tickets:
            pairs = zip(ticket.joules, ticket.period, strict=True)
            ticket.joules = [before + scale * each_j * held for before, held in pairs]
            pairs = zip(ticket.core_s, ticket.period, strict=True)
            ticket.core_s = [before + scale * held for before, held in pairs]
            ticket.period = [0.0] * len(ticket.period)
        self.own[SERVING] += serving
        rest, kind = self.had - serving - scale * claimed, IDLE if self.ready else WARM_UP
        self.own[kind] += rest
        self.own_j[SERVING] += each_j * serving
        self.own_j[kind] += each_j * rest
        self.had = 0.0

    def lines(self) -> dict[Line, float]:
        found: dict[Line, float] = defaultdict(float)
        for kind, core_s in self.own.items():
            found[NO_MODEL, kind] = core_s
        for ticket in self.tickets:
            for fate, core_s in zip(ticket.fates, ticket.core_s, strict=True):
                if fate is not None:
                    found[ticket.labels, fate] += core_s
        return dict(found)

    def joules(self) -> dict[Line, float]:
        found: dict[Line, float] = defaultdict(float)
        for kind, joules in self.own_j.items():
            found[NO_MODEL, kind] = joules
        for ticket in self.tickets:
            for fate, joules in zip(ticket.fates, ticket.joules, strict=True):
                if fate is not None:
                    found[ticket.labels, fate] += joules
        return dict(found)

    def unsettled(self) -> float:
        return sum(
            core_s
            for ticket in self.tickets
            for fate, core_s in zip(ticket.fates, ticket.core_s, strict=True)
            if fate is None
        )


@dataclass(frozen=True)
class New:
    labels: int
    rows: int
    threads: int


@dataclass(frozen=True)
class Do:
    """To the ticket of this number, modulo how many there are."""

    what: str
    number: int
    rows: int = 0
    kind: str = BUSY
    threads: int = 1
    front_s: float = 0.0


NUMBER, KIND = st.integers(0, 30), st.sampled_from(KINDS)
SECONDS = st.floats(1e-6, 3.0) | st.sampled_from([0.0, 1e-6, 0.01, 1.0])
STEPS = st.lists(
    st.one_of(
        st.builds(New, st.integers(0, 2), st.integers(1, 4), st.integers(0, 5)),
        st.builds(Do, st.sampled_from(["begin"]), NUMBER, threads=st.integers(0, 5)),
        st.builds(Do, st.just("end"), NUMBER, front_s=st.floats(0.0, 0.5)),
        st.builds(Do, st.just("finish"), NUMBER, kind=KIND, front_s=st.just(0.0)),
        st.builds(Do, st.just("settle"), NUMBER, st.integers(1, 4), KIND),
        st.tuples(st.just("time"), SECONDS),
        st.tuples(st.just("time"), SECONDS),
        st.tuples(st.just("front"), st.floats(-0.1, 4.0)),  # a reader may be behind for a while
        st.tuples(st.just("draw"), st.floats(0.0, 900.0)),
        st.just("read"),
        st.just("ready"),
    ),
    min_size=5,
    max_size=60,
)


@dataclass(frozen=True)
class Drawn:
    """``bill.Energy``: what a test says."""

    told: Callable[[], float]
    power_w: float | None = None

    def joules(self) -> float:
        return self.told()

    def watts(self) -> float | None:
        return self.power_w


class Play:
    """One sequence of steps on a ledger, and on the oracle beside it."""

    def __init__(self, cores: float, age_s: float) -> None:
        self.clock, self.front_s, self.not_front_s = ManualClock(), 0.0, 0.0
        self.drawn_j = 0.0
        self.ledger = Ledger(
            cores=cores, clock=self.clock, cpu=lambda: self.front_s, age_s=age_s,
            price=Price(3.6, "book"), energy=Drawn(lambda: self.drawn_j),
        )  # fmt: skip
        self.oracle = Oracle(cores, age_s)
        self.began, self.closed = self.clock.now - age_s, self.clock.now
        self.tickets: list[Ticket] = []
        self.before: Bill = self.ledger.read()

    def step(self, step: Any) -> None:
        match step:
            case New(labels, rows, threads):
                self.tickets.append(Ticket(LABELS[labels], rows))
                nothing = [0.0] * rows
                known = Known(LABELS[labels], 0, [None] * rows, nothing, nothing, nothing)
                self.oracle.tickets.append(known)
                self.begin(self.tickets[-1], known, threads)
            case Do() if self.tickets:
                at = step.number % len(self.tickets)
                self.do(step, self.tickets[at], self.oracle.tickets[at])
            case ("time", seconds):
                self.clock.advance(seconds)
                self.oracle.pass_time(seconds)
            case ("front", seconds):
                self.front_s += seconds
            case ("draw", joules):
                self.drawn_j += joules
            case "read":
                self.read()
            case "ready":
                self.close()
                self.ledger.ready()
                self.oracle.ready = True

    def do(self, step: Do, ticket: Ticket, known: Known) -> None:
        undecided = known.fates.count(None)
        if step.what == "begin":
            self.begin(ticket, known, step.threads)
        elif step.what == "settle":
            rows = min(step.rows, undecided)
            self.ledger.settle(ticket, rows, step.kind)
            self.oracle.settle(known, rows, step.kind)
        elif known.threads:
            kind = step.kind if step.what == "finish" else None
            self.ledger.end(ticket, kind, front_s=step.front_s)
            known.threads = 0
            self.not_front_s += step.front_s
            if kind:
                self.oracle.settle(known, undecided, kind)

    def begin(self, ticket: Ticket, known: Known, threads: int) -> None:
        self.ledger.begin(ticket, threads)
        known.threads = threads
        if self.clock.now - self.closed >= PERIOD_S:
            self.close()

    def close(self) -> None:
        self.oracle.close(self.front_s - self.not_front_s, self.drawn_j)
        self.closed = self.clock.now

    def read(self) -> None:
        bill = self.ledger.read()
        self.close()
        self.check(bill)
        self.before = bill

    def check(self, bill: Bill) -> None:
        expected = {line: core_s for line, core_s in self.oracle.lines().items() if core_s}
        shown = {line: core_s for line, core_s in bill.lines.items() if core_s}
        for line in expected | shown:
            assert shown.get(line, 0.0) == CLOSE(expected.get(line, 0.0), rel=1e-6, abs=1e-9), line
        assert sum(bill.unsettled.values()) == CLOSE(self.oracle.unsettled(), rel=1e-6, abs=1e-9)
        assert bill.seconds == CLOSE(self.clock.now - self.began)
        assert bill.accounted_core_s == CLOSE(bill.paid_core_s, rel=1e-9, abs=1e-9)
        assert bill.paid_usd == CLOSE(bill.seconds / 1000.0)
        for line, core_s in self.before.lines.items():
            assert bill.lines[line] >= core_s, f"{line} fell"
        assert min([*bill.lines.values(), *bill.unsettled.values()]) >= -1e-12
        self.check_energy(bill)

    def check_energy(self, bill: Bill) -> None:
        expected = {line: joules for line, joules in self.oracle.joules().items() if joules}
        for line in expected | dict(bill.joules):
            told = bill.joules.get(line, 0.0)
            assert told == CLOSE(expected.get(line, 0.0), rel=1e-6, abs=1e-6), line
            assert told >= self.before.joules.get(line, 0.0), f"the energy of {line} fell"
        told = sum(bill.joules.values()) + sum(bill.unsettled_j.values())
        assert told == CLOSE(bill.drawn_j, rel=1e-9, abs=1e-6)
        assert bill.drawn_j == CLOSE(self.oracle.counted_j)

    def finish(self) -> None:
        """End and settle all that is left."""
        for ticket, known in zip(self.tickets, self.oracle.tickets, strict=True):
            self.do(Do("settle", 0, len(known.fates), WASTE), ticket, known)
            self.do(Do("end", 0), ticket, known)
        self.read()


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, cores=st.sampled_from([0.5, 1.0, 2.0, 3.5]), age_s=st.sampled_from([0.0, 2.0]))
def test_ledger_agrees_with_an_account_of_each_row_kept_step_by_step(
    steps: list[Any], cores: float, age_s: float
) -> None:
    play = Play(cores, age_s)
    for step in steps:
        play.step(step)
    play.read()
    play.finish()
    assert play.before.unsettled == {}, "something stays unsettled for ever"


class Desk:
    """A ledger of two cores that is ready, with a manual clock."""

    def __init__(self, cores: float = 2.0, age_s: float = 0.0) -> None:
        self.clock, self.front_s = ManualClock(), 0.0
        self.ledger = Ledger(
            cores=cores, clock=self.clock, cpu=lambda: self.front_s, age_s=age_s,
            price=Price(7.2, "book"),
        )  # fmt: skip
        self.ledger.ready()

    def began(self, threads: int, rows: int = 1, labels: Labels = LABELS[0]) -> Ticket:
        ticket = Ticket(labels, rows)
        self.ledger.begin(ticket, threads)
        return ticket

    def line(self, kind: str, labels: Labels = LABELS[0]) -> float:
        return self.ledger.read().lines.get((labels, kind), 0.0)

    def idle(self) -> float:
        return self.line(IDLE, NO_MODEL)


def test_run_costs_its_threads_times_its_seconds_and_the_rest_is_idle() -> None:
    desk = Desk(cores=4.0)
    ticket = desk.began(3)
    desk.clock.advance(2.0)
    desk.ledger.end(ticket, BUSY)
    assert (desk.line(BUSY), desk.idle()) == (6.0, 2.0)


def test_runs_that_oversubscribe_the_cores_share_them_by_their_threads() -> None:
    desk = Desk()
    wide, narrow = desk.began(3), desk.began(1, labels=LABELS[1])
    desk.clock.advance(0.5)
    desk.ledger.end(wide, BUSY)
    desk.ledger.end(narrow, BUSY)
    assert (desk.line(BUSY), desk.line(BUSY, LABELS[1])) == (0.75, 0.25)
    assert desk.idle() == 0.0


def test_rows_share_a_run_and_each_pays_from_its_own_line() -> None:
    desk = Desk()
    ticket = desk.began(2, rows=4)
    desk.clock.advance(1.0)
    desk.ledger.end(ticket)
    assert desk.ledger.read().unsettled == {LABELS[0]: 2.0}
    assert desk.ledger.settle(ticket, 3, BUSY) == 1.5
    assert desk.ledger.settle(ticket, 1, WASTE) == 0.5
    assert (desk.line(BUSY), desk.line(WASTE)) == (1.5, 0.5)
    assert desk.ledger.read().unsettled == {}


def test_row_that_nobody_waits_for_pays_until_its_run_has_ended() -> None:
    desk = Desk()
    ticket = desk.began(1, rows=2)
    desk.clock.advance(1.0)
    desk.ledger.settle(ticket, 1, WASTE)
    desk.clock.advance(3.0)
    desk.ledger.end(ticket, BUSY)
    assert (desk.line(WASTE), desk.line(BUSY)) == (2.0, 2.0)


def test_front_end_pays_for_itself_and_what_it_took_from_the_runs_is_not_theirs() -> None:
    desk = Desk()
    ticket = desk.began(2)
    desk.clock.advance(1.0)
    desk.front_s += 0.5
    desk.ledger.end(ticket, BUSY)
    assert desk.line(SERVING, NO_MODEL) == 0.5
    assert (desk.line(BUSY), desk.idle()) == (1.5, 0.0)


def test_run_on_the_front_ends_own_thread_is_not_paid_twice() -> None:
    desk = Desk()
    ticket = desk.began(1)
    desk.clock.advance(0.5)
    desk.front_s += 0.75  # the run, and what came before it
    desk.ledger.end(ticket, BUSY, front_s=0.5)
    desk.clock.advance(0.5)
    assert (desk.line(BUSY), desk.line(SERVING, NO_MODEL), desk.idle()) == (0.5, 0.25, 1.25)


def test_period_is_closed_while_runs_begin_so_that_an_idle_time_pays_for_no_rush() -> None:
    desk = Desk()
    for _ in range(4):
        ticket = desk.began(2)
        desk.clock.advance(PERIOD_S)
        desk.front_s += 0.5
        desk.ledger.end(ticket, BUSY)
    desk.began(1)  # closes the last of them
    desk.clock.advance(8.0)
    assert desk.line(BUSY) == 6.0


def test_start_is_warm_up_of_the_process_and_a_load_that_of_its_model() -> None:
    clock = ManualClock()
    ledger = Ledger(cores=2.0, clock=clock, age_s=3.0)
    ticket = Ticket(("a", "1", ""), 1)
    ledger.begin(ticket, 1)
    clock.advance(4.0)
    ledger.begin(ticket, 2)  # its warm-up runs
    clock.advance(1.0)
    ticket.labels = LABELS[0]
    ledger.end(ticket, WARM_UP)
    ledger.ready()
    clock.advance(5.0)
    bill = ledger.read()
    assert bill.lines[LABELS[0], WARM_UP] == 6.0
    assert (bill.lines[NO_MODEL, WARM_UP], bill.lines[NO_MODEL, IDLE]) == (10.0, 10.0)
    assert (bill.seconds, bill.paid_core_s, bill.paid_usd) == (13.0, 26.0, None)


def test_clock_and_front_end_that_go_back_take_nothing_away() -> None:
    desk = Desk()
    desk.clock.advance(1.0)
    desk.front_s = 0.25
    before = desk.ledger.read()
    desk.clock.advance(-0.5)
    desk.front_s = 0.125
    assert desk.ledger.read() == before
    desk.clock.advance(1.0)
    desk.front_s = 0.375
    assert desk.line(SERVING, NO_MODEL) == 0.375


def test_energy_goes_to_the_lines_of_its_period_and_follows_the_rows_fates() -> None:
    clock, drawn = ManualClock(), [500.0]
    ledger = Ledger(cores=1.0, clock=clock, unit=GPU, energy=Drawn(lambda: drawn[0]))
    ledger.ready()
    ticket = Ticket(LABELS[0], 4)
    ledger.begin(ticket, 1)
    clock.advance(3.0)
    ledger.end(ticket)
    clock.advance(1.0)
    drawn[0] += 400.0
    bill = ledger.read()
    assert (bill.unsettled_j, bill.joules[NO_MODEL, IDLE]) == ({LABELS[0]: 300.0}, 100.0)
    ledger.settle(ticket, 3, BUSY)
    ledger.settle(ticket, 1, WASTE)
    bill = ledger.read()
    assert (bill.joules[LABELS[0], BUSY], bill.joules[LABELS[0], WASTE]) == (225.0, 75.0)
    assert (bill.drawn_j, bill.unsettled_j) == (400.0, {})


def test_energy_that_came_in_no_time_goes_to_the_next_period() -> None:
    clock, drawn = ManualClock(), [0.0]
    ledger = Ledger(cores=1.0, clock=clock, energy=Drawn(lambda: drawn[0]))
    ledger.ready()
    drawn[0] = 70.0
    assert ledger.read().drawn_j == 0.0
    clock.advance(0.5)
    assert ledger.read().joules == {(NO_MODEL, IDLE): 70.0}


def test_nothing_is_said_of_energy_where_nobody_tells() -> None:
    desk = Desk()
    desk.clock.advance(2.0)
    bill = desk.ledger.read()
    assert (bill.joules, bill.drawn_j, desk.ledger.meter.of(1.0)) == ({}, None, None)


def test_seconds_draw_their_share_of_the_power_of_all() -> None:
    ledger = Ledger(cores=2.0, clock=ManualClock(), unit=GPU, energy=Drawn(lambda: 0.0, 600.0))
    assert ledger.meter.of(0.5) == 150.0


def test_caller_is_told_seconds_of_what_is_paid_for_and_no_more_than_is_known() -> None:
    plain = Ledger(cores=2.0, clock=ManualClock())
    assert told_of(plain, 0.5) == {"farthing-core-seconds": 0.5}
    gpus = Ledger(cores=1.0, clock=ManualClock(), unit=GPU, price=Price(3600.0, "book"),
                  energy=Drawn(lambda: 0.0, 300.0))  # fmt: skip
    assert told_of(gpus, 0.5) == {
        "farthing-gpu-seconds": 0.5, "farthing-cost-usd": 0.5, "farthing-joules": 150.0,
    }  # fmt: skip


def test_run_that_takes_nothing_for_a_while_costs_nothing_then() -> None:
    desk = Desk(cores=1.0)
    ticket = desk.began(0)
    for threads, seconds in ((1, 2.0), (0, 4.0)):
        desk.clock.advance(1.0)
        desk.ledger.begin(ticket, threads)
        desk.clock.advance(seconds)
    desk.ledger.end(ticket, BUSY)
    assert (desk.line(BUSY), desk.idle()) == (3.0, 5.0)


def test_run_that_is_settled_while_it_takes_nothing_may_end() -> None:
    desk = Desk()
    ticket = desk.began(0)
    desk.ledger.settle(ticket, 1, WASTE)
    desk.ledger.end(ticket)
    assert desk.ledger.read().unsettled == {}


def test_core_seconds_have_a_price_where_it_is_known() -> None:
    assert Desk(cores=2.0).ledger.usd(1000.0) == CLOSE(1.0)
    assert Ledger(cores=2.0, clock=ManualClock()).usd(1000.0) is None


def test_models_lines_are_there_from_the_start() -> None:
    desk = Desk()
    desk.ledger.know(LABELS[0])
    assert {kind for labels, kind in desk.ledger.read().lines if labels == LABELS[0]} == set(KINDS)


def test_more_rows_than_the_run_had_are_not_settled() -> None:
    desk = Desk()
    ticket = desk.began(1, rows=2)
    with pytest.raises(ValueError, match="more rows"):
        desk.ledger.settle(ticket, 3, BUSY)


def test_threads_that_run_settle_and_read_at_the_same_time_lose_nothing() -> None:
    ticks = iter(range(10_000_000))
    ledger = Ledger(cores=2.0, clock=lambda: next(ticks) / 1000)

    def work(labels: Labels) -> None:
        for _ in range(2000):
            ticket = Ticket(labels, 2)
            ledger.begin(ticket, 2)
            ledger.settle(ticket, 1, WASTE)
            ledger.end(ticket)
            ledger.settle(ticket, 1, BUSY)

    threads = [Thread(target=work, args=(labels,)) for labels in LABELS]
    for thread in threads:
        thread.start()
    bills = [ledger.read() for _ in range(200)]
    for thread in threads:
        thread.join()
    last = ledger.read()
    for bill in [*bills, last]:
        assert bill.accounted_core_s == CLOSE(bill.paid_core_s, rel=1e-9)
    assert last.unsettled == {}
    assert last.of(BUSY) > 0.0 and last.of(WASTE) > last.of(BUSY) / 2
