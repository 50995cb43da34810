"""What one replica gets of all calls, and how a fleet follows the rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.arrivals import Curve
from loadtests.plans import curves, demand
from loadtests.plans.autoscaling import HOLD_S, LAG_S, follow
from loadtests.plans.demand import Demand
from service.errors import InvalidSetting

STEP = Curve(((0.0, 10.0), (600.0, 10.0), (600.0, 40.0), (1200.0, 40.0), (1200.0, 10.0),
              (3600.0, 10.0)))  # fmt: skip


def trace(path: Path, text: str) -> Demand:
    path.write_text(text)
    return demand.traced(path)


def test_a_steady_rate_is_shared_evenly_and_drawn_at_any_length() -> None:
    (part,) = demand.share(demand.steady(100.0), ((0.0, 4),), calls=5000, seed=1)
    assert (len(part.times), part.seconds) == (5000, 200.0)
    assert part.times == sorted(part.times)


def test_more_replicas_get_the_same_steady_calls_further_apart() -> None:
    (few,) = demand.share(demand.steady(100.0), ((0.0, 2),), calls=100, seed=1)
    (many,) = demand.share(demand.steady(100.0), ((0.0, 4),), calls=100, seed=1)
    assert many.times == pytest.approx([2 * due for due in few.times])


def test_what_can_be_simulated_is_simulated_as_a_whole() -> None:
    (part,) = demand.share(Demand("", STEP), ((0.0, 10),), calls=10_000, seed=1)
    assert (len(part.times), part.seconds, part.weight) == (round(STEP.sends / 10), 3600.0, 1.0)
    assert sum(600 <= due < 1200 for due in part.times) == pytest.approx(2400, rel=0.1)


def test_of_what_is_longer_all_bursts_are_seen_and_windows_of_the_rest_by_their_weight() -> None:
    points = [(0.0, 10.0)]
    for begin in (5000.0, 30_000.0, 70_000.0):
        points += [(begin, 10.0), (begin, 200.0), (begin + 10, 200.0), (begin + 10, 10.0)]
    spikes = Curve((*points, (86_400.0, 10.0)))
    hot, calm = demand.share(Demand("", spikes), ((0.0, 1),), calls=4800, seed=1)
    assert hot.weight * hot.seconds + calm.weight * calm.seconds == pytest.approx(86_400)
    assert hot.weight == 1
    assert len(hot.times) + calm.weight * len(calm.times) == pytest.approx(spikes.sends, rel=0.01)

    def dense(times: list[float]) -> int:
        return sum(times[k + 20] - times[k] < 0.5 for k in range(len(times) - 20))

    assert dense(hot.times) == pytest.approx(3 * 2000, rel=0.05)  # 200/s, elsewhere it is 10/s
    assert dense(calm.times) == 0


def test_arrivals_of_a_trace_are_thinned_and_fewer_replicas_get_them_all_and_more(
    tmp_path: Path,
) -> None:
    lines = "".join(f"{k / 50}\n" for k in range(5000))
    load = trace(tmp_path / "trace.csv", "time_s\n" + lines)
    assert (round(load.peak), round(load.mean)) == (50, 48)  # the last count is a part of 15 s
    one = demand.share(load, ((0.0, 1),), calls=10_000, seed=1)[0].times
    third = demand.share(load, ((0.0, 3),), calls=10_000, seed=1)[0].times
    fourth = demand.share(load, ((0.0, 4),), calls=10_000, seed=1)[0].times
    assert one == [k / 50 for k in range(5000)]
    assert len(third) == pytest.approx(5000 / 3, rel=0.1)
    assert set(fourth) < set(third) < set(one)


@pytest.mark.parametrize("factor", [0.5, 1.2, 2.0])
def test_a_traces_own_arrivals_become_more_or_fewer_in_each_of_its_bursts(
    tmp_path: Path, factor: float
) -> None:
    times = [15 * burst + 1e-5 * k for burst in range(20) for k in range(60)]
    load = trace(tmp_path / "trace.csv", "time_s\n" + "".join(f"{due:.6f}\n" for due in times))
    made = load.times_as_much(factor)
    assert list(made.times) == sorted(made.times)
    for burst in range(20):
        begin = 15 * burst
        assert sum(begin <= due < begin + 0.001 for due in made.times) == 60 * factor
    assert made.curve.sends == pytest.approx(factor * load.curve.sends)


def test_a_replica_gets_more_while_the_fleet_is_small() -> None:
    even = Curve(((0.0, 60.0), (100.0, 60.0)))
    alone = curves.shared(even, ((0.0, 1), (50.0, 3)))
    assert (curves.rate_at(alone, 10.0), curves.rate_at(alone, 60.0)) == (60.0, 20.0)
    assert alone.sends == pytest.approx(50 * 60 + 50 * 20)


def test_a_stretch_of_a_curve_keeps_its_steps() -> None:
    piece = curves.cut(STEP, (600.0, 1500.0))
    assert piece.points == ((0.0, 40.0), (600.0, 40.0), (600.0, 10.0), (900.0, 10.0))


def test_the_busiest_stretch_is_the_one_with_most_calls() -> None:
    assert Demand("", STEP).busiest(600.0).mean == pytest.approx(40.0)
    assert demand.day(100.0).busiest(3600.0).mean == pytest.approx(97.5, abs=2.5)
    assert demand.day(100.0).peak == 100.0


def test_a_trace_without_calls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="no calls over a time"):
        trace(tmp_path / "trace.csv", "time_s,requests_per_s\n0,0\n60,0\n")


def test_two_arrivals_years_apart_are_counted_in_no_more_stretches_than_can_be_held(
    tmp_path: Path,
) -> None:
    load = trace(tmp_path / "trace.csv", "time_s\n0\n100000000\n")
    assert len(load.curve.points) < 250_000
    assert load.curve.sends == pytest.approx(2)


class Points(tuple[tuple[float, float], ...]):
    """Points that know how often somebody went through all of them."""

    passes: int = 0

    def __iter__(self) -> Iterator[tuple[float, float]]:
        Points.passes += 1
        return super().__iter__()


def test_following_a_long_trace_does_not_go_through_it_at_each_look() -> None:
    points = Points((float(second), 10.0 + second % 7) for second in range(3600))
    fleet = follow(Curve(points), 3.0)
    Points.passes = 0
    curves.cut(Curve(points), (900.0, 915.0))
    assert follow(Curve(points), 3.0) == fleet
    assert Points.passes == 0


def test_a_stretch_of_a_fleet_begins_with_what_is_there() -> None:
    fleet = ((0.0, 1.0), (100.0, 4.0), (200.0, 2.0), (400.0, 3.0))
    assert curves.fleet_in(fleet, (150.0, 400.0)) == [(0.0, 4.0), (50.0, 2.0)]
    assert curves.fleet_in(fleet, (100.0, 150.0)) == [(0.0, 4.0)]


def test_a_fleet_follows_a_step_after_the_lag_and_goes_down_when_the_hold_is_over() -> None:
    fleet = follow(STEP, 10.0)
    assert fleet.steps == (
        (0.0, 1.0), (600.0 + LAG_S, 4.0), (1200.0 + LAG_S + HOLD_S, 1.0),
    )  # fmt: skip
    assert (fleet.least, fleet.most) == (1, 4)
    assert fleet.mean == pytest.approx((3600 + 3 * (600 + HOLD_S)) / 3600)


def test_a_fleet_for_a_constant_rate_never_changes() -> None:
    fleet = follow(Curve(((0.0, 35.0), (600.0, 35.0))), 10.0)
    assert fleet.steps == ((0.0, 4.0),)
    assert fleet.mean == 4
