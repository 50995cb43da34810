"""How much a number of rows proves."""

from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.proof import plausible, rows_to_prove, upper_bound

CASES = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n)))


@pytest.mark.parametrize(
    ("events", "trials", "bound"),
    [(0, 400, 0.0075), (0, 598, 0.0050), (0, 600, 0.0050), (1, 600, 0.0079), (2, 600, 0.0105),
     (0, 1, 0.95)],
)  # fmt: skip
def test_upper_bound_is_what_the_tables_say(events: int, trials: int, bound: float) -> None:
    assert upper_bound(events, trials) == pytest.approx(bound, abs=1e-4)


@settings(deadline=None)
@given(CASES)
def test_upper_bound_equals_the_beta_quantile(case: tuple[int, int]) -> None:
    events, trials = case
    exact = scipy.stats.beta.ppf(0.95, events + 1, trials - events)
    assert upper_bound(events, trials) == pytest.approx(exact, rel=1e-6)


@settings(deadline=None)
@given(st.integers(1, 100_000))
def test_the_bound_of_no_event_is_its_closed_form(trials: int) -> None:
    # (1 - p) ** trials = 0.05
    assert upper_bound(0, trials) == pytest.approx(-math.expm1(math.log(0.05) / trials), rel=1e-9)


def test_upper_bound_is_one_where_every_trial_was_an_event() -> None:
    assert upper_bound(7, 7) == 1.0
    assert upper_bound(0, 0) == 1.0


def test_more_confidence_widens_the_bound() -> None:
    assert upper_bound(3, 500, 0.99) > upper_bound(3, 500, 0.95) > 3 / 500


@pytest.mark.parametrize(
    ("events", "drop", "rows"), [(0, 1.0, 299), (0, 0.5, 598), (1, 0.5, 947), (0, 100.0, 1)]
)
def test_rows_to_prove_is_what_the_tables_say(events: int, drop: float, rows: int) -> None:
    assert rows_to_prove(events, drop) == rows


@settings(deadline=None)
@given(st.integers(0, 20), st.floats(0.01, 50))
def test_one_row_less_would_not_prove_it(events: int, drop: float) -> None:
    rows = rows_to_prove(events, drop)
    assert rows is not None
    assert 100 * upper_bound(events, rows) <= drop < 100 * upper_bound(events, rows - 1)


@pytest.mark.parametrize("events", [0, 1, 30])
def test_no_number_of_rows_proves_that_nothing_is_lost(events: int) -> None:
    assert rows_to_prove(events, 0) is None


@settings(deadline=None)
@given(CASES, st.floats(1e-4, 0.9999))
def test_plausible_is_one_minus_the_binomial_distribution(
    case: tuple[int, int], rate: float
) -> None:
    events, trials = case
    at_least = scipy.stats.binom.sf(events - 1, trials, rate)
    if abs(at_least - 0.1) > 1e-9:
        assert plausible(events, trials, rate) == (at_least >= 0.1)


@pytest.mark.parametrize("rate", [0.0, 0.005, 1.0])
def test_no_event_is_plausible_at_every_rate(rate: float) -> None:
    assert plausible(0, 100, rate)


def test_an_event_is_not_plausible_where_there_can_be_none() -> None:
    assert not plausible(1, 1000, 0.0)
    assert plausible(1000, 1000, 1.0)


def test_an_event_in_few_rows_may_be_chance_and_ten_are_not() -> None:
    assert plausible(1, 100, 0.005)
    assert not plausible(10, 100, 0.005)
