"""The search, on servers in simulated time."""

from __future__ import annotations

import pytest

from loadtests.histogram import samples_for
from loadtests.plans import evidence
from loadtests.pricing import measure, rates
from loadtests.pricing.rates import Found, Judged, Search, Trial
from loadtests.profile import Level
from loadtests.slo import Slo
from tests.loadtests.profiles import SLO as SLO_OF_PROFILES
from tests.loadtests.profiles import observed, profile
from tests.loadtests.simulated import OneAtATime, highest, searched

SLO = Slo(99, 0.05, 0.999)

HIGHEST = highest(0.002, SLO)


def server(seed: int = 1, **options: object) -> OneAtATime:
    """500/s at most; a p99 of 50 ms holds up to about 450/s."""
    return OneAtATime(0.002, SLO, seed=seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(1, 7))
def test_the_highest_rate_is_found_within_five_percent(seed: int) -> None:
    found, trials = searched(server(seed), budget_s=120)
    assert found.rate == pytest.approx(HIGHEST, rel=0.05)
    assert "the generator's" not in found.why
    assert len(trials) < 20


@pytest.mark.parametrize("first", [60.0, 2_000.0])
def test_the_first_guess_may_be_far_off(first: float) -> None:
    found, _ = searched(server(), budget_s=240, first=first)
    assert found.rate == pytest.approx(HIGHEST, rel=0.06)


@pytest.mark.parametrize("budget_s", [20.0, 40.0, 80.0])
def test_the_budget_of_time_is_kept(budget_s: float) -> None:
    what = server()
    searched(what, budget_s=budget_s)
    assert what.clock.now - 1000 <= budget_s


def test_a_budget_that_confirms_nothing_ends_without_a_rate_and_says_so() -> None:
    found, trials = searched(OneAtATime(0.05, Slo(99, 0.5, 0.999)), budget_s=12)
    assert found.rate is None
    assert "the budget of time was spent" in found.why
    assert trials


def test_what_was_found_was_confirmed_with_answers_enough() -> None:
    found, trials = searched(server(), budget_s=120)
    confirmed = [level.seen for level, why in trials if level.rate == found.rate and not why]
    assert confirmed and not SLO.failure(confirmed[-1])
    assert confirmed[-1].answers >= samples_for(99, 10)


def test_what_was_tried_above_the_answer_failed_and_is_told() -> None:
    found, trials = searched(server(), budget_s=120)
    assert found.rate is not None
    above = [level.rate for level, why in trials if why and level.rate > found.rate]
    assert min(above) <= found.rate * 1.05
    assert f"at {min(above):.4g}/s" in found.why and "took over 50 ms" in found.why


def test_a_server_that_never_holds_the_slo_ends_without_a_rate() -> None:
    found, trials = searched(OneAtATime(0.06, SLO), budget_s=600)
    assert found.rate is None
    assert "took over 50 ms" in found.why
    assert all(why for _, why in trials)


def test_the_server_settles_after_each_trial_that_failed() -> None:
    what = server()
    _, trials = searched(what, budget_s=120)
    assert what.settled == sum(bool(why) for _, why in trials) > 0


def test_a_void_trial_is_repeated_once_and_then_believed() -> None:
    what = server(spoilt=lambda _, number: number == 0)
    found, trials = searched(what, budget_s=120)
    assert trials[0][1].startswith("void") and not trials[1][1].startswith("void")
    assert trials[0][0].rate == trials[1][0].rate
    assert found.rate == pytest.approx(HIGHEST, rel=0.05)


def test_a_generator_that_is_too_slow_is_said_to_be_the_bound() -> None:
    found, _ = searched(server(spoilt=lambda rate, _: rate > 200), budget_s=240)
    assert found.rate == pytest.approx(200, rel=0.05)
    assert "the generator's, not the server's" in found.why and found.generator_bound


def test_a_rate_that_the_server_bounds_is_not_said_to_be_the_generators() -> None:
    found, _ = searched(server(), budget_s=120)
    assert found.rate and not found.generator_bound


def test_void_short_runs_above_what_a_short_budget_confirms_leave_it_a_lower_bound() -> None:
    steps = rates.search(SLO, first=50.0, budget_s=1e3)
    left_s, trial = 1e3, next(steps)
    with pytest.raises(StopIteration) as end:
        while True:
            void = trial.rate > 120
            left_s = 1.0 if trial.confirms else left_s - trial.seconds
            trial = steps.send(Judged("void: late" if void else "", void, left_s))
    assert end.value.value.generator_bound
    assert "shorter runs above it were void" in end.value.value.why


BOUND = Found(70.0, "the generator's", generator_bound=True)


