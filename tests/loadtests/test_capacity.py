"""How much a replica carries, how many it takes, and where one kind becomes cheaper."""

from __future__ import annotations

from math import ceil

import pytest

from loadtests.arrivals import Curve
from loadtests.plans import capacity, demand
from loadtests.plans.capacity import Work, break_even
from loadtests.plans.demand import Demand
from loadtests.plans.replica import Replica, spread
from loadtests.slo import Slo

SLO = Slo(99, 0.1, 0.99)
REPLICA = Replica(
    runs=tuple((rows, 0.005 * (1 + rows)) for rows in (1, 2, 4, 8)), noise=spread(0.1),
    serving_s=0.0005,
)  # fmt: skip
WORK = Work(REPLICA, SLO)
BURST = Curve(((0.0, 50.0), (120.0, 50.0), (120.0, 900.0), (130.0, 900.0), (130.0, 50.0),
               (600.0, 50.0)))  # fmt: skip


def test_a_replica_carries_just_what_the_slo_lets_it() -> None:
    rate = capacity.highest(WORK)
    assert rate is not None
    at, above = (WORK.trial(demand.steady(factor * rate), ((0.0, 1),)) for factor in (1.0, 1.1))
    assert not WORK.failure(at)
    assert WORK.failure(above)


def test_it_is_never_given_more_than_was_measured_to_hold() -> None:
    assert capacity.highest(Work(REPLICA, SLO, most=60.0)) == 60.0
    assert (capacity.highest(Work(REPLICA, SLO, most=10_000.0)) or 0) < 200


@pytest.mark.parametrize("most", [float("inf"), 100.0])
def test_a_limit_below_one_run_holds_at_no_rate(most: float) -> None:
    assert capacity.highest(Work(REPLICA, Slo(99, 0.008, 0.99), most=most)) is None


def test_a_steady_rate_takes_as_many_replicas_as_share_it() -> None:
    assert capacity.replicas(WORK, demand.steady(301.0), 60.0) == 6
    assert capacity.replicas(WORK, demand.steady(300.0), 60.0) == 5
    assert capacity.replicas(WORK, demand.steady(1.0), 60.0) == 1


def test_a_burst_takes_more_than_its_mean() -> None:
    load = Demand("", BURST)
    number = capacity.replicas(WORK, load, 100.0)
    assert number is not None
    assert ceil(load.busiest(60.0).mean / 100.0) < number <= 9
    assert not WORK.failure(WORK.trial(load, ((0.0, number),)))
    assert WORK.failure(WORK.trial(load, ((0.0, number - 1),)))


def test_what_lasts_longer_than_a_burst_is_held_to_the_rate_of_one() -> None:
    load = Demand("", Curve(((0.0, 10.0), (900.0, 10.0), (900.0, 300.0), (990.0, 300.0))))
    assert capacity.replicas(WORK, load, 30.0) == 10


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


def test_rare_failures_are_looked_for_in_more_calls() -> None:
    assert Work(REPLICA, Slo(99, 0.1, 0.99)).calls == 3000
    assert Work(REPLICA, Slo(99, 0.1, 0.9995)).calls == pytest.approx(20_000, abs=1)
    assert Work(REPLICA, Slo(99, 0.1, 1.0)).calls == 40_000


def test_autoscaling_on_a_step_costs_less_and_holds_only_where_it_has_room() -> None:
    step = Curve(((0.0, 100.0), (1800.0, 100.0), (1800.0, 300.0), (3600.0, 300.0),
                  (3600.0, 100.0), (14_400.0, 100.0)))  # fmt: skip
    load = Demand("", step)
    rate = capacity.highest(WORK)
    assert rate is not None
    found = capacity.scaled(WORK, load, rate, lag_s=60.0, targets=(0.3, 0.5, 0.7))
    least, *_, most = found
    assert least.rate < most.rate <= rate
    assert least.fleet.mean > most.fleet.mean
    assert least.fleet.steps[1][0] == 1860.0
    assert least.done.in_time > most.done.in_time
    assert most.failure  # for a minute three times as much comes
    assert least.done.used < most.done.used


def test_a_step_that_is_followed_at_once_is_served_in_time() -> None:
    step = Curve(((0.0, 100.0), (1800.0, 100.0), (1800.0, 300.0), (3600.0, 300.0)))
    (slow,), (quick,) = (
        capacity.scaled(WORK, Demand("", step), 100.0, lag_s=lag_s, targets=(0.6,))
        for lag_s in (120.0, 0.0)
    )
    assert slow.failure
    assert not quick.failure


def test_a_target_that_the_slo_does_not_allow_is_left_out() -> None:
    day = demand.day(300.0)
    found = capacity.scaled(WORK, day, 50.0, lag_s=60.0, targets=(0.3, 0.99))
    assert [one.target for one in found] == [0.3]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # For $1, 1000/s; what carries 50/s costs 20 cents: six of those are $1.20, five $1.
        ((1000.0, 1.0), (50.0, 0.2), 250.0),
        # 5 % better: 19 of it cost as much as 95 of the others, and the 96th decides.
        ((100.0, 1.0), (19.0, 0.2), 1805.0),
        ((100.0, 0.1), (50.0, 0.2), 0.0),
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
