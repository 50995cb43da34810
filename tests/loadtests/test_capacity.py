"""How much a replica carries, how many it takes, and where one kind becomes cheaper."""

from __future__ import annotations

from math import ceil

import pytest

from loadtests.arrivals import Curve
from loadtests.plans import capacity, curves, demand
from loadtests.plans.capacity import Work, break_even
from loadtests.plans.demand import Demand
from loadtests.plans.replica import Replica, spread
from loadtests.plans.simulation import Simulated, simulate
from loadtests.slo import Slo

SLO = Slo(99, 0.1, 0.99)
REPLICA = Replica(
    runs=tuple((rows, 0.005 * (1 + rows)) for rows in (1, 2, 4, 8)), noise=spread(0.1),
    serving_s=0.0005,
)  # fmt: skip
WORK = Work(REPLICA, SLO)
BURST = Curve(((0.0, 50.0), (30.0, 50.0), (30.0, 900.0), (33.0, 900.0), (33.0, 50.0),
               (180.0, 50.0)))  # fmt: skip


@pytest.fixture(scope="module")
def rate() -> float:
    """What one replica carries."""
    found = capacity.highest(WORK)
    assert found is not None
    return found


def test_a_replica_carries_just_what_the_slo_lets_it(rate: float) -> None:
    at, above = (WORK.trial(demand.steady(factor * rate), ((0.0, 1),)) for factor in (1.0, 1.1))
    assert not WORK.failure(at)
    assert WORK.failure(above)


def test_it_is_never_given_more_than_was_measured_to_hold() -> None:
    assert capacity.highest(Work(REPLICA, SLO, most=60.0)) == 60.0
    assert (capacity.highest(Work(REPLICA, SLO, most=400.0)) or 0) < 200


@pytest.mark.parametrize("most", [float("inf"), 100.0])
def test_a_limit_below_one_run_holds_at_no_rate(most: float) -> None:
    assert capacity.highest(Work(REPLICA, Slo(99, 0.008, 0.99), most=most)) is None


def test_a_steady_rate_takes_as_many_replicas_as_share_it() -> None:
    assert capacity.replicas(WORK, demand.steady(301.0), 60.0).number == 6
    assert capacity.replicas(WORK, demand.steady(300.0), 60.0).number == 5
    assert capacity.replicas(WORK, demand.steady(1.0), 60.0).number == 1


def test_a_burst_takes_more_than_its_mean() -> None:
    load = Demand("", BURST)
    number = capacity.replicas(WORK, load, 100.0).number
    assert number is not None
    assert ceil(load.busiest(60.0).mean / 100.0) < number <= 9
    assert not WORK.failure(WORK.trial(load, ((0.0, number),)))
    assert WORK.failure(WORK.trial(load, ((0.0, number - 1),)))


def test_what_lasts_longer_than_a_burst_is_held_to_the_rate_of_one() -> None:
    load = Demand("", Curve(((0.0, 10.0), (900.0, 10.0), (900.0, 300.0), (990.0, 300.0))))
    assert capacity.replicas(WORK, load, 30.0).number == 10


@pytest.mark.parametrize("load", [demand.steady(400.0), Demand("", BURST)], ids=["steady", "burst"])
def test_more_replicas_never_attain_less(load: Demand) -> None:
    attained = [WORK.trial(load, ((0.0, number),)).in_time for number in range(1, 10)]
    assert attained[0] < 0.8
    assert attained[-1] > 0.999
    assert attained == pytest.approx(sorted(attained), abs=0.003)


def test_a_few_calls_of_one_replica_are_those_of_several() -> None:
    load = Demand("", Curve(((0.0, 10.0), (60.0, 10.0))))
    done = WORK.trial(load, ((0.0, 1),))
    assert done.seen.offered >= WORK.calls / 2
    assert done.seen.seconds == pytest.approx(done.seen.offered / 10)


@pytest.mark.parametrize("number", [3, 4])
def test_a_peak_of_seconds_weighs_what_it_is_of_an_hour(number: int) -> None:
    load = Demand("", Curve(((0.0, 150.0), (600.0, 150.0), (600.0, 500.0), (604.0, 500.0),
                             (604.0, 150.0), (1440.0, 150.0))))  # fmt: skip
    looked = WORK.trial(load, ((0.0, number),))
    times = curves.shared(load.curve, ((0.0, number),)).draw(seed=1)
    whole = simulate(REPLICA, times, seconds=1440.0, limit_s=SLO.limit_s, seed=1)
    assert looked.seen.offered < 5000 < whole.seen.offered
    # Of one such peak: other draws of it differ by as much.
    assert looked.in_time == pytest.approx(whole.in_time, abs=0.004)
    assert looked.used == pytest.approx(whole.used, rel=0.03)


def test_few_calls_are_looked_at_again_until_they_show_it() -> None:
    load = Demand("", Curve(((0.0, 0.2), (60.0, 0.2))))
    found = capacity.replicas(WORK, load, 60.0)
    assert found.number == 1
    assert found.done is not None
    assert not SLO.failure(found.done.seen)


