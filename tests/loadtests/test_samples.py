"""How many values a percentile needs, also where a run under overload has many violations."""

from __future__ import annotations

from math import comb

import pytest

from loadtests.histogram import samples_for


def chance(values: int, most: int, share: float) -> float:
    return sum(comb(values, k) * share**k * (1 - share) ** (values - k) for k in range(most + 1))


@pytest.mark.parametrize("violations", [0, 1, 10, 60])
@pytest.mark.parametrize("percent", [50, 99, 99.9])
def test_fewer_would_not_do(percent: float, violations: int) -> None:
    needed, share = samples_for(percent, violations), 1 - percent / 100
    assert chance(needed, violations, share) <= 0.01 < chance(needed - 1, violations, share)


def test_thousands_of_violations_need_as_many_times_their_share_and_a_bit() -> None:
    assert 500_000 < samples_for(99, 5000) < 530_000
