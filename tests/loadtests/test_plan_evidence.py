"""What a profile's own runs show of another SLO, and of a rate that only the generator bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.histogram import Histogram
from loadtests.plans import demand, evidence, plan, plantables
from loadtests.plans.plan import Asked, Option, Plan
from loadtests.plans.planjson import to_dict
from loadtests.plans.simulation import Simulated
from loadtests.profile import Level
from loadtests.screen import WIDTH
from loadtests.slo import Slo
from service.bill import Bill
from tests.loadtests.planned import FP32, GPU, INT8, SLO, TODAY, bound, printed
from tests.loadtests.profiles import observed, profile


def levels(*runs: tuple[float, float]) -> tuple[Level, ...]:
    """Runs at so many calls per second that were all answered after so many seconds."""
    return tuple(Level(rate, observed(latency_s)) for rate, latency_s in runs)


@pytest.mark.parametrize(
    ("limit_s", "expected"), [(0.1, 70.0), (0.05, 40.0), (0.015, 20.0), (0.008, None)]
)
def test_a_stricter_slo_is_held_to_the_runs_that_show_it(
    limit_s: float, expected: float | None
) -> None:
    searched = tuple((level, "") for level in levels((40.0, 0.03), (70.0, 0.08)))
    one = profile(slo=SLO, searched=searched, levels=levels((20.0, 0.011), (140.0, 0.01)))
    assert evidence.shown(one, Slo(99, limit_s, 0.99)) == expected


def test_a_stricter_slo_needs_runs_that_are_long_enough_to_show_it() -> None:
    short = profile(slo=SLO, searched=(), levels=(Level(70.0, observed(0.011, calls=458)),))
    assert evidence.shown(short, Slo(99, 0.05, 0.99)) is None
    assert evidence.shown(FP32, Slo(99.9, 0.1, 0.99)) is None


def test_of_two_runs_at_one_rate_the_one_that_breaks_a_stricter_slo_counts() -> None:
    torn = profile(slo=SLO, searched=(), levels=levels((20.0, 0.01), (70.0, 0.01), (70.0, 0.08)))
    assert evidence.shown(torn, Slo(99, 0.05, 0.99)) == 20.0


def test_sends_that_are_too_late_for_a_stricter_slo_show_nothing() -> None:
    late = observed(0.011)
    late.lag = Histogram([0.003] * 1000)
    one = profile(slo=SLO, searched=(), levels=(Level(70.0, late),))
    assert evidence.shown(one, Slo(99, 0.09, 0.99)) == 70.0
    assert evidence.shown(one, Slo(99, 0.05, 0.99)) is None


def test_a_plan_for_a_stricter_slo_gives_no_replica_more_than_was_measured_to_hold() -> None:
    # What is simulated of it would hold 70/s with 80 ms less.
    one = profile(slo=SLO, row_s=0.001, searched=(), levels=levels((30.0, 0.01), (70.0, 0.08)))
    (option,) = plan.plan([one], Asked(demand.steady(10.0), Slo(99, 0.05, 0.99))).options
    assert (option.rate, option.measured, option.simulated) == (30.0, 30.0, False)


def test_a_profile_that_shows_a_stricter_slo_nowhere_does_not_win_or_lose() -> None:
    strict = Slo(99, 0.009, 0.99)
    assert plan.check([FP32, INT8], strict) == strict
    made = plan.plan([FP32, INT8], Asked(demand.steady(1.0), strict))
    fp32 = next(one for one in made.options if one.profile is FP32)
    assert (fp32.rate, fp32.number) == (None, None)
    assert (
        "net fp32 on cloud-small, for 1/s: no run shows p99 <= 9 ms, 0.99 answered."
        in plantables.notes(made, TODAY)
    )


def test_another_slo_that_is_laxer_is_only_simulated_and_that_is_said() -> None:
    made = plan.plan([FP32], Asked(demand.steady(10.0), Slo(99, 1.0, 0.99)))
    (option,) = made.options
    assert option.rate is not None
    assert option.rate > 70.0
    assert max(map(len, printed(made).splitlines())) <= WIDTH
    assert all(said in printed(made) for said in ("simulated,", "not measured;", "70.0 measured"))
    assert plantables.verdict(made).endswith(
        f"That one replica holds {option.rate:.4g}/s is simulated, not measured; measured are 70/s."
    )
    (told,) = to_dict(made)["options"]
    assert told["simulated_not_measured"] is True
    assert told["measured_rate"] == 70.0


def test_a_run_above_the_rate_that_holds_is_evidence_for_a_laxer_slo() -> None:
    one = profile(slo=SLO, levels=levels((70.0, 0.011), (140.0, 0.15)))
    assert evidence.shown(one, Slo(99, 0.2, 0.99)) == 140.0
    assert evidence.shown(one, Slo(99, 0.12, 0.99)) == 70.0


def test_a_rate_that_the_generator_bounds_is_a_lower_one_and_has_no_ratio() -> None:
    asked = Asked(demand.steady(400.0), SLO)
    made = plan.plan([FP32, bound()], asked)
    assert ">= 120.0" in printed(made)
    assert "<= 4 " in printed(made)
    assert plantables.verdict(made).endswith(
        "with 4 replicas for at most $146 a month; the next, net fp32 on cloud-small, costs $256. "
        "On whole machines, up to 3 replicas on each, that is at most $292."
    )
    (note,) = plantables.notes(made, TODAY)
    assert "the 120/s of one replica are only a lower bound" in note
    bounds = {told["name"]: told["rate_is_lower_bound"] for told in to_dict(made)["options"]}
    assert bounds == {"net int8": True, "net fp32": False}
    made = plan.plan([FP32, bound("net slow", 30.0)], asked)
    assert (
        "for $256 a month; whether net slow on cloud-small is cheaper can't be said. "
        in plantables.verdict(made)
    )


def test_one_replica_is_needed_whatever_the_generator_bounds() -> None:
    text = printed(plan.plan([bound()], Asked(demand.steady(10.0), SLO)))
    assert ">= 120.0" in text
    assert "<= 1 " not in text


def test_a_run_above_a_rate_that_the_generator_bounds_is_evidence() -> None:
    runs = levels((70.0, 0.011), (140.0, 0.02), (200.0, 0.3))
    assert evidence.shown(profile(slo=SLO, levels=runs, generator_bound=True), SLO) == 140.0
    assert evidence.shown(profile(slo=SLO, levels=runs), SLO) == 70.0


def test_no_break_even_is_told_of_a_rate_that_is_only_a_lower_bound() -> None:
    options = (Option(GPU, 900.0, 1, None), Option(bound(), 120.0, 1, None, measured=120.0))
    assert Plan(Asked(demand.steady(1.0), SLO), options).break_evens() == []


def test_an_accuracy_change_of_nothing_has_no_sign_of_its_own() -> None:
    none = profile(subject=replace(FP32.subject, accuracy_change=-0.001))
    done = Simulated(observed(0.0123), Bill(), 0.0)
    said = printed(Plan(Asked(demand.steady(1.0), SLO), (Option(none, 70.0, 1, done),)))
    assert "+0.00" in said
    assert "-0.00" not in said
