"""When a run shows that an SLO holds, and when it only looks so."""

from __future__ import annotations

import pytest

from loadtests.observed import Observed
from loadtests.slo import Slo

SLO = Slo(99, 0.1, 0.999)


def observed(good: int, late: int = 0, refused: int = 0, *, sent_late: int = 0) -> Observed:
    seen = Observed(1.0, limit_s=0.1, offered=good + late + refused)
    for number in range(seen.offered):
        seen.sent(1.0 if number < sent_late else 0.0)
    for _ in range(good):
        seen.answered(0.01)
    for _ in range(late):
        seen.answered(0.2)
    for _ in range(refused):
        seen.failed("RESOURCE_EXHAUSTED")
    return seen


@pytest.mark.parametrize(("answers", "late"), [(459, 0), (662, 1), (2010, 10)])
def test_it_holds_from_as_many_answers_as_its_violations_need(answers: int, late: int) -> None:
    assert SLO.failure(observed(answers - late, late)) == ""
    assert SLO.failure(observed(answers - late - 1, late)) == "1 answers too few to say"
    assert SLO.missing(observed(answers - late - 1, late)) == 1


def test_a_short_run_may_look_well_without_showing_anything() -> None:
    short = observed(50)
    assert SLO.doubt(short) == ""
    assert SLO.failure(short) == "409 answers too few to say"


def test_too_many_late_answers_fail_and_are_counted() -> None:
    seen = observed(1000, 20)
    assert SLO.failure(seen) == SLO.doubt(seen) == "20 of 1020 answers took over 100 ms"


def test_calls_that_were_not_answered_stay_in_the_count() -> None:
    assert SLO.failure(observed(1000, refused=1)) == ""
    assert SLO.failure(observed(1000, refused=2)) == "99.80% of the calls were answered"


def test_a_void_run_shows_nothing_however_good_it_looks() -> None:
    assert SLO.failure(observed(1000, sent_late=10)) == ""
    assert SLO.failure(observed(1000, sent_late=11)).startswith("void: the generator sent 1.1%")


def test_a_run_without_any_call_shows_nothing() -> None:
    assert SLO.failure(observed(0)) == "0.00% of the calls were answered"


@pytest.mark.parametrize(
    ("seen", "lost"),
    [
        (observed(100), False),
        (observed(100, late=10), False),
        (observed(100, late=11), True),
        (observed(100, refused=1), False),
        (observed(100, refused=2), True),
        (observed(100, sent_late=10), False),
        (observed(100, sent_late=11), True),
    ],
)
def test_a_run_of_a_thousand_is_lost_once_no_rest_of_it_could_save_it(
    seen: Observed, lost: bool
) -> None:
    assert SLO.lost(seen, 1000) is lost
