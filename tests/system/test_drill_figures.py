"""What the drill says of calls: each is of the phase in which it ended, and none is left out."""

from __future__ import annotations

import math

from tests.drill.figures import Phase, rows, under_way

PHASES = [Phase("before", 10, 20), Phase("update", 20, 30), Phase("kill", 30, 40)]


def test_a_call_is_of_the_phase_in_which_it_ended_and_all_are_of_one() -> None:
    calls = [(5.0, 9.0, "A"), (19.0, 21.0, "B"), (29.9, 29.95, "C"), (29.0, 30.0, "D"),
             (39.0, 49.0, "E")]  # fmt: skip
    found = rows(PHASES, {"one": calls}, void=())
    assert [list(row.failed) for row in found] == [["A"], ["B", "C"], ["D", "E"]]
    assert [row.sent for row in found] == [1, 2, 2]


def test_latencies_are_of_answers_alone_and_untold_where_too_few_or_void() -> None:
    calls = [(11.0, 11.01, "")] * 500 + [(11.0, 19.0, "UNAVAILABLE")] * 500
    (row,) = rows(PHASES[:1], {"one": calls}, void=())
    assert row.p99_ms is not None and math.isclose(row.p99_ms, 10, rel_tol=0.01)
    assert rows(PHASES[:1], {"one": calls[400:]}, void=())[0].p99_ms is None
    assert rows(PHASES[:1], {"one": calls}, void=("one",))[0].p99_ms is None


def test_under_way_are_calls_that_meet_the_time_between() -> None:
    calls = [(1.0, 2.0, ""), (1.0, 3.0, ""), (3.5, 9.0, ""), (4.5, 5.0, "")]
    assert under_way(3.0, 4.0, calls) == 2
