"""The bill of a report: it comes to the price of all machines for its time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtests.profile import Profile
from loadtests.reports.figures import Study, figures
from tests.loadtests.invented import profile


def bill_of(one: Profile, **conditions: Any) -> dict[str, dict[str, Any]]:
    """The bill by line, under other conditions."""
    other = replace(one, conditions=replace(one.conditions, **conditions))
    return {each["line"]: each for each in figures(Study([other]))["tables"]["bill"]}


# Forty seconds of a server that may use two CPUs.
TWO_CPUS = {
    "bill": {"busy": 50.0, "serving": 10.0, "idle": 20.0}, "paid_core_s": 80.0, "span_s": 40.0,
}  # fmt: skip


def test_the_bill_adds_up_to_the_price_of_all_cpus_for_its_time() -> None:
    one = profile(calls=1000)
    bill = bill_of(one).values()
    assert sum(each["share"] for each in bill) == pytest.approx(1)
    assert sum(each["core_s"] for each in bill) == pytest.approx(4 * (one.span_s or 0), rel=1e-3)
    usd = (one.conditions.usd_per_hour or 0) * (one.span_s or 0) / 3600
    assert sum(each["usd"] for each in bill) == pytest.approx(usd, rel=1e-3)


@pytest.mark.parametrize(
    ("cpus", "replicas", "local", "unseen"), [(4, 1, 0, 80.0), (2, 2, 0, 80.0), (2, 1, 1, None)]
)
def test_cpus_that_are_paid_for_and_in_no_ledger_have_a_line_of_their_own(
    cpus: float, replicas: int, local: int, unseen: float | None
) -> None:
    """A container with half of a machine's CPUs, and two machines of which one tells its ledger."""
    one = replace(profile(calls=100), **TWO_CPUS)  # type: ignore[arg-type]
    bill = bill_of(one, cpus=cpus, replicas=replicas, local=local)
    assert (bill["unseen"]["core_s"] if "unseen" in bill else None) == unseen
    usd = 0.8 / 8 * cpus * max(1, replicas - local) * 40 / 3600
    assert sum(each["usd"] for each in bill.values()) == pytest.approx(usd, rel=1e-3)
    assert sum(each["share"] for each in bill.values()) == pytest.approx(1)


def test_servers_that_share_cpus_are_paid_for_once() -> None:
    one = replace(profile(calls=100), **TWO_CPUS | {"span_s": 20.0})  # type: ignore[arg-type]
    bill = bill_of(one, cpus=2, replicas=2, local=2)
    assert sum(each["usd"] for each in bill.values()) == pytest.approx(0.1 * 2 * 20 / 3600)


def test_a_ledger_that_does_not_come_to_cores_times_seconds_has_no_dollars() -> None:
    for core_s, void in ((50.07, False), (50.2, True)):
        lines = {"busy": core_s, "serving": 10.0, "idle": 20.0}
        one = replace(profile(calls=100), **TWO_CPUS | {"bill": lines})  # type: ignore[arg-type]
        busy = bill_of(one, cpus=2)["busy"]
        assert bool(busy["void"]) == (busy["usd"] is None) == void
    assert busy["void"] == "the ledger's lines come to 80.2 of 80.0 core-seconds"


def test_a_bill_without_cpus_and_price_is_void_and_no_error() -> None:
    bill = bill_of(profile(calls=100), cpus=0, price=None)
    assert all(each["usd"] is None and each["share"] for each in bill.values())
    assert "a price" in bill["busy"]["void"]
