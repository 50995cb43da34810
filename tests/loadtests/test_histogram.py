"""Latencies to three digits, that add up across processes and keep what people must not guess."""

from __future__ import annotations

import pytest

from loadtests.histogram import Histogram, samples_for


@pytest.mark.parametrize(
    ("percent", "violations", "values"),
    [(99, 0, 459), (99, 1, 662), (99, 10, 2010), (99.9, 0, 4603), (50, 0, 7)],
)
def test_a_percentile_needs_as_many_values_as_mlperf_asks_for(
    percent: float, violations: int, values: int
) -> None:
    assert samples_for(percent, violations) == values


@pytest.mark.parametrize("seconds", [0.000_004, 0.001234, 0.0567, 0.99, 12.34, 3599.0])
def test_a_value_keeps_three_digits_from_microseconds_to_an_hour(seconds: float) -> None:
    found = Histogram([seconds]).at(50)
    assert found is not None and found == pytest.approx(seconds, rel=1e-3)


def test_what_is_out_of_range_counts_as_the_nearest_that_is_in_it() -> None:
    low, high = Histogram([-1.0, 0.0]).at(100), Histogram([1e6]).at(100)
    assert low == 1e-6
    assert high == pytest.approx(3600, rel=1e-3)


def test_parts_add_up_to_the_whole_also_when_they_travelled_as_text() -> None:
    values = [0.001 * n for n in range(1, 301)]
    whole = Histogram(values)
    added = Histogram(values[::2])
    added.merge(Histogram.from_text(Histogram(values[1::2]).to_text()))
    assert added == whole != Histogram(values[:-1])
    assert (len(added), added.at(50), added.mean) == (300, whole.at(50), whole.mean)


@pytest.mark.parametrize(("values", "told"), [(458, False), (459, True)])
def test_a_percentile_is_told_only_with_values_enough_to_speak_of_it(
    values: int, told: bool
) -> None:
    found = Histogram([0.01] * values)
    assert (found.judged(99) is not None) == told
    assert found.at(99) == pytest.approx(0.01, rel=1e-3)


def test_without_values_there_is_no_percentile_and_no_mean() -> None:
    empty = Histogram()
    assert (len(empty), empty.at(50), empty.judged(50), empty.mean) == (0, None, None, None)
    assert (empty.values(), empty.above(0.0)) == ([], 0)


def test_values_above_a_limit_are_counted_and_one_at_the_limit_is_not_above_it() -> None:
    found = Histogram([0.05, 0.1, 0.1, 0.101, 0.2])
    assert found.above(0.1) == 2
    assert found.above(0.01) == 5
    assert found.above(0.3) == 0


def test_each_value_is_told_with_how_often_it_was_seen() -> None:
    assert Histogram([0.002, 0.001, 0.002]).values() == [(0.001, 1), (0.002, 2)]
