"""The price book, and what follows from a price."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import pytest
import yaml

from loadtests import prices
from loadtests.prices import Price
from service.errors import InvalidSetting

ENTRY = {
    "id": "shop.large", "usd_per_hour": 0.4, "cpus": 8, "region": "here", "purchase": "on demand",
    "date": datetime.date(2026, 1, 31), "source": "the shop's list",
}  # fmt: skip


def book(directory: Path, *entries: object) -> Path:
    path = directory / "prices.yaml"
    path.write_text(yaml.safe_dump(list(entries)), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    """Why this book is refused: one sentence that names it."""
    with pytest.raises(InvalidSetting) as error:
        prices.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_the_shipped_book_has_dated_prices_with_sources() -> None:
    entries = prices.read()
    assert "aws-c7i.xlarge" in entries
    for key, entry in entries.items():
        assert key == entry.id
        assert entry.usd_per_hour > 0 and entry.source and entry.date.year >= 2025
    assert entries["aws-p5.48xlarge"].accelerators == 8


def test_every_entry_of_a_book_is_read(tmp_path: Path) -> None:
    entries = prices.read(book(tmp_path, ENTRY, ENTRY | {"id": "shop.small", "cpus": 2}))
    assert list(entries) == ["shop.large", "shop.small"]
    assert entries["shop.large"] == Price(**ENTRY)


@pytest.mark.parametrize("key", sorted(ENTRY))
def test_an_entry_that_lacks_a_field_is_refused_with_its_name(tmp_path: Path, key: str) -> None:
    lacking = {name: value for name, value in ENTRY.items() if name != key}
    assert f"'{key}'" in refusal(book(tmp_path, lacking))


@pytest.mark.parametrize(
    "change",
    [
        {"usd_per_hour": 0}, {"usd_per_hour": -1}, {"usd_per_hour": "0.17"},
        {"usd_per_hour": None}, {"usd_per_hour": float("nan")}, {"usd_per_hour": float("inf")},
        {"cpus": 0}, {"cpus": "four"}, {"source": ""}, {"source": None}, {"region": ""},
        {"purchase": 7}, {"currency": "EUR"}, {"accelerator": "T4"}, {"accelerators": 1},
        {"accelerator": "T4", "accelerators": "one"},
        {"date": "last spring"}, {"date": 2026},
        {"date": datetime.datetime(2026, 1, 31, 12, 0, tzinfo=datetime.UTC)},
    ],
)  # fmt: skip
def test_an_entry_with_an_unusable_value_is_refused_by_its_id(tmp_path: Path, change: dict) -> None:
    assert "'shop.large'" in refusal(book(tmp_path, ENTRY | change))


def test_an_unknown_key_is_refused_with_its_name(tmp_path: Path) -> None:
    assert "usd_per_day" in refusal(book(tmp_path, ENTRY | {"usd_per_day": 1}))


@pytest.mark.parametrize("entry", ["a price", 7, None, ["id"], {1: 2}])
def test_an_entry_that_is_no_mapping_of_names_is_refused(tmp_path: Path, entry: object) -> None:
    assert "is not a price" in refusal(book(tmp_path, entry))


@pytest.mark.parametrize("text", ["", "[]", "id: shop.large", "just words"])
def test_a_book_that_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    assert "is not a list of prices" in refusal(path)


@pytest.mark.parametrize("content", [b"- {id: [\n  x: }", b"\xff\xfe\x00\x81", b"- \x00"])
def test_a_book_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prices.yaml"
    path.write_bytes(content)
    assert "cannot be read as YAML" in refusal(path)


def test_a_book_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "missing.yaml")


FAMILY = ENTRY | {"family": "large"}
TWICE = FAMILY | {"id": "shop.2large", "cpus": 16, "usd_per_hour": 0.8}


@pytest.mark.parametrize("usd", [0.8, 0.81, 0.79])
def test_sizes_of_a_family_whose_cpus_cost_about_the_same_are_taken(
    tmp_path: Path, usd: float
) -> None:
    assert len(prices.read(book(tmp_path, FAMILY, TWICE | {"usd_per_hour": usd}))) == 2


@pytest.mark.parametrize("usd", [0.4, 0.88, 8.0])
def test_sizes_of_a_family_whose_cpus_cost_differently_are_refused_with_both_names(
    tmp_path: Path, usd: float
) -> None:
    said = refusal(book(tmp_path, FAMILY, TWICE | {"usd_per_hour": usd}))
    assert "'shop.large'" in said and "'shop.2large'" in said


@pytest.mark.parametrize(
    "change",
    [
        {"family": "other"}, {"family": ""}, {"region": "there"}, {"purchase": "spot"},
        {"accelerator": "T4", "accelerators": 1},
    ],
)  # fmt: skip
def test_only_what_differs_in_size_alone_must_scale(tmp_path: Path, change: dict) -> None:
    assert len(prices.read(book(tmp_path, FAMILY, TWICE | {"usd_per_hour": 9.0} | change))) == 2


def test_ones_own_entry_wins_and_the_other_shipped_ones_stay(tmp_path: Path) -> None:
    own = ENTRY | {"id": "aws-c7i.xlarge", "usd_per_hour": 0.1}
    entries = prices.book(book(tmp_path, own, ENTRY))
    assert entries["aws-c7i.xlarge"].usd_per_hour == 0.1
    assert entries["shop.large"].usd_per_hour == 0.4
    assert set(prices.read()) < set(entries)


def test_an_unknown_price_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidSetting, match=r"'shop.large'; there are aws-c6a.xlarge, "):
        prices.chosen(prices.book(), "shop.large")


def test_a_machine_with_accelerators_is_paid_as_a_whole() -> None:
    price = Price(**ENTRY, accelerator="T4", accelerators=1)
    assert price.share_per_hour(2) == 0.4
    assert price.said(2).startswith("the whole of shop.large at $0.4/h")


def test_a_price_is_old_after_a_year() -> None:
    price = Price(**ENTRY)
    assert not price.is_old(price.date + datetime.timedelta(days=365))
    assert price.is_old(price.date + datetime.timedelta(days=366))
    assert price.old_said(price.date) == ""
    said = f"the price of {price.id} is of {price.date}, more than a year old"
    assert price.old_said(price.date + datetime.timedelta(days=366)) == said


def test_a_share_of_the_cpus_costs_its_share() -> None:
    price = Price(**ENTRY)
    assert price.share_per_hour(2) == pytest.approx(0.1)
    assert price.share_per_hour(8) == pytest.approx(0.4)


def test_the_assumption_is_said_with_date_and_source() -> None:
    said = Price(**ENTRY).said(2)
    for part in ("2 of the 8 CPUs", "$0.4/h", "$0.1/h", "2026-01-31", "the shop's list"):
        assert part in said


def test_the_date_is_plain_text_in_json() -> None:
    price = dataclasses.replace(Price(**ENTRY), id="other")
    assert price.to_dict() == ENTRY | {
        "id": "other", "date": "2026-01-31", "family": "", "accelerator": "", "accelerators": 0,
        "currency": "USD",
    }  # fmt: skip
    assert Price.from_dict(price.to_dict()) == price


def test_dollars_per_million_follow_from_dollars_per_hour_and_rate() -> None:
    # 100 requests a second are 360,000 an hour; a million take 2.7778 hours.
    assert prices.usd_per_million(0.36, 100) == pytest.approx(1.0)
    assert prices.usd_per_million(0.36, 200) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("gpus", "hourly", "said"),
    [
        (0.0, 0.4, "the whole of shop.large"), (1.0, 0.05, "1 of the 8 H100 of shop.large"),
        (0.25, 0.0125, "0.25 of the 8 H100 of shop.large"),
    ],
)  # fmt: skip
def test_part_of_the_gpus_costs_its_part_of_the_machine_and_says_so(
    gpus: float, hourly: float, said: str
) -> None:
    price = Price(**ENTRY | {"accelerator": "H100", "accelerators": 8})
    assert price.share_per_hour(2, gpus) == pytest.approx(hourly)
    assert price.said(2, gpus).startswith(said)
    assert f"so ${hourly:g}/h" in price.said(2, gpus)


def test_gpus_change_nothing_of_a_machine_without_any() -> None:
    assert Price(**ENTRY).share_per_hour(2, 1.0) == pytest.approx(0.1)
