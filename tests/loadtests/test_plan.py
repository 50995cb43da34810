"""Plans from made-up profiles: which wins, what is refused, and what people are told."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.arrivals import Curve
from loadtests.plans import demand, plan, plantables
from loadtests.plans.autoscaling import Following
from loadtests.plans.nodes import Machines
from loadtests.plans.plan import Asked, Option, Plan
from loadtests.plans.planjson import to_dict
from loadtests.plans.simulation import Simulated
from loadtests.screen import WIDTH
from loadtests.slo import Slo
from service.bill import Bill
from tests.loadtests.planned import FP32, GPU, INT8, SLO, TODAY, bound, printed
from tests.loadtests.profiles import observed, price, profile


@pytest.fixture(scope="module")
def steady() -> Plan:
    return plan.plan([FP32, INT8], Asked(demand.steady(400.0), SLO), listed=["cloud-large"])


@pytest.fixture(scope="module")
def day() -> Plan:
    return plan.plan([INT8, GPU], Asked(demand.day(2000.0), SLO, targets=(0.5, 0.8)))


def test_the_cheapest_comes_first_with_its_replicas_and_dollars(steady: Plan) -> None:
    int8, fp32 = steady.options
    assert (int8.profile.name, fp32.profile.name) == ("net int8", "net fp32")
    # 480/s with headroom, of which one carries 120 and 70; $0.05 an hour each, for 730 hours
    assert (int8.number, fp32.number) == (4, 7)
    assert int8.usd_per_month == pytest.approx(4 * 0.05 * 730)
    assert int8.effective_usd_per_million(steady.asked.demand) == pytest.approx(
        1e6 * 4 * 0.05 / 3600 / 400, rel=0.01
    )


def test_the_verdict_names_the_winner_its_price_and_the_next(steady: Plan) -> None:
    said = plantables.verdict(steady)
    assert said.startswith("net int8 on cloud-small serves 400/s within the SLO")
    assert "with 4 replicas for $146 a month" in said
    assert "net fp32 on cloud-small, costs $256, 1.75 times as much. " in said
    # Kubernetes leaves 3.92 of four CPUs, which are three replicas; so it takes two machines.
    assert said.endswith("On whole machines, up to 3 replicas on each, that is $292.")


def test_a_machine_without_a_profile_is_named_and_never_wins(steady: Plan) -> None:
    assert steady.not_measured == ("cloud-large",)
    assert "Not measured, so not in the verdict: cloud-large." in plantables.notes(steady, TODAY)
    assert "cloud-large" not in plantables.verdict(steady)
    assert all("cloud-large" not in str(option) for option in to_dict(steady)["options"])


def test_over_a_day_autoscaling_saves_where_the_slo_holds(day: Plan) -> None:
    (int8,) = (option for option in day.options if not option.accelerated)
    assert {one.target for one in int8.scaled} <= set(day.asked.targets)
    best = int8.best_scaled
    assert best is not None
    assert not best.failure
    assert int8.scaled_usd_per_month(best) < int8.usd_per_month
    assert int8.least_usd_per_month == int8.scaled_usd_per_month(best)
    assert best.fleet.least < best.fleet.most < 1.3 * (int8.number or 0)
    assert int8.mean_used < (int8.done.used if int8.done else 0)


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        # With headroom one GPU carries 750/s, and 100/s cost $0.05 on CPUs: two cost as much as
        # eight of those.
        (0.2, "net gpu on cloud-gpu is cheaper than net int8 on cloud-small from 800 requests per "
         "second on, at any higher rate."),
        (0.5, "At no rate net gpu on cloud-gpu is cheaper than net int8 on cloud-small in the long "
         "run."),
    ],
)  # fmt: skip
def test_an_accelerator_breaks_even_with_the_best_of_the_others(usd: float, said: str) -> None:
    gpu = profile("net gpu", price=price("cloud-gpu", usd_per_hour=usd, accelerator="T4",
                                         accelerators=1))  # fmt: skip
    options = (Option(FP32, 70.0, 1, None), Option(gpu, 900.0, 1, None),
               Option(INT8, 120.0, 1, None))  # fmt: skip
    made = Plan(Asked(demand.steady(1.0), SLO), options)
    assert plantables.notes(made, TODAY) == [said]


def test_an_accelerator_is_not_scaled_by_the_cpu_that_it_leaves_idle(day: Plan) -> None:
    (gpu,) = (option for option in day.options if option.accelerated)
    assert gpu.scaled == ()
    assert any("is counted as always there" in note for note in plantables.notes(day, TODAY))


@pytest.mark.parametrize("bounded", [False, True])
def test_there_are_never_fewer_replicas_than_the_least(bounded: bool) -> None:
    asked = Asked(demand.steady(10.0), SLO, least=3)
    made = plan.plan([bound() if bounded else INT8], asked)
    (option,) = made.options
    assert option.number == 3
    assert option.usd_per_month == pytest.approx(3 * 0.05 * 730)
    # More from one replica would not make them fewer.
    assert "with 3 replicas for $110 a month" in plantables.verdict(made)
    assert "<= 3" not in printed(made)
    assert to_dict(made)["least_replicas"] == 3


def test_an_autoscaler_keeps_the_least_at_night() -> None:
    day = demand.Demand("a day", Curve(((0.0, 10.0), (600.0, 10.0), (600.0, 600.0),
                                        (1200.0, 600.0))))  # fmt: skip
    fleets = {
        least: plan.plan([INT8], Asked(day, SLO, targets=(0.5,), least=least)).options[0].scaled[0]
        for least in (1, 2)
    }
    assert [fleets[least].fleet.least for least in (1, 2)] == [1, 2]
    assert fleets[2].fleet.mean > fleets[1].fleet.mean


def test_the_least_moves_where_an_accelerator_breaks_even() -> None:
    gpu = profile("net gpu", price=price("cloud-gpu", usd_per_hour=0.12, accelerator="T4",
                                         accelerators=1))  # fmt: skip
    options = (Option(gpu, 900.0, 1, None), Option(INT8, 120.0, 1, None))

    def rate(least: int) -> float | None:
        ((_, _, found),) = Plan(Asked(demand.steady(1.0), SLO, least=least), options).break_evens()
        return found

    # One costs as much as 2.4 of the others, which carry 100/s each: cheaper than three of them.
    # Two cost as much as 4.8.
    assert (rate(1), rate(2)) == (pytest.approx(200.0), pytest.approx(400.0))


def test_without_targets_nothing_is_scaled() -> None:
    day = demand.Demand("a day", Curve(((0.0, 10.0), (600.0, 600.0))))
    (option,) = plan.plan([INT8], Asked(day, SLO, targets=())).options
    assert option.number
    assert option.scaled == ()


@pytest.mark.parametrize(
    ("cpus", "change", "holds"),
    [
        (1.0, {}, 3), (2.0, {}, 1), (1.96, {}, 2), (4.0, {}, 0), (3.92, {}, 1),
        (2.0, {"cpus": 8}, 3), (1.0, {"accelerator": "T4", "accelerators": 1}, 1),
        (4.0, {"accelerator": "T4", "accelerators": 1}, 0), (1.0, {"cpus": 1}, 0),
    ],
)  # fmt: skip
def test_a_machine_holds_what_fits_beside_kubernetes(
    cpus: float, change: dict[str, Any], holds: int
) -> None:
    assert Machines(price(**change), cpus).holds == holds


def test_machines_come_and_go_with_the_replicas() -> None:
    fleet = Following(((0.0, 2.0), (50.0, 4.0)), 100.0)
    assert Machines(price(), 1.0).usd_per_hour(fleet) == pytest.approx(0.2 * (1 + 2) / 2)


def test_a_replica_that_fits_on_no_machine_is_said() -> None:
    large = profile("net large", slo=SLO, cpus=4.0)
    made = plan.plan([large], Asked(demand.steady(10.0), SLO))
    why = "a replica of 4 CPUs fits on no cloud-small: Kubernetes leaves 3.92 of its 4; measure one"
    assert f"But {why}" in plantables.verdict(made)
    assert any(why in note for note in plantables.notes(made, TODAY))
    assert to_dict(made)["options"][0]["whole_machines_usd_per_month"] is None


def test_figures_for_people_fit_the_screen(steady: Plan, day: Plan) -> None:
    for made in (steady, day):
        console = Console(width=WIDTH, record=True, file=io.StringIO())
        plantables.show(console, made)
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= WIDTH
        for option in made.options:
            assert option.profile.name in text
            assert str(option.number) in text


def bursts(path: Path) -> demand.Demand:
    """Sixty calls at once, every 15 seconds."""
    times = (15 * burst + 1e-5 * k for burst in range(40) for k in range(60))
    path.write_text("time_s\n" + "".join(f"{due:.6f}\n" for due in times))
    return demand.traced(path)


def test_bursts_that_are_shorter_than_anything_counted_are_planned_for(tmp_path: Path) -> None:
    load = bursts(tmp_path / "bursts.csv")
    accelerated = profile(slo=SLO, price=price(accelerator="T4", accelerators=1))
    (bare,), (roomy,) = (
        # An accelerator is not scaled, which would only take time here.
        plan.plan([accelerated], Asked(load, SLO, headroom=headroom)).options
        for headroom in (0.0, 0.2)
    )
    assert bare.done is not None
    assert roomy.done is not None
    assert min(bare.done.in_time, roomy.done.in_time) > 0.99
    assert 5 < (bare.number or 0) < (roomy.number or 0) < 12


def test_a_percentile_of_too_few_answers_is_not_printed() -> None:
    def said(calls: int) -> str:
        done = Simulated(observed(0.0123, calls=calls), Bill(), 0.0)
        return printed(Plan(Asked(demand.steady(1.0), SLO), (Option(FP32, 70.0, 1, done),)))

    assert "12.3" in said(459)
    assert "12.3" not in said(458)


def test_what_cpu_utilisation_says_nothing_of_has_none(day: Plan) -> None:
    rows = [line.strip() for line in printed(day).splitlines() if " CPU" in line and "net " in line]
    assert {row[:7]: row[-1] for row in rows} == {"net gpu": "-", "net int": "%"}
    used = {option["name"]: option["used"] for option in to_dict(day)["options"]}
    assert used["net gpu"] is None
    assert used["net int8"] > 0


@pytest.mark.parametrize("change", [{"levels": ()}, {"bill": None}], ids=["quick", "no-metrics"])
def test_a_profile_that_does_not_tell_the_front_ends_cpu_is_named(change: dict[str, Any]) -> None:
    asked = Asked(demand.steady(10.0), SLO)
    (note,) = plantables.notes(plan.plan([profile(slo=SLO, **change)], asked), TODAY)
    assert "does not tell what the front end takes of the CPU" in note
    assert plantables.notes(plan.plan([FP32], asked), TODAY) == []


def test_too_few_calls_to_show_it_are_not_called_a_failure() -> None:
    few = demand.Demand("a call a minute", Curve(((0.0, 1 / 60), (60.0, 1 / 60))))
    high = Slo(99.999, 0.1, 0.99)
    made = plan.plan([profile(slo=high)], Asked(few, high))
    assert made.best is None
    assert plantables.verdict(made) == (
        "Whether p99.999 <= 100 ms, 0.99 answered holds for a call a minute can't be said."
    )
    (note,) = plantables.notes(made, TODAY)
    assert "calls too few to show p99.999" in note
    assert "?" in printed(made)


def test_a_flat_rate_is_not_cheaper_with_autoscaling() -> None:
    flat = demand.Demand("flat", Curve(((0.0, 600.0), (60.0, 600.0))))
    (option,) = plan.plan([FP32], Asked(flat, SLO, targets=(0.5, 0.7, 0.9))).options
    assert option.number == 11
    assert option.scaled
    assert option.best_scaled is None


def test_an_old_price_is_said() -> None:
    made = Plan(Asked(demand.steady(1.0), SLO), (Option(FP32, 70.0, 1, None),))
    assert plantables.notes(made, datetime.date(2028, 1, 1)) == [
        "The price of cloud-small is of 2026-11-01, more than a year old."
    ]


def test_what_was_measured_for_the_slo_is_not_called_simulated(steady: Plan) -> None:
    assert "not measured" not in printed(steady)
    assert "not measured" not in plantables.verdict(steady)
    assert not any(told["simulated_not_measured"] for told in to_dict(steady)["options"])
