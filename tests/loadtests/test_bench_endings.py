"""What the bench says of an open loop: how its calls ended, and that it is void."""

from __future__ import annotations

import pytest

from loadtests.bench import endings
from loadtests.observed import Observed


def outcome(*, sends: int = 0, late: int = 0) -> Observed:
    seen = Observed(10.0, limit_s=0.4)
    for number in range(sends):
        seen.sent(0.1 if number < late else 0.0)
    return seen


def test_the_other_endings_are_told_without_the_good_ones() -> None:
    seen = outcome()
    seen.endings.update({"good": 5, "RESOURCE_EXHAUSTED": 7, "DEADLINE_EXCEEDED": 1})
    assert endings.others(seen) == "1 DEADLINE_EXCEEDED, 7 RESOURCE_EXHAUSTED"
    assert endings.others(outcome()) == "none"


def test_all_endings_are_told_the_usual_ones_also_where_there_were_none() -> None:
    seen = outcome()
    seen.endings.update({"good": 5, "RESOURCE_EXHAUSTED": 7, "UNAVAILABLE": 1})
    assert endings.told(seen) == "5 good, 0 late, 7 refused, 0 deadline, 1 UNAVAILABLE"


def test_a_figure_is_marked_as_void_where_more_than_one_percent_of_the_sends_was_late() -> None:
    kept, lost = outcome(sends=1000, late=10), outcome(sends=1000, late=11)
    assert endings.marked("0.97", kept) == "0.97"
    assert endings.marked("0.97", kept, lost) == "0.97 (void: generator late in 1.1%)"


def test_latencies_of_good_answers_leave_the_late_ones_out() -> None:
    seen = outcome()
    for taken_s in (0.3, 0.9, 0.1, 0.3, 0.401):
        seen.answered(taken_s)
    good = endings.good_latency(seen)
    assert len(good) == 3
    assert good.at(100) == pytest.approx(0.3, rel=1e-3)