@pytest.mark.parametrize(
    ("found", "levels", "rate"),
    [
        (BOUND, (0.02, 0.02), 280.0),  # a generator that was late at 80/s kept 280/s
        (BOUND, (0.02, 0.2), 140.0),
        (BOUND, (0.2, 0.2), 70.0),
        (Found(70.0, "the server's"), (0.02, 0.02), 70.0),
        (Found(None, "the generator's", generator_bound=True), (), None),
    ],
)
def test_levels_that_hold_above_what_the_generator_bounded_raise_the_rate(
    found: Found, levels: tuple[float, ...], rate: float | None
) -> None:
    seen = [Level(140.0 * 2**n, observed(latency_s)) for n, latency_s in enumerate(levels)]
    now = measure.raised(found, seen, SLO_OF_PROFILES)
    assert (now.rate, now.generator_bound) == (rate, found.generator_bound)


def test_plan_reads_the_rate_that_slo_tells() -> None:
    held, torn = observed(0.02), observed(0.2)
    searched = [Level(rate, seen) for rate, seen in ((300.0, held), (400.0, held), (400.0, torn))]
    levels = [Level(140.0, held)]
    now = measure.raised(BOUND, [*levels, *searched], SLO_OF_PROFILES)
    made = profile(
        rate=now.rate, generator_bound=True, levels=tuple(levels),
        searched=tuple((level, "") for level in searched),
    )  # fmt: skip
    assert now.rate == 300
    assert evidence.shown(made, SLO_OF_PROFILES) == now.rate
    assert "at 70" not in now.why


@pytest.mark.parametrize("calls", [20, 1000])
def test_a_level_is_evidence_only_with_answers_enough_and_if_it_is_not_void(calls: int) -> None:
    seen = observed(0.02, calls=calls)
    if calls > 20:
        for _ in range(calls):
            seen.sent(1.0)
    assert measure.raised(BOUND, [Level(140.0, seen)], SLO_OF_PROFILES) == BOUND


def test_a_generator_that_is_always_late_is_not_asked_for_long() -> None:
    found, trials = searched(server(spoilt=lambda *_: True), budget_s=600)
    assert found.rate is None and "the generator's, not the server's" in found.why
    assert len(trials) == 10


def answered(steps: Search, held: object, *, left_s: float = 1e6) -> list[Trial]:
    """The trials of a search whose answers follow from the rate alone."""
    trials = [next(steps)]
    try:
        while len(trials) < 100:
            failure = "" if held(trials[-1]) else "late"  # type: ignore[operator]
            trials.append(steps.send(Judged(failure, False, left_s)))
    except StopIteration:
        return trials
    raise AssertionError("it does not end")


@pytest.mark.parametrize("edge", [3.0, 77.0, 1234.5])
def test_without_noise_the_edge_is_found_to_the_resolution(edge: float) -> None:
    steps = rates.search(SLO, first=50.0, budget_s=1e6)
    trials = answered(steps, lambda trial: trial.rate <= edge)
    held = max(trial.rate for trial in trials if trial.confirms and trial.rate <= edge)
    assert edge / (1 + rates.RESOLUTION + 0.01) <= held <= edge


def test_a_lucky_short_trial_is_not_the_answer() -> None:
    """Short ones hold up to 400/s, long ones to 100/s."""
    steps = rates.search(SLO, first=50.0, budget_s=1e6)
    trials = answered(steps, lambda trial: trial.rate <= (100 if trial.confirms else 400))
    assert trials[-1].confirms
    held = max(trial.rate for trial in trials if trial.confirms and trial.rate <= 100)
    assert held == pytest.approx(100, rel=0.05)


def test_an_unlucky_short_trial_is_overcome() -> None:
    """Short ones fail above 100/s, long ones above 400/s."""
    steps = rates.search(SLO, first=50.0, budget_s=1e6)
    trials = answered(steps, lambda trial: trial.rate <= (400 if trial.confirms else 100))
    held = max(trial.rate for trial in trials if trial.confirms and trial.rate <= 400)
    assert held == pytest.approx(400, rel=0.05)


def test_confirmations_last_until_a_queue_that_grows_slowly_reaches_the_limit() -> None:
    steps = rates.search(Slo(99, 10.0, 0.999), first=50.0, budget_s=1e6)
    for trial in answered(steps, lambda trial: trial.rate <= 10_000):
        if trial.confirms:
            assert 1.04 * trial.seconds - trial.seconds >= 10.0


def test_confirmations_are_as_long_as_their_percentile_needs() -> None:
    for percent in (95.0, 99.0, 99.9):
        steps = rates.search(Slo(percent, 0.05, 0.999), first=50.0, budget_s=1e6)
        for trial in answered(steps, lambda trial: trial.rate <= 300):
            if trial.confirms:
                assert trial.rate * trial.seconds >= samples_for(percent, 10)