def test_too_few_to_show_it_is_not_called_a_failure() -> None:
    few = Demand("", Curve(((0.0, 1 / 60), (60.0, 1 / 60))))
    found = capacity.replicas(Work(REPLICA, Slo(99.999, 0.1, 0.99)), few, 60.0)
    assert found.number is None
    assert "calls too few to show p99.999" in found.why


def test_what_holds_with_headroom_must_hold_without() -> None:
    calm = Demand("", Curve(((0.0, 10.0), (60.0, 10.0))))

    class Unlucky(Work):
        def failure(self, done: Simulated) -> str:
            calls_per_s = done.seen.offered / done.seen.seconds
            return "bad luck" if 4 < calls_per_s < 11 else ""

    assert capacity.replicas(Unlucky(REPLICA, SLO), calm, 60.0, headroom=0.2).number == 3


@pytest.mark.parametrize("rate", [300.0, 600.0])
def test_a_flat_rate_is_not_served_by_fewer_that_are_autoscaled(rate: float) -> None:
    flat = Demand("", Curve(((0.0, rate), (60.0, rate))))
    number = capacity.replicas(WORK, flat, 70.0, headroom=0.2).number
    assert number == ceil(1.2 * rate / 70)
    found = capacity.scaled(WORK, flat, 70.0, lag_s=60.0, headroom=0.2, targets=(0.5, 0.6, 0.9))
    assert any(one.fleet.mean < number for one in found)
    assert all(one.failure for one in found if one.fleet.mean < number)
    assert any(not one.failure for one in found)


def test_an_autoscaled_fleet_must_hold_in_the_busiest_hour_too() -> None:
    points = [(0.0, 50.0)]
    for begin in (43_200.0, 44_100.0, 45_000.0, 45_900.0):
        points += [(begin, 50.0), (begin, 400.0), (begin + 20, 400.0), (begin + 20, 50.0)]
    load = Demand("", Curve((*points, (86_400.0, 50.0))))
    (one,) = capacity.scaled(WORK, load, 150.0, lag_s=60.0, targets=(0.4,))
    assert not WORK.failure(one.done)
    assert one.failure.startswith("in the busiest hour")


def test_rare_failures_are_looked_for_in_more_calls() -> None:
    assert Work(REPLICA, Slo(99, 0.1, 0.99)).calls == 3000
    assert Work(REPLICA, Slo(99, 0.1, 0.9995)).calls == pytest.approx(20_000, abs=1)
    assert Work(REPLICA, Slo(99, 0.1, 1.0)).calls == 40_000


def test_autoscaling_on_a_step_costs_less_and_holds_only_where_it_has_room(
    rate: float,
) -> None:
    step = Curve(((0.0, 100.0), (1800.0, 100.0), (1800.0, 300.0), (3600.0, 300.0),
                  (3600.0, 100.0), (14_400.0, 100.0)))  # fmt: skip
    load = Demand("", step)
    found = capacity.scaled(WORK, load, rate, lag_s=60.0, targets=(0.3, 0.5, 0.7))
    least, *_, most = found
    assert least.rate < most.rate <= rate
    assert least.fleet.mean > most.fleet.mean
    assert least.fleet.steps[1][0] == 1860.0
    assert least.done.in_time > most.done.in_time
    assert most.failure  # for a minute three times as much comes
    assert least.done.used < most.done.used


def test_a_step_that_is_followed_at_once_is_served_in_time() -> None:
    step = Curve(((0.0, 100.0), (60.0, 100.0), (60.0, 300.0), (240.0, 300.0)))
    (slow,), (quick,) = (
        capacity.scaled(WORK, Demand("", step), 100.0, lag_s=lag_s, targets=(0.6,))
        for lag_s in (120.0, 0.0)
    )
    assert slow.failure
    assert not quick.failure


def test_a_target_that_the_slo_does_not_allow_is_left_out() -> None:
    flat = Demand("", Curve(((0.0, 300.0), (60.0, 300.0))))
    found = capacity.scaled(WORK, flat, 50.0, lag_s=60.0, targets=(0.3, 0.99))
    assert [one.target for one in found] == [0.3]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # For $1, 1000/s; what carries 50/s costs 20 cents: six of those are $1.20, five $1.
        ((1000.0, 1.0), (50.0, 0.2), 250.0),
        # 5 % better: 19 of it cost as much as 95 of the others, and the 96th decides.
        ((100.0, 1.0), (19.0, 0.2), 1805.0),
        ((100.0, 0.1), (50.0, 0.2), 0.0),
        # Seven of the one cost as much as three of the other, though not in floats.
        ((172.0, 0.48), (352.0, 1.12), 1056.0),
    ],
)
def test_break_even_is_the_rate_from_which_on_it_stays_cheaper(
    one: tuple[float, float], other: tuple[float, float], expected: float
) -> None:
    assert break_even(one, other) == pytest.approx(expected)

    def cheaper(rate: float) -> bool:
        return ceil(rate / one[0]) * one[1] < ceil(rate / other[0]) * other[1] - 1e-9

    assert all(cheaper(expected + 0.37 * k) for k in range(1, 6000))
    assert not expected or not cheaper(expected)


def test_what_costs_more_for_each_request_is_not_cheaper_in_the_long_run() -> None:
    assert break_even((1000.0, 1.0), (50.0, 0.05)) is None
    assert break_even((1000.0, 1.1), (50.0, 0.05)) is None
