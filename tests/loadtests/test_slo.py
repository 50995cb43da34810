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
    assert SLO.failure(observed(1000, refused=2)) == "2 of 1002 calls were not answered"


def test_a_void_run_shows_nothing_however_good_it_looks() -> None:
    assert SLO.failure(observed(1000, sent_late=10)) == ""
    assert SLO.failure(observed(1000, sent_late=11)).startswith("void: the generator sent 1.1%")


def test_a_run_without_any_call_shows_nothing() -> None:
    assert SLO.failure(observed(0)) == "0 of 0 calls were not answered"


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        (SLO, "p99 <= 100 ms, 0.999 answered"),
        (Slo(99.999, 0.0125, 0.99999), "p99.999 <= 12.5 ms, 0.99999 answered"),
        (Slo(50, 1234.5678, 1.0), "p50 <= 1234567.8 ms, 1 answered"),
    ],
)
def test_a_setting_is_said_as_it_was_given(slo: Slo, said: str) -> None:
    assert slo.said == said


def test_a_share_that_rounds_up_to_all_is_told_by_what_was_not_answered() -> None:
    strict = Slo(99, 0.1, 0.99999)
    assert strict.doubt(observed(20_000, refused=1)) == "1 of 20001 calls were not answered"


def test_a_share_of_answers_is_only_seen_until_there_are_calls_enough_to_show_it() -> None:
    assert SLO.failure(observed(468)) == ""
    assert SLO.only_seen(observed(468)) == (
        "that 0.999 are answered was seen (468 of 468), not shown, which takes 4603 "
        "calls with as many failures"
    )
    assert SLO.only_seen(observed(4602)) and not SLO.only_seen(observed(4603))
    assert "which takes 6636 calls with as many" in SLO.only_seen(observed(6634, refused=1))
    assert not SLO.only_seen(observed(6635, refused=1))
    assert "which no number of calls can" in Slo(99, 0.1, 1.0).only_seen(observed(9999))


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
