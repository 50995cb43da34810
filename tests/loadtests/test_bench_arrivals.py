"""The open loop: it keeps its own schedule, counts each ending once, and says when it failed."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from loadtests.bench import arrivals
from loadtests.bench.arrivals import Outcome

DEADLINE_S = 0.4


def outcome(*, sent: int = 0, sent_late: int = 0) -> Outcome:
    return Outcome(10.0, sent=sent, sent_late=sent_late)


def test_equal_seeds_give_equal_schedules_and_others_others() -> None:
    assert arrivals.schedule(100, 5, seed=1) == arrivals.schedule(100, 5, seed=1)
    assert arrivals.schedule(100, 5, seed=1) != arrivals.schedule(100, 5, seed=2)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_schedule_has_exactly_as_many_sends_as_were_asked_for_inside_its_time(seed: int) -> None:
    times = arrivals.schedule(200, 50, seed=seed)
    assert len(times) == 10_000
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 50


def test_the_gaps_of_a_schedule_are_as_uneven_as_those_of_poisson_arrivals() -> None:
    times = arrivals.schedule(200, 50, seed=1)
    gaps = [after - before for before, after in pairwise(times)]
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


class Clock:
    """Time that passes only while someone sleeps, or when a send takes some."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def test_sends_come_when_they_are_due() -> None:
    clock, sent = Clock(), list[tuple[float, float]]()
    await arrivals.paced(
        [0.5, 1.5, 2.0], lambda due: sent.append((due, clock())), clock=clock, sleep=clock.sleep
    )
    assert sent == [(100.5, 100.5), (101.5, 101.5), (102.0, 102.0)]


async def test_a_slow_send_does_not_move_the_schedule_of_those_after_it() -> None:
    clock, sent = Clock(), list[tuple[float, float]]()

    def send(due: float) -> None:
        sent.append((due, clock()))
        clock.now_s += 1.2 if due == 100.5 else 0.0

    await arrivals.paced([0.5, 1.0, 3.0], send, clock=clock, sleep=clock.sleep)
    assert sent == [(100.5, 100.5), (101.0, 101.7), (103.0, 103.0)]


def test_an_answer_is_good_until_its_deadline_and_late_after_it() -> None:
    seen = outcome()
    for taken_s in (0.1, 0.4, 0.41):
        seen.answered(taken_s, deadline_s=DEADLINE_S)
    assert seen.endings == {"good": 2, "late": 1}
    assert seen.good_per_s == pytest.approx(0.2)
    assert seen.latencies_s == [0.1, 0.4, 0.41]


def test_the_other_endings_are_told_without_the_good_ones() -> None:
    seen = outcome()
    seen.endings.update({"good": 5, "RESOURCE_EXHAUSTED": 7, "DEADLINE_EXCEEDED": 1})
    assert seen.others == "1 DEADLINE_EXCEEDED, 7 RESOURCE_EXHAUSTED"
    assert outcome().others == "none"


def test_all_endings_are_told_the_usual_ones_also_where_there_were_none() -> None:
    seen = outcome()
    seen.endings.update({"good": 5, "RESOURCE_EXHAUSTED": 7, "UNAVAILABLE": 1})
    assert seen.told == "5 good, 0 late, 7 refused, 0 deadline, 1 UNAVAILABLE"


@pytest.mark.parametrize(("deadline_s", "slack_s"), [(0.4, 0.02), (0.01, 0.001)])
def test_a_send_may_be_late_by_a_twentieth_of_the_deadline_or_a_millisecond(
    deadline_s: float, slack_s: float
) -> None:
    assert arrivals.slack_s(deadline_s) == pytest.approx(slack_s)


def test_one_percent_of_late_sends_is_allowed_and_more_makes_the_figure_void() -> None:
    kept, lost = outcome(sent=1000, sent_late=10), outcome(sent=1000, sent_late=11)
    assert (kept.void, lost.void) == ("", "void: generator late in 1.1%")
    assert arrivals.marked("0.97", kept) == "0.97"
    assert arrivals.marked("0.97", kept, lost) == "0.97 (void: generator late in 1.1%)"


def test_an_open_loop_that_sent_nothing_is_not_void_for_being_late() -> None:
    assert outcome().void == ""
