"""When an open loop sends: the shape that was asked for, drawn from the seed and nothing else."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from loadtests import arrivals
from loadtests.arrivals import SHAPES, Curve
from service.errors import InvalidSetting


def drawn(kind: str, *, rate: float = 100, seconds: float = 20, seed: int = 1) -> list[float]:
    return arrivals.schedule(kind, rate=rate, seconds=seconds, seed=seed)


def between(times: list[float], begin: float, end: float) -> int:
    return sum(begin <= time < end for time in times)


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind != "constant"])
def test_equal_seeds_give_equal_schedules_and_others_others(kind: str) -> None:
    assert drawn(kind) == drawn(kind) != drawn(kind, seed=2)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_schedule_ascends_inside_its_time_and_holds_the_curves_sends(
    kind: str, seed: int
) -> None:
    times = drawn(kind, seed=seed)
    assert len(times) == round(arrivals.curve(kind, rate=100, seconds=20).sends)
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 20


def test_gaps_of_poisson_arrivals_spread_as_much_as_their_mean_and_constant_ones_not() -> None:
    uneven = [b - a for a, b in pairwise(drawn("poisson", rate=200, seconds=50))]
    assert statistics.stdev(uneven) == pytest.approx(statistics.mean(uneven), rel=0.05)
    even = [b - a for a, b in pairwise(drawn("constant", rate=200, seconds=50))]
    assert even == pytest.approx([0.005] * 9999)


@pytest.mark.parametrize(
    ("kind", "begin", "end", "share"),
    [
        ("ramp", 0, 5, (0.05 + 0.2875) / 2),
        ("ramp", 15, 20, (0.7625 + 1) / 2),
        ("step", 0, 5, 0.25),
        ("step", 10, 15, 0.75),
        ("spike", 0, 9, 0.2),
        ("spike", 9, 11, 1.0),
        ("day", 0, 20 * 4 / 24, 0.275),
        ("day", 15, 20 * 19 / 24, (0.8125 + 1) / 2),
    ],
)
def test_a_shape_has_its_rate_at_its_time(
    kind: str, begin: float, end: float, share: float
) -> None:
    counted = between(drawn(kind, rate=2000), begin, end)
    assert counted == pytest.approx(2000 * share * (end - begin), rel=0.08)


def test_a_curve_draws_nothing_where_it_is_zero() -> None:
    curve = Curve(((0, 0), (5, 0), (5, 100), (10, 100)))
    times = curve.draw(seed=1)
    assert len(times) == 500
    assert min(times) >= 5


def test_a_trace_of_arrivals_is_replayed_as_it_is_and_cut_off(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s\n0\n0.75\n\n6.5\n")
    assert arrivals.replayed(trace, seed=1) == [0.0, 0.75, 6.5]
    times = arrivals.schedule("replay", rate=0, seconds=5, seed=1, trace=trace)
    assert times == [0.0, 0.75]


def test_a_trace_begins_with_its_first_time_whatever_clock_that_is_of(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s\n1700000000.5\n1700000002\n")
    assert arrivals.replayed(trace, seed=1) == [0.0, 1.5]
    trace.write_text("time_s,requests_per_s\n100,10\n200,10\n")
    curve = arrivals.read_trace(trace)
    assert isinstance(curve, Curve)
    assert (curve.seconds, curve.sends) == (100.0, 1000.0)
    assert len(arrivals.replayed(trace, seed=1)) == 1000


def test_from_a_trace_of_rates_arrivals_are_drawn(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s,requests_per_s\n0,100\n10,100\n10,300\n20,300\n")
    times = arrivals.replayed(trace, seed=1)
    assert len(times) == 4000
    assert between(times, 0, 10) == pytest.approx(1000, rel=0.1)
    assert times == arrivals.replayed(trace, seed=1) != arrivals.replayed(trace, seed=2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read"),
        ("time_s\nsoon\n", "cannot be read"),
        ("when\n1\n", "its first line is time_s"),
        ("time_s\n", "its first line is time_s"),
        ("time_s,requests_per_s\n1\n", "its first line is time_s"),
        ("time_s\n2\n1\n", "must ascend from 0"),
        ("time_s\n-1\n", "must ascend from 0"),
        ("time_s,requests_per_s\n0,-5\n", "its rates not be < 0"),
        ("time_s\nnan\n1\n", "must ascend from 0"),
        ("time_s,requests_per_s\n0,inf\n", "must ascend from 0"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_a_sentence(
    tmp_path: Path, text: str, why: str
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(InvalidSetting, match=why):
        arrivals.read_trace(trace)


def test_a_shape_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidSetting, match=r"there are poisson, .*, and replay"):
        drawn("sawtooth")
