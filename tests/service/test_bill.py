"""A fleet's bill is the sum of its replicas'."""

from __future__ import annotations

import pytest

from service.bill import BUSY, GPU, IDLE, NO_MODEL, WASTE, Bill

ONE = ("m", "1", "fp32")
OTHER = ("m", "1", "int8")
LINE = (ONE, BUSY)


def bill(paid_usd: float | None, *, cores: float = 2.0, **core_s: float) -> Bill:
    lines = {(ONE, BUSY): core_s.get("busy", 0.0), (NO_MODEL, IDLE): core_s.get("idle", 0.0)}
    paid = sum(core_s.values())
    return Bill(lines, {}, cores, paid / cores, paid, paid_usd)


def test_replicas_of_different_age_and_price_add_up() -> None:
    fleet = bill(1.0, busy=30.0, idle=10.0) + bill(5.0, cores=4.0, busy=50.0, idle=110.0)
    assert (fleet.of(BUSY), fleet.of(IDLE)) == (80.0, 120.0)
    assert (fleet.cores, fleet.seconds) == (6.0, 60.0)
    assert (fleet.paid_core_s, fleet.accounted_core_s) == (200.0, 200.0)
    assert fleet.usd(fleet.paid_core_s) == pytest.approx(6.0)
    assert fleet.usd(80.0) == pytest.approx(2.4)


def test_lines_that_only_one_replica_has_stay_in_the_sum() -> None:
    other = Bill({(OTHER, WASTE): 3.0}, {OTHER: 2.0}, 1.0, 5.0, 5.0, 0.5)
    fleet = bill(1.0, busy=4.0) + other + other
    assert (fleet.of(BUSY), fleet.of(WASTE), fleet.unsettled[OTHER]) == (4.0, 6.0, 4.0)


def test_one_unknown_price_makes_the_fleets_unknown() -> None:
    assert (bill(None, busy=1.0) + bill(1.0, busy=1.0)).usd(1.0) is None
    assert (bill(1.0, busy=1.0) + bill(None, busy=1.0)).usd(1.0) is None


def test_sum_of_no_replicas_costs_nothing() -> None:
    assert sum([], Bill()) == Bill()
    assert Bill().usd(0.0) == 0.0


def test_energy_of_a_fleet_adds_up_and_units_do_not_mix() -> None:
    one = Bill({}, cores=1.0, unit=GPU, joules={LINE: 5.0}, unsettled_j={LINE[0]: 1.0}, drawn_j=6.0)
    both = one + one
    assert (both.joules, both.unsettled_j, both.drawn_j) == ({LINE: 10.0}, {LINE[0]: 2.0}, 12.0)
    assert (Bill() + one).unit == GPU
    with pytest.raises(ValueError, match="do not add up"):
        one + Bill(cores=2.0)
