"""One replica in simulated time, against what queueing theory knows, and against a whole fleet."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from loadtests import arrivals
from loadtests.plans.replica import Replica, measured, spread
from loadtests.plans.simulation import Simulated, simulate
from service.bill import BUSY, SERVING, WASTE
from service.errors import InvalidSetting
from tests.loadtests.profiles import observed, profile

ONE_ROW = Replica(runs=((1, 0.01),))
BATCHES = Replica(
    runs=tuple((rows, 0.005 * (1 + rows)) for rows in (1, 2, 4, 8)), noise=spread(0.15)
)


def run(
    replica: Replica, rate: float, *, calls: int = 10_000, limit_s: float = 0.1, seed: int = 1
) -> Simulated:
    seconds = calls / rate
    times = arrivals.schedule("poisson", rate=rate, seconds=seconds, seed=seed)
    return simulate(replica, times, seconds=seconds, limit_s=limit_s, seed=seed)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_one_row_at_a_time_waits_as_the_m_d_1_queue_says(load: float) -> None:
    seen = run(ONE_ROW, load / 0.01, calls=20_000).seen
    waits = load / (2 * (1 - load)) * 0.01  # Pollaczek and Khinchine
    assert seen.latency.mean == pytest.approx(0.01 + waits, rel=0.05)
    assert seen.success == 1


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_it_is_used_as_much_as_it_is_loaded(load: float) -> None:
    assert run(ONE_ROW, load / 0.01).used == pytest.approx(load, rel=0.01)


def test_noise_makes_calls_wait_longer_by_its_variance() -> None:
    noisy = Replica(runs=((1, 0.01),), noise=((0.5, 1), (1.5, 1)))
    seen = run(noisy, 50.0, calls=40_000).seen
    assert seen.latency.mean == pytest.approx(0.01 + 0.5 / (2 * 0.5) * 0.01 * 1.25, rel=0.05)


def test_under_overload_batches_are_full_and_what_is_more_is_refused() -> None:
    most = 8 / BATCHES.mean_s(8)
    seen = run(BATCHES, 3 * most, calls=40_000, limit_s=0).seen
    assert seen.good_per_s == pytest.approx(most, rel=0.05)
    assert seen.endings["RESOURCE_EXHAUSTED"] == pytest.approx(2 / 3 * seen.offered, rel=0.05)


def test_batches_carry_more_than_single_rows_can() -> None:
    alone = 1 / BATCHES.mean_s(1)
    assert run(BATCHES, 1.2 * alone).in_time > 0.999


def test_every_call_has_one_ending_and_every_core_second_one_line() -> None:
    late = Replica(runs=BATCHES.runs, noise=((0.5, 9), (5.5, 1)), deadline_s=0.06, serving_s=0.001)
    done = run(late, 150.0)
    assert sum(done.seen.endings.values()) == done.seen.offered == 10_000
    assert set(done.seen.endings) == {"good", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert done.bill.accounted_core_s == pytest.approx(done.bill.paid_core_s)
    assert not any(done.bill.unsettled.values())
    assert done.bill.of(WASTE) > 0
    assert done.bill.of(BUSY) > done.bill.of(WASTE)


def test_the_front_end_takes_its_time_and_the_cores_of_the_runs() -> None:
    served = Replica(runs=((1, 0.01),), serving_s=0.004)
    done = run(served, 50.0)
    assert done.bill.of(SERVING) == pytest.approx(0.004 * 10_000)
    assert done.used == pytest.approx(0.7, rel=0.01)
    assert run(served, 5.0).seen.latency.mean == pytest.approx(0.014, rel=0.05)
    assert run(served, 80.0, calls=40_000).used > 0.97  # 1.12 of what it can do


def test_a_second_core_serves_beside_the_run() -> None:
    apart = Replica(runs=((1, 0.01),), serving_s=0.004, cores=2)
    beside = Replica(runs=((1, 0.01),), serving_s=0.004, cores=2, instances=2)
    assert run(apart, 80.0).seen.success == 1
    assert run(beside, 120.0).seen.success == 1


def test_the_way_is_waited_for_and_paid_by_nobody() -> None:
    far = Replica(runs=((1, 0.01),), way_s=0.05)
    near, away = run(ONE_ROW, 20.0), run(far, 20.0)
    assert away.seen.latency.mean == pytest.approx((near.seen.latency.mean or 0) + 0.05, rel=0.01)
    assert away.used == pytest.approx(near.used, rel=0.01)


def test_a_request_above_the_batch_limit_runs_in_parts() -> None:
    large = Replica(runs=BATCHES.runs, rows=20)
    done = run(large, 1.0, calls=100)
    assert done.seen.latency.mean == pytest.approx(2 * large.mean_s(8) + large.mean_s(4), rel=0.1)
    assert done.seen.success == 1


@pytest.mark.parametrize("rate", [60.0, 90.0])
def test_one_replica_with_its_share_tells_what_a_fleet_does(rate: float) -> None:
    calls, replicas = 30_000, 3
    seconds = calls / (replicas * rate)
    times = arrivals.schedule("poisson", rate=replicas * rate, seconds=seconds, seed=5)
    chance, shares = Random(5), [list[float]() for _ in range(replicas)]
    for due in times:
        chance.choice(shares).append(due)
    first, *others = (
        simulate(BATCHES, share, seconds=seconds, limit_s=0.1, seed=number)
        for number, share in enumerate(shares)
    )
    whole = sum(others, first)
    one = run(BATCHES, rate, calls=calls)
    assert whole.seen.offered == calls
    assert one.used == pytest.approx(whole.used, rel=0.03)
    assert one.in_time == pytest.approx(whole.in_time, abs=0.01)
    for percent in (50, 90, 99):
        assert one.seen.latency.at(percent) == pytest.approx(
            whole.seen.latency.at(percent), rel=0.15
        )


def test_a_part_of_what_was_seen_is_like_the_whole() -> None:
    late = Replica(runs=BATCHES.runs, noise=((0.5, 9), (5.5, 1)), deadline_s=0.06, serving_s=0.001)
    whole = run(late, 150.0, limit_s=0.04)
    part = whole.part(0.1)
    assert part.seen.offered == sum(part.seen.endings.values()) == 1000
    for ending, number in whole.seen.endings.items():
        assert part.seen.endings[ending] == pytest.approx(number / 10, abs=3)
    assert part.seen.latency.at(90) == pytest.approx(whole.seen.latency.at(90), rel=0.02)
    assert part.used == pytest.approx(whole.used)
    assert part.bill.accounted_core_s == pytest.approx(whole.bill.paid_core_s / 10)


def test_a_profile_tells_the_runs_the_front_end_and_the_way() -> None:
    replica = measured(profile(row_s=0.01, serving_s=0.0004))
    assert replica.runs == ((1, 0.01), (2, 0.015), (4, 0.025), (8, 0.045))
    assert replica.mean_s(3) == pytest.approx(0.02)
    assert (replica.max_rows, replica.deadline_s, replica.cores) == (8, 1.0, 1.0)
    assert replica.serving_s == pytest.approx(0.0004)
    assert replica.way_s == pytest.approx(0.0006, abs=2e-5)
    lone = run(replica, 5.0, calls=2000).seen.latency.mean
    assert lone == pytest.approx(observed(0.011).latency.mean, rel=0.05)


def test_a_server_of_several_instances_runs_as_many_at_once() -> None:
    two = replace(profile().conditions, instances=2, cpus=2.0)
    replica = measured(profile(conditions=two, serving_s=0.0, runs={1: (100, 0.01)}))
    assert replica.instances == 2
    assert run(replica, 180.0, calls=3000).used == pytest.approx(0.9, rel=0.02)


def test_runs_that_contradict_each_other_are_weighed_by_how_many_there_were() -> None:
    runs = {1: (100, 0.010), 2: (300, 0.020), 4: (100, 0.012), 8: (100, 0.03)}
    assert measured(profile(runs=runs)).runs == (
        (1, 0.010), (2, pytest.approx(0.018)), (4, pytest.approx(0.018)), (8, 0.03),
    )  # fmt: skip


def test_noise_is_that_of_one_caller_or_a_stated_one() -> None:
    seen = observed(0.01, calls=500)
    seen.merge(observed(0.03, calls=500))
    noise = measured(profile(alone=seen)).noise
    assert [(round(factor, 2), often) for factor, often in noise] == [(0.5, 500), (1.5, 500)]
    stated = measured(profile(alone=None)).noise
    assert sum(factor for factor, _ in stated) / len(stated) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"price": None}, "is void: it lacks a price"),
        ({"runs": {}}, "its runs"),
        ({"conditions": replace(profile().conditions, replicas=2)}, "of 2 replicas together"),
        ({"subject": replace(profile().subject, server="triton 2.51.0")}, "is of triton 2.51.0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        measured(profile(**change))  # type: ignore[arg-type]
