"""The sentences that say what to see in a plot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.profile import Profile
from loadtests.reports.figures import Study, figures
from loadtests.reports.sections import sections
from tests.loadtests import invented
from tests.loadtests.invented import Queue, profile


@pytest.fixture(scope="module")
def family() -> list[Profile]:
    return invented.family(1000)


def said(*profiles: Profile, baseline: str | None = None) -> dict[str, str]:
    return {each.theme: each.see for each in sections(figures(Study(profiles, baseline)))}


def test_each_theme_says_what_to_see_of_the_chosen_variant(family: list[Profile]) -> None:
    see = said(*family, baseline="keras")
    assert "fp32, int8-static and int8-mixed are on the front" in see["accuracy"]
    assert "int8-static holds the SLO up to 494 calls/s" in see["latency"]
    assert "Most of int8-static's is run: 67 %" in see["phases"]
    assert "Most of int8-static's bill is busy: 52 %" in see["bill"]


def test_who_collapses_under_overload_is_named(family: list[Profile]) -> None:
    see = said(*family)["goodput"]
    assert "int8-static still gives" in see
    assert ", triton " in see
    kept = int(see.split(", triton ")[1].split(" %")[0])
    assert kept < 20


def test_one_that_nothing_beats_is_the_whole_front() -> None:
    slower = profile("b", Queue(8), calls=500, accuracy=0.9)
    see = said(profile("a", calls=500), slower)["accuracy"]
    assert "Nothing is cheaper than a, and nothing more accurate." in see


def test_void_runs_are_counted_where_they_are_not_drawn() -> None:
    good = profile(calls=500)
    late = replace(good.levels[-1], seen=invented.run(Queue(), 800, calls=500, late=20))
    see = said(replace(good, levels=(*good.levels[:-1], late)))
    assert see["goodput"].endswith("1 of 8 runs are void, and not drawn.")
    assert see["latency"].endswith("1 of 8 runs are void, and not drawn.")
    assert "void" not in said(good)["goodput"]


def test_without_overload_no_one_is_said_to_have_withstood_it() -> None:
    calm = replace(profile(calls=500), levels=())
    see = said(calm)["goodput"]
    assert "still gives" not in see
    assert see.endswith("There is no valid run above the rate, so overload was not seen.")
    both = said(profile("b", calls=500), calm)["goodput"]
    assert "b still gives" in both
    assert both.endswith("There is no valid run above the rate of fp32.")
    assert "no valid run" not in said(profile("b", calls=500))["goodput"]


def test_where_all_is_void_the_sentences_still_stand() -> None:
    void = replace(profile(calls=50), rate=None, searched=(), levels=(), phases=None, bill=None)
    see = said(void)
    assert "Nothing here may be priced" in see["accuracy"]
    assert "Most of" not in see["phases"] + see["bill"]


def test_the_time_that_phases_and_bill_are_of_is_told() -> None:
    whole = said(profile("a", calls=500))
    assert "below the SLO's rate: overload is not in it." in whole["phases"]
    assert "overload too, and in the pauses between them" in whole["bill"]
    assert "measured without" not in whole["phases"] + whole["bill"]
    both = said(profile("a", calls=500), replace(profile("b", calls=500), levels=()))
    for theme in ("phases", "bill"):
        assert "b was measured without these runs: there it is the search." in both[theme]


def test_a_run_that_broke_the_slo_below_the_rate_that_held_is_told() -> None:
    good = profile(calls=500)
    stalled = replace(good.levels[1], seen=invented.answered([0.05] * 480 + [0.148] * 20))
    late = replace(good.levels[2], seen=invented.run(Queue(), 150, calls=500, late=500))
    see = said(replace(good, levels=(good.levels[0], stalled, late, *good.levels[3:])))["latency"]
    assert "fp32 holds the SLO up to 198 calls/s." in see
    assert (
        "Yet the SLO broke in runs at no more than the rate that held: fp32 at 98.9/s (20 of 500 "
        "answers took over 100 ms)."
    ) in see
    assert "broke" not in said(good)["latency"]


def test_the_bill_says_that_it_is_of_all_levels() -> None:
    assert "It covers all the levels, most of them below the SLO's rate" in said(profile())["bill"]
