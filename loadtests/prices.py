"""What a machine costs: dated entries from a file, never constants in code."""

from __future__ import annotations

import datetime
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from loadtests import outside
from service.errors import InvalidSetting

SHIPPED = Path(__file__).with_name("prices.yaml")
_OLD_DAYS = 365
# Within a family without accelerators a CPU costs the same, but for rounding; else one is mistyped.
_SCALES_WITHIN = 0.03


@dataclass(frozen=True)
class Price:
    """One entry of the price book.

    Attributes:
        id: provider and instance type.
        usd_per_hour: US dollars per hour, the whole machine.
        cpus: its virtual CPUs.
        region: where.
        purchase: on demand, reserved, spot ...
        date: when the price was looked up.
        source: where it was looked up.
        family: of instance types that differ in size only; empty if it is not told.
        accelerator: what kind it has; empty for none.
        accelerators: how many.
        currency: USD.
    """

    id: str
    usd_per_hour: float
    cpus: int
    region: str
    purchase: str
    date: datetime.date
    source: str
    family: str = ""
    accelerator: str = ""
    accelerators: int = 0
    currency: str = "USD"

    def share_per_hour(self, cpus: float, gpus: float = 0.0) -> float:
        """US dollars per hour for so many of its CPUs, in proportion.

        With accelerators for so many of those, and 0 is all: its CPUs go with them. 0.25 is a
        quarter of one, as a slice (MIG) or by turns. An assumption, to be printed as one: nobody
        sells half an instance, nor a quarter of its GPU.
        """
        if self.accelerators:
            return self.usd_per_hour * (gpus / self.accelerators if gpus else 1.0)
        return self.usd_per_hour * cpus / self.cpus

    def said(self, cpus: float, gpus: float = 0.0) -> str:
        """The assumption in words; for the figures see ``share_per_hour``."""
        part = "the whole" if self.accelerators else f"{cpus:g} of the {self.cpus} CPUs"
        if self.accelerators and gpus:
            part = f"{gpus:g} of the {self.accelerators} {self.accelerator}"
        if cpus > self.cpus and not self.accelerators:
            part = f"{cpus:g} CPUs at the price of the {self.cpus}"
        return (
            f"{part} of {self.id} at ${self.usd_per_hour:g}/h "
            f"({self.region}, {self.purchase}; {self.date}, {self.source}), so "
            f"${self.share_per_hour(cpus, gpus):.5g}/h"
        )

    def is_old(self, today: datetime.date) -> bool:
        """Whether it was looked up more than a year ago."""
        return (today - self.date).days > _OLD_DAYS

    def old_said(self, today: datetime.date) -> str:
        """That it is old, in words; empty where it is not."""
        said = f"the price of {self.id} is of {self.date}, more than a year old"
        return said if self.is_old(today) else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"date": self.date.isoformat()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Price:
        """What ``to_dict`` gave.

        Raises:
            ValueError: it is something else, or no price.
        """
        price = cls(**outside.record(cls, raw, "the price"))
        problem = _problem(price)
        if problem:
            raise ValueError(f"the price '{price.id}' {problem}")
        return price


def book(own: Path | None = None) -> dict[str, Price]:
    """The shipped entries, and over them the user's own: id -> entry.

    Raises:
        InvalidSetting: as of ``read``.
    """
    return read() | (read(own) if own else {})


def chosen(entries: dict[str, Price], wanted: str) -> Price:
    """The entry of that id.

    Raises:
        InvalidSetting: there is none.
    """
    if wanted not in entries:
        raise InvalidSetting(
            f"there is no price '{wanted}'; there are {', '.join(sorted(entries))}, and --prices "
            "adds your own"
        )
    return entries[wanted]


def read(path: Path = SHIPPED) -> dict[str, Price]:
    """One file of prices: id -> entry.

    Raises:
        InvalidSetting: it is no list of entries, an entry lacks its date, source or amount, or two
            of one family contradict each other.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())  # YAML's errors are several lines
        raise InvalidSetting(f"{path} cannot be read as YAML: {said}") from None
    if not isinstance(raw, list) or not raw:
        raise InvalidSetting(f"{path} is not a list of prices")
    entries: dict[str, Price] = {}
    for entry in (_entry(item, path) for item in raw):
        if entry.id in entries:
            raise InvalidSetting(f"{path} has two prices for '{entry.id}'")
        entries[entry.id] = entry
    # Each file for itself: one's own prices may be other than the shipped ones of the family.
    _check_scaling(entries.values(), path)
    return entries


def _entry(item: Any, path: Path) -> Price:
    if isinstance(item, dict):
        needed = [each.name for each in fields(Price) if each.default is MISSING]
        lacking = [name for name in needed if name not in item]
        if lacking:
            which = f"entry '{item['id']}'" if "id" in item else "an entry"
            lacks = ", ".join(f"'{name}'" for name in lacking)
            raise InvalidSetting(f"{which} of {path} is not a price: it lacks {lacks}")
    try:
        price = Price(**item)
    except TypeError as error:
        raise InvalidSetting(f"an entry of {path} is not a price: {error}") from None
    problem = _problem(price)
    if problem:
        raise InvalidSetting(f"entry '{price.id}' of {path} {problem}")
    return price


def _problem(price: Price) -> str:
    """What is wrong with an entry; empty if nothing is."""
    if isinstance(price.date, datetime.datetime) or not isinstance(price.date, datetime.date):
        return "has no date of the form 2026-09-24"
    if not (_positive(price.usd_per_hour) and _positive(price.cpus)):
        return "needs a price and CPUs above 0"
    texts = ("id", "source", "region", "purchase")
    empty = next((n for n in texts if not (isinstance(t := getattr(price, n), str) and t)), "")
    if empty:
        return f"needs its {empty}, in words"
    if price.currency != "USD":
        return f"is in {price.currency}; give US dollars, for rates change with the day"
    if bool(price.accelerator) != _positive(price.accelerators):
        return "needs both a kind of accelerator and how many, or neither"
    return ""


def _check_scaling(entries: Iterable[Price], path: Path) -> None:
    """Refuse sizes of one family whose CPUs cost differently: one of them is mistyped."""
    families: dict[tuple[str, str, str], list[Price]] = defaultdict(list)
    for price in entries:
        if price.family and not price.accelerators:
            families[price.family, price.region, price.purchase].append(price)
    for family in families.values():
        low = min(family, key=_per_cpu)
        high = max(family, key=_per_cpu)
        if _per_cpu(high) > (1 + _SCALES_WITHIN) * _per_cpu(low):
            raise InvalidSetting(
                f"in {path} a CPU of '{high.id}' costs ${_per_cpu(high):.4g}/h and one of "
                f"'{low.id}' ${_per_cpu(low):.4g}/h; within the family {low.family} they cost the "
                "same, so one of the two is mistyped"
            )


def _per_cpu(price: Price) -> float:
    return price.usd_per_hour / price.cpus


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def usd_per_million(usd_per_hour: float, requests_per_s: float) -> float:
    """US dollars for a million requests on a machine that answers at this rate, all the time."""
    return 1e6 * usd_per_hour / (3600 * requests_per_s)
