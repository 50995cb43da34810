"""The figures of a report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtests.prices import usd_per_million
from loadtests.profile import Profile
from loadtests.reports.figures import Refused, Study, figures
from service.errors import InvalidSetting
from tests.loadtests import invented
from tests.loadtests.invented import Queue, profile

FAST = Queue(1.6)


@pytest.fixture(scope="module")
def family() -> list[Profile]:
    return invented.family(1000)


@pytest.fixture(scope="module")
def found(family: list[Profile]) -> dict[str, Any]:
    refused = [Refused("int8-dynamic", "it is slower", 0.9, 1_500_000)]
    return figures(Study(family, "keras", refused))


def of(found: dict[str, Any], table: str, name: str) -> list[dict[str, Any]]:
    return [each for each in found["tables"][table] if each["name"] == name]


def with_price(one: Profile, usd_per_hour: float | None) -> Profile:
    price = None if usd_per_hour is None else replace(invented.PRICE, usd_per_hour=usd_per_hour)
    return replace(one, conditions=replace(one.conditions, price=price))


def test_the_verdict_names_variant_saving_and_slo_in_one_sentence(found: dict[str, Any]) -> None:
    assert found["chosen"] == "int8-static"
    assert found["verdict"].startswith("int8-static is the cheapest: $0.225 per million")
    assert "5.62 times cheaper than keras (82 % less)" in found["verdict"]
    assert "p99 within 100 ms and 99.9 % answered" in found["verdict"]
    assert "0.20 points of accuracy below" in found["verdict"]


def test_the_dollars_are_those_of_the_profile(family: list[Profile], found: dict[str, Any]) -> None:
    for each in family:
        record = of(found, "variants", each.name)[0]
        assert record["usd_per_million"] == pytest.approx(usd_per_million(0.4, each.rate or 0))
        assert record["usd_ratio"] == pytest.approx((family[0].rate or 0) / (each.rate or 1))


def test_the_front_has_what_nothing_beats_in_both(found: dict[str, Any]) -> None:
    front = {each["name"] for each in found["tables"]["variants"] if each.get("on_front")}
    assert front == {"fp32", "int8-static", "int8-mixed"}


def test_of_two_that_are_the_same_both_are_on_the_front() -> None:
    twins = [profile("a", calls=20), profile("b", calls=20)]
    records = figures(Study(twins))["tables"]["variants"]
    assert [each["on_front"] for each in records] == [True, True]


def test_a_price_that_is_missing_takes_all_dollars_away_and_says_so() -> None:
    found = figures(Study([with_price(profile(calls=500), None)]))
    variant = found["tables"]["variants"][0]
    assert variant["usd_per_million"] is None
    assert variant["void"] == "it lacks a price"
    assert variant["note"] == "void: it lacks a price"
    for table in ("goodput", "bill"):
        records = found["tables"][table]
        assert records
        assert all(each.get("usd_per_million", each.get("usd")) is None for each in records)
        assert all(each["void"] == "it lacks a price" for each in records)
    assert found["chosen"] is None
    assert "void" in found["verdict"]
    assert any(each["said"] == "void: none was given" for each in found["conditions"])


def test_what_a_late_generator_saw_is_void_everywhere() -> None:
    found = figures(Study([profile(calls=500, late=20)]))
    variant = found["tables"]["variants"][0]
    assert "kept its schedule" in variant["void"]
    untold = ("rate", "p50_ms", "p99_ms", "usd_per_million")
    assert [variant[key] for key in untold] == [None] * 4
    for record in found["tables"]["latency"]:
        assert (record["p50_ms"], record["p99_ms"]) == (None, None)
        assert "ms late" in record["void"]
    for record in found["tables"]["goodput"]:
        assert (record["good_per_s"], record["usd_per_million"]) == (None, None)
    assert found["tables"]["distribution"] == []


def test_where_no_rate_held_the_reason_says_what_was_tried() -> None:
    one = profile(calls=200)
    failed = tuple((level, "p99 is 104.1 ms") for level, _ in one.searched)
    note = figures(Study([replace(one, rate=None, searched=failed)]))["tables"]["variants"][0]
    assert note["void"] == ("it lacks a rate at which the SLO holds (at 98.9/s: p99 is 104.1 ms)")


def test_one_late_run_is_void_and_the_others_are_not() -> None:
    good = profile(calls=500)
    late = replace(good.levels[-1], seen=invented.run(Queue(), 800, calls=500, late=20))
    found = figures(Study([replace(good, levels=(*good.levels[:-1], late))]))
    records = found["tables"]["goodput"]
    assert [bool(each["void"]) for each in records] == [False] * (len(records) - 1) + [True]
    assert found["tables"]["variants"][0]["usd_per_million"] is not None


def test_a_distribution_ends_where_answers_are_too_few() -> None:
    few, more = (
        [each["percent"] for each in figures(Study([profile(calls=n)]))["tables"]["distribution"]]
        for n in (600, 6000)
    )
    assert max(few) == 99
    assert max(more) == 99.9


def test_what_a_stranger_does_not_tell_is_unknown_and_not_nothing(found: dict[str, Any]) -> None:
    assert of(found, "bill", "triton")[0]["core_s"] is None
    assert of(found, "phases", "triton")[0]["ms"] is None
    assert of(found, "sizes", "triton")[0]["memory_bytes"] is None
    assert of(found, "variants", "triton")[0]["usd_per_million"] is not None


def test_the_whole_request_is_no_phase_of_its_own() -> None:
    phases = {"run": 0.004, "queue": 0.001, "request": 0.006}
    found = figures(Study([replace(profile(calls=20), phases=phases)]))
    parts = {each["phase"]: each["ms"] for each in found["tables"]["phases"]}
    assert parts == pytest.approx({"run": 4.0, "queue": 1.0, "rest": 1.0})


def test_a_refused_variant_keeps_its_reason_and_has_no_measured_figures(
    found: dict[str, Any],
) -> None:
    record = of(found, "variants", "int8-dynamic")[0]
    assert record["note"] == "refused: it is slower"
    assert record["accuracy"] == 0.9
    assert record.get("usd_per_million") is None


def test_the_conditions_are_told_in_full(found: dict[str, Any]) -> None:
    told = {each["what"]: each["said"] for each in found["conditions"] if not each["of"]}
    price = told["Price"]
    parts = ("US dollars", "shop-large", "north-1", "on demand", "2026-09-24", "a price list")
    assert all(part in price for part in parts)
    assert "avx512_vnni" in told["Hardware"]
    assert "seed 7" in told["Load"]
    assert "heldout.npz" in told["Payload"]
    assert "CPUs of its own" in told["Generator"]
    lags = [each for each in found["conditions"] if each["what"] == "Generator's lag"]
    assert [each["of"] for each in lags] == [
        ("keras",), ("fp32",), ("int8-static",), ("int8-mixed",), ("triton",)
    ]  # fmt: skip
    digests = [each["said"] for each in found["conditions"] if each["what"] == "Model"]
    assert all("sha256 " in said for said in digests)


def said(one: Profile, what: str, **conditions: Any) -> str:
    other = replace(one, conditions=replace(one.conditions, **conditions))
    told = figures(Study([other]))["conditions"]
    return str(next(each["said"] for each in told if each["what"] == what))


def test_replicas_and_their_machines_are_told_and_paid_for() -> None:
    one = profile(calls=20)
    assert said(one, "Server") == "farthing 0.6.0"
    assert said(one, "Server", replicas=3) == (
        "farthing 0.6.0; 3 replicas that shared the calls, each on a machine of its own, and each "
        "paid for"
    )
    assert said(one, "Server", replicas=3, local=3).endswith("all on one machine, paid for once")
    two = said(one, "Server", replicas=3, local=2)
    assert two.endswith("2 of them on one machine; 2 machines are paid for")
    assert said(one, "Price", replicas=3).startswith(
        "in US dollars, an assumption: 3 machines, each 4 of the 8 CPUs"
    )
    assert said(one, "Hardware", replicas=3).endswith("CPUs paid for on each of 3 such machines")


def test_of_what_time_phases_and_bill_are_is_told() -> None:
    one = profile(calls=20)
    assert "without overload; the bill of those and of the overload" in said(one, "Phases and bill")
    quick = replace(one, levels=())
    assert "of the probes of batch sizes and the search" in said(quick, "Phases and bill")
    stranger = replace(one, phases=None, bill=None)
    assert said(stranger, "Phases and bill") == "the server told none"


@pytest.mark.parametrize(("success", "text"), [(0.99999, "99.999 %"), (0.999, "99.9 %")])
def test_a_success_of_many_nines_is_not_rounded_to_all(success: float, text: str) -> None:
    one = profile(calls=500)
    verdict = figures(Study([replace(one, slo=replace(one.slo, success=success))]))["verdict"]
    assert f"within 100 ms and {text} answered" in verdict


def test_a_lag_of_too_few_sends_has_no_p99() -> None:
    few, many = (said(profile(calls=calls), "Generator's lag") for calls in (458, 459))
    assert "p99" not in few
    assert "p50" in few
    assert "p99" in many
    assert said(profile(calls=3), "Generator's lag").startswith("too few sends to tell a percent")


def test_a_price_of_more_than_a_year_ago_is_called_old() -> None:
    one = profile(calls=20)
    old = replace(one, conditions=replace(one.conditions, date="2027-11-22"))
    said = next(e["said"] for e in figures(Study([old]))["conditions"] if e["what"] == "Price")
    assert "more than a year old" in said


def test_a_void_baseline_leaves_no_saving_to_tell() -> None:
    base = with_price(profile("keras", calls=500), None)
    found = figures(Study([base, profile("fp32", calls=500)], "keras"))
    assert "the baseline, keras, is void: it lacks a price" in found["verdict"]
    assert found["tables"]["variants"][1]["usd_ratio"] is None


def test_a_saving_below_the_search_s_resolution_is_not_claimed() -> None:
    base, like = profile("keras", calls=500), profile("fp32", Queue(3.95), calls=500)
    verdict = figures(Study([base, like], "keras"))["verdict"]
    assert "cannot tell it from the baseline, keras" in verdict
    assert "times cheaper" not in verdict


def test_where_the_baseline_is_cheapest_the_verdict_says_so() -> None:
    found = figures(Study([profile("keras", FAST, calls=500), profile("fp32", calls=500)], "keras"))
    assert found["verdict"].startswith("Nothing is cheaper than the baseline, keras")


@pytest.mark.parametrize(
    ("profiles", "baseline", "said"),
    [
        ([], None, "a profile at least"),
        (["fp32", "fp32"], None, "two profiles are called 'fp32'; .* `farthing slo --name NAME`"),
        (["fp32", "int8"], "keras", "no profile is called 'keras'; fp32, int8 are"),
    ],
)
def test_what_cannot_stand_in_one_report_is_refused(
    profiles: list[str], baseline: str | None, said: str
) -> None:
    with pytest.raises(InvalidSetting, match=said):
        Study([profile(name, calls=10) for name in profiles], baseline)


def test_other_work_is_refused() -> None:
    one = profile("fp32", calls=10)
    rows = replace(one, name="b", conditions=replace(one.conditions, rows=8))
    slower = replace(one, name="b", slo=replace(one.slo, limit_s=0.2))
    with pytest.raises(InvalidSetting, match="'fp32' and 'b' were sent requests of 1 and 8 rows"):
        Study([one, rows])
    with pytest.raises(InvalidSetting, match="different SLOs"):
        Study([one, slower])


def test_what_only_the_generator_bounded_is_neither_cheapest_nor_compared() -> None:
    """Though its dollars are the lowest."""
    fast = replace(profile("fast", FAST, calls=500), generator_bound=True, ended="void at 800/s")
    found = figures(Study([profile("keras", Queue(9.0), calls=500), fast], "keras"))
    record = of(found, "variants", "fast")[0]
    assert record["usd_per_million"] == fast.usd_per_million
    assert (record["generator_bound"], record["usd_ratio"], record["on_front"]) == (
        True, None, False,
    )  # fmt: skip
    assert record["note"] == (
        "bounds only: the generator failed before the server did (void at 800/s), so nothing is "
        "made of it"
    )
    assert found["chosen"] == "keras"
    assert found["verdict"].endswith(
        "; what fast can do is not known, since the generator failed first."
    )


def test_a_baseline_that_only_the_generator_bounded_is_none() -> None:
    found = figures(Study([invented.bounded("keras"), profile("fp32", calls=500)], "keras"))
    assert of(found, "variants", "keras")[0]["note"].startswith("bounds only")
    assert of(found, "variants", "fp32")[0]["usd_ratio"] is None
    assert found["verdict"].startswith("fp32 is the cheapest: $")
    assert "baseline" not in found["verdict"]
    alone = figures(Study([invented.bounded("keras")], "keras"))
    assert alone["chosen"] is None
    assert alone["verdict"].startswith("There is no verdict: what keras can do is not known")


def test_a_single_profile_is_compared_with_nothing() -> None:
    """Least of all with itself."""
    found = figures(Study([profile("fp32", calls=500)], "fp32"))
    assert found["chosen"] == "fp32"
    assert found["verdict"] == (
        "fp32 costs $0.562 per million good answers at an SLO of p99 within 100 ms and 99.9 % "
        "answered, as accurate as the trained model."
    )
