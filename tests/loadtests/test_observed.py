"""What a generator counts: each call once, errors in what was offered, and when it is void."""

from __future__ import annotations

import json

import pytest

from loadtests.observed import Observed, slack_s


def kept(*, sends: int, late: int, limit_s: float = 0.4, shared: bool = False) -> Observed:
    """An open loop of which so many sends came 0.1 s late."""
    seen = Observed(10.0, limit_s=limit_s, shared=shared)
    for number in range(sends):
        seen.offered += 1
        seen.sent(0.1 if number < late else 0.0)
        seen.answered(0.05)
    return seen


@pytest.mark.parametrize(("limit_s", "allowed_s"), [(0.4, 0.02), (0.01, 0.001), (0.0, 0.001)])
def test_a_send_may_be_late_by_a_twentieth_of_the_limit_or_a_millisecond(
    limit_s: float, allowed_s: float
) -> None:
    assert slack_s(limit_s) == pytest.approx(allowed_s)


def test_one_percent_of_late_sends_is_allowed_and_more_makes_it_void() -> None:
    assert kept(sends=1000, late=10).void == ""
    assert (
        kept(sends=1000, late=11).void
        == "the generator sent 1.1% of the calls more than 20 ms late"
    )


def test_on_shared_cores_a_void_result_says_what_it_could_judge() -> None:
    assert "from about 100 ms up" in kept(sends=10, late=5, limit_s=0.05, shared=True).void
    assert "from about 100 ms up" not in kept(sends=10, late=5, limit_s=0.05).void
    assert "from about 100 ms up" not in kept(sends=10, late=5, limit_s=0.4, shared=True).void


def test_calls_that_were_never_sent_make_it_void() -> None:
    seen = kept(sends=1000, late=0)
    seen.unsent = 3
    assert seen.void == "3 calls were never sent: a generator was lost"


def test_a_generator_that_never_told_the_end_makes_it_void_in_a_closed_loop_too() -> None:
    seen = Observed(1.0, lost=1)
    seen.answered(0.5)
    assert seen.void.startswith("a generator never told the end")
    assert Observed.from_dict(json.loads(json.dumps(seen.counted()))).void == seen.void
    whole = Observed(1.0)
    whole.merge(seen)
    assert whole.void == seen.void


def test_of_a_void_run_no_figure_is_told_and_all_that_was_counted_is_kept() -> None:
    seen = kept(sends=1000, late=11)
    told = seen.to_dict()
    assert [told[name] for name in ("success", "answers_per_s", "good_per_s")] == [None] * 3
    assert set(told["latency_ms"].values()) == {None}
    assert seen.percentile_ms(50) is None
    assert told["lag_ms"]["p99"] == pytest.approx(100, rel=1e-3)  # of the generator itself
    seen.unsent, seen.lost = 2, 1
    assert Observed.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen


def test_how_late_the_sends_were_is_not_told_of_too_few() -> None:
    assert kept(sends=458, late=0).lag_ms(99) is None
    assert kept(sends=459, late=9).to_dict()["lag_ms"] == {
        "p50": 0.001, "p90": 0.001, "p95": 0.001, "p99": pytest.approx(100, rel=1e-3),
        "p99.9": None,
    }  # fmt: skip


def test_closed_users_who_have_no_schedule_are_never_late() -> None:
    seen = Observed(1.0)
    seen.answered(0.5)
    assert (seen.void, seen.late_share) == ("", 0.0)


def test_an_answer_is_good_until_the_limit_and_late_after_it_and_both_are_latencies() -> None:
    seen = Observed(10.0, limit_s=0.4)
    for taken_s in (0.1, 0.4, 0.41):
        seen.answered(taken_s)
    assert seen.endings == {"good": 2, "late": 1}
    assert (seen.good, seen.answers, len(seen.latency)) == (2, 3, 3)
    assert (seen.good_per_s, seen.answers_per_s) == (pytest.approx(0.2), pytest.approx(0.3))


def test_errors_stay_in_what_was_offered_and_out_of_the_latency() -> None:
    seen = Observed(1.0, offered=4)
    seen.answered(0.1)
    for code in ("UNAVAILABLE", "UNAVAILABLE", "INTERNAL"):
        seen.failed(code)
    assert (seen.success, len(seen.latency)) == (0.25, 1)
    assert seen.endings == {"good": 1, "UNAVAILABLE": 2, "INTERNAL": 1}


def test_a_percentile_is_not_told_of_too_few_answers() -> None:
    assert kept(sends=458, late=0).percentile_ms(99) is None
    assert kept(sends=459, late=0).percentile_ms(99) == pytest.approx(50, rel=1e-3)


def test_parts_add_up_to_what_one_would_have_seen() -> None:
    one, other, whole = (kept(sends=n, late=late) for n, late in ((300, 2), (200, 3), (0, 0)))
    one.failed("INTERNAL")
    for part in (one, other):
        whole.merge(Observed.from_dict(json.loads(json.dumps(part.counted()))))
    assert (whole.offered, whole.sent_late, len(whole.lag)) == (500, 5, 500)
    assert whole.endings == {"good": 500, "INTERNAL": 1}
    assert len(whole.latency) == 500


def test_it_comes_back_from_a_file_as_it_was() -> None:
    seen = kept(sends=500, late=5, shared=True)
    raw = json.loads(json.dumps(seen.to_dict()))
    assert Observed.from_dict(raw) == seen
    assert (raw["void"], raw["latency_ms"]["p99.9"]) == (seen.void, None)
    assert raw["latency_ms"]["p99"] == pytest.approx(50, rel=1e-3)


def test_nothing_offered_is_no_success_and_no_rate() -> None:
    seen = Observed(0.0)
    assert (seen.success, seen.good_per_s, seen.answers_per_s, seen.void) == (0.0, 0.0, 0.0, "")
