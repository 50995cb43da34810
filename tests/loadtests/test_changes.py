"""What of a change is noise: of the goodput, of searches, and of accuracy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from loadtests import arrivals
from loadtests.histogram import Histogram
from loadtests.observed import Observed
from loadtests.plans.replica import Replica
from loadtests.plans.simulation import simulate
from loadtests.profile import Level, Profile
from loadtests.reports import resolution
from loadtests.reports.changes import ALLOWED, BETTER, GOODPUT_MAY, UNKNOWN, WITHIN, WORSE, Change
from loadtests.reports.columns import signed
from loadtests.reports.comparison import compare
from loadtests.slo import Slo
from tests.loadtests import invented
from tests.loadtests.invented import profile
from tests.loadtests.simulated import OneAtATime, searched


@pytest.fixture(scope="module")
def before() -> Profile:
    return profile("fp32", seed=1)


def judged(one: Profile, other: Profile) -> dict[str, Change]:
    return {each.figure: each for each in compare([one], [other]).changes}


def nothing_in_time(level: Level) -> Level:
    offered = level.seen.offered
    ended = Counter({"DEADLINE_EXCEEDED": offered})
    return replace(level, seen=replace(level.seen, endings=ended, latency=Histogram()))


def test_a_collapse_to_nothing_is_worse_and_from_nothing_cannot_be_told(before: Profile) -> None:
    gone = replace(before, levels=tuple(nothing_in_time(each) for each in before.levels))
    found = compare([before], [gone])
    change = next(each for each in found.changes if each.figure.startswith("good"))
    assert (change.after, change.change, change.verdict) == (0.0, -1.0, WORSE)
    assert found.regressions(0.05) == [change]
    assert "overload -100.0 %" in found.said(0.05)
    back = judged(gone, before)["good answers/s, overload"]
    assert (back.verdict, back.why) == (UNKNOWN, "there was none before")


def stalling(seed: int) -> Observed:
    """Six seconds of 2400 calls to a server for half as many, that at times stalls for 300 ms."""
    server = Replica(runs=((1, 0.01),), noise=((0.8, 99), (30.0, 1)), deadline_s=0.1)
    times = arrivals.schedule("poisson", rate=400.0, seconds=6.0, seed=seed)
    return simulate(server, times, seconds=6.0, limit_s=0.1, seed=seed).seen


def test_goodput_of_equal_servers_that_stall_is_not_called_changed(before: Profile) -> None:
    seen = [stalling(seed) for seed in range(14)]
    good = [each.good for each in seen]
    # Were calls independent, they would differ by a tenth at most.
    assert max(good) > 1.3 * min(good)
    last, ordered = before.levels[-1], sorted(seen, key=lambda each: each.good)
    best, worst = (replace(before, levels=(replace(last, seen=ordered[n]),)) for n in (-1, 0))
    assert compare([best], [worst]).regressions(0.05) == []
    assert 0.3 < GOODPUT_MAY < 0.4


@cache
def found_by_search(run_s: float) -> list[Profile]:
    """Twenty searches on equal servers; one answer takes a twenty-fifth or a tenth of the limit."""
    slo, profiles = Slo(99, 0.1, 0.999), list[Profile]()
    one = replace(profile(calls=500), slo=slo, levels=())
    for seed in range(20):
        server = OneAtATime(run_s, slo, noise=0.2, seed=seed)
        found, trials = searched(server, budget_s=60)
        alone = Observed(1.0, offered=500)
        for _ in range(500):
            alone.answered(run_s)
        profiles.append(replace(one, rate=found.rate, searched=tuple(trials), alone=alone))
    return profiles


@pytest.mark.parametrize("run_s", [0.004, 0.01])
def test_rates_that_searches_find_on_equal_servers_are_seldom_called_changed(run_s: float) -> None:
    pairs = list(itertools.combinations(found_by_search(run_s), 2))
    rates = [each.rate or 0.0 for each in found_by_search(run_s)]
    # By far more than the last step of each search.
    assert max(rates) > 1.06 * min(rates)
    changed = [pair for pair in pairs if resolution.apart(*pair)]
    assert len(changed) <= 0.02 * len(pairs)


def test_half_the_rate_is_found_by_two_searches() -> None:
    one, other = found_by_search(0.004)[0], found_by_search(0.01)[0]
    for before, after, verdict in ((one, other, WORSE), (other, one, BETTER)):
        found = judged(before, after)
        assert found["calls/s at the SLO"].verdict == verdict
        assert found["$ per million"].verdict == verdict


def at(before: Profile, share: float) -> Profile:
    """The same search, had all its rates been this share of what they were."""
    searched = tuple(
        (replace(level, rate=share * level.rate), why) for level, why in before.searched
    )
    return replace(before, rate=share * (before.rate or 0), searched=searched)


def test_where_nothing_failed_above_a_rate_it_may_be_any_higher_one(before: Profile) -> None:
    held = tuple((level, "") for level, _ in before.searched)
    change = judged(before, replace(at(before, 0.5), searched=held))["calls/s at the SLO"]
    assert change.verdict == UNKNOWN
    assert change.why == "nothing failed above a rate, so it may be any higher one"
    assert change.interval is not None
    assert change.interval.high == math.inf
    ended = [change.to_dict()[key] is None for key in ("low", "high")]
    assert ended == [False, True]
    assert judged(before, at(before, 0.5))["calls/s at the SLO"].verdict == WORSE


def test_the_wider_the_last_step_of_a_search_the_less_it_tells(before: Profile) -> None:
    wide = tuple(
        (replace(level, rate=(1.5 if why else 1) * level.rate), why)
        for level, why in before.searched
    )
    for search, verdict in ((before.searched, WORSE), (wide, WITHIN)):
        found = judged(replace(before, searched=search), at(before, 0.7))
        assert found["calls/s at the SLO"].verdict == verdict


def test_a_price_that_changed_is_in_the_dollars_and_not_in_the_rate(before: Profile) -> None:
    dear = replace(invented.PRICE, usd_per_hour=2 * invented.PRICE.usd_per_hour)
    found = judged(before, replace(before, conditions=replace(before.conditions, price=dear)))
    assert found["$ per million"].change == pytest.approx(1)
    assert found["$ per million"].verdict == WORSE
    assert found["calls/s at the SLO"].verdict == WITHIN


def less_accurate(one: Profile, points: float) -> Profile:
    about = one.subject
    return replace(one, subject=replace(
        about, accuracy=(about.accuracy or 0.0) - points / 100,
        accuracy_change=(about.accuracy_change or 0.0) - points,
    ))  # fmt: skip


@pytest.mark.parametrize(("points", "verdict"), [(0.0, ALLOWED), (0.5, ALLOWED), (0.6, WORSE)])
def test_accuracy_may_fall_by_half_a_point(before: Profile, points: float, verdict: str) -> None:
    worse = less_accurate(before, points)
    change = judged(before, worse)["accuracy, %"]
    assert change.verdict == verdict
    assert change.change == pytest.approx(-points)
    assert bool(compare([before], [worse]).regressions(0.5)) == (verdict == WORSE)
    assert not compare([worse], [before]).regressions(0.0)
    assert not compare([before], [worse], points=0.6).regressions(0.0)


def test_where_accuracy_is_not_told_its_change_over_the_trained_model_is(before: Profile) -> None:
    worse = less_accurate(before, 3)
    untold = replace(worse, subject=replace(worse.subject, accuracy=None))
    change = judged(before, untold)["accuracy change, points"]
    assert (change.before, change.after, change.verdict) == (0.0, -3.0, WORSE)


@pytest.mark.parametrize("side", [0, 1])
def test_what_only_the_generator_bounded_cannot_be_compared(before: Profile, side: int) -> None:
    pair = [before, before]
    pair[side] = replace(at(before, 0.4), generator_bound=True)
    found = compare([pair[0]], [pair[1]])
    told = {each.figure: each for each in found.changes}
    for figure, bound in (("calls/s at the SLO", ">= "), ("$ per million", "<= ")):
        change = told[figure]
        assert (change.verdict, change.change, change.bounds[side]) == (UNKNOWN, None, bound)
        assert change.why.startswith("the generator failed before the server did")
    assert told["good answers/s, overload"].verdict == UNKNOWN
    assert found.regressions(0.0) == []
    assert not resolution.apart(*pair)


def test_dollars_of_a_rate_without_an_upper_bound_may_be_any_lower_ones(before: Profile) -> None:
    held = tuple((level, "") for level, _ in before.searched)
    found = compare([before], [replace(at(before, 0.5), searched=held)])
    change = next(each for each in found.changes if each.figure == "$ per million")
    assert change.verdict == UNKNOWN
    assert (change.to_dict()["low"], change.to_dict()["high"]) == (None, pytest.approx(1.6, abs=1))
    assert found.said(0.05).endswith("; 2 of 7 figures could not be told.")


def test_of_an_unbounded_interval_what_lies_beyond_nothing_is_a_change(before: Profile) -> None:
    held = tuple((level, "") for level, _ in before.searched)
    change = judged(before, replace(at(before, 2), searched=held))["calls/s at the SLO"]
    assert (change.verdict, change.why) == (BETTER, "")


def test_the_p99_of_one_caller_is_told_and_stops_nothing(before: Profile) -> None:
    """As a machine does that was busy for a moment: few calls are late, the others are not."""
    alone = before.alone
    assert alone is not None
    spoilt = Observed(alone.seconds, offered=len(alone.latency))
    for number in range(len(alone.latency)):
        spoilt.answered(0.02 if number % 50 == 0 else alone.latency.at(50) or 0.0)
    found = compare([before], [replace(before, alone=spoilt)])
    told = {each.figure: each for each in found.changes}
    assert told["p99 ms, one caller"].verdict == WORSE
    assert told["p99 ms, one caller"].to_dict()["told_only"]
    assert found.regressions(0.05) == []
    assert "worse, but only told, since one short run says little: fp32: p99" in found.said(0.05)


def test_what_is_rounded_to_nothing_is_not_written_as_less(before: Profile) -> None:
    little = compare([before], [less_accurate(before, 0.004)])
    assert next(e for e in little.changes if e.in_points).said == "+0.00 points"
    assert signed(-0.04, 1) == "+0.0"
    assert signed(-0.06, 1) == "-0.1"
