"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.histogram import Histogram
from loadtests.reports.resampling import CONFIDENCE, Interval, Resampler


def latencies(seed: int, calls: int, *, median_s: float = 0.004) -> Histogram:
    values = median_s * np.exp(np.random.default_rng(seed).normal(0, 0.2, calls))
    return Histogram(values.tolist())


@pytest.mark.parametrize("percent", [50, 99])
def test_the_draws_are_those_of_resampled_counts(percent: float) -> None:
    held = latencies(1, 700)
    values, counts = (np.array(each) for each in zip(*held.values(), strict=True))
    rng = np.random.default_rng(2)
    ranks = np.cumsum(rng.multinomial(700, counts / 700, 4000), axis=1)
    by_hand = values[(ranks < np.ceil(7 * percent)).sum(axis=1)]
    drawn = Resampler(1).percentile(held, percent)
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(by_hand, share), rel=0.02)


@pytest.mark.parametrize("percent", [50, 99])
def test_equal_things_are_called_changed_no_more_often_than_promised(percent: float) -> None:
    alarms, rounds = 0, 100
    resampler = Resampler(1)
    for seed in range(rounds):
        before, after = latencies(seed, 1000), latencies(seed + rounds, 1000)
        draws = (resampler.percentile(each, percent) for each in (before, after))
        alarms += resampler.change(*draws).is_beyond_noise
    # One is promised; more than four come in a two-hundredth of such series.
    assert alarms <= 4


def test_a_shift_of_ten_percent_is_found() -> None:
    resampler = Resampler(4)
    draws = [
        resampler.percentile(latencies(seed, 2000, median_s=median_s), 50)
        for seed, median_s in ((1, 0.0040), (2, 0.0044))
    ]
    found = resampler.change(*draws)
    assert found.is_beyond_noise
    assert found.low < 0.1 < found.high


def width(calls: int, figures: int = 1) -> float:
    resampler = Resampler(figures)
    draws = (resampler.percentile(latencies(seed, calls), 99) for seed in (1, 2))
    found = resampler.change(*draws)
    return found.high - found.low


def test_fewer_calls_and_more_figures_widen_an_interval() -> None:
    assert width(500) > 1.5 * width(5000)
    assert width(2000, figures=40) > 1.1 * width(2000)


def test_the_same_seed_draws_the_same() -> None:
    one, other = (Resampler(1, seed=5).percentile(latencies(1, 100), 50) for _ in range(2))
    assert (one == other).all()


def test_latencies_that_are_all_one_bucket_apart_are_the_same() -> None:
    resampler = Resampler(1)
    one, other = Histogram([0.0040] * 500), Histogram([0.004002] * 500)
    draws = [resampler.percentile(each, 50) for each in (one, other)]
    assert not resampler.change(*draws).is_beyond_noise


def test_an_interval_around_nothing_is_noise() -> None:
    assert not Interval(-0.01, 0.02).is_beyond_noise
    assert Interval(0.01, 0.02).is_beyond_noise
    assert Interval(-0.02, -0.01).is_beyond_noise
    assert CONFIDENCE == 0.99
