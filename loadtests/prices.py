"""What a machine costs: dated entries from a file, never constants in code."""

from __future__ import annotations

import datetime
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from service.errors import InvalidSetting

SHIPPED = Path(__file__).with_name("prices.yaml")
_OLD_DAYS = 365


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
    """

    id: str
    usd_per_hour: float
    cpus: int
    region: str
    purchase: str
    date: datetime.date
    source: str

    def share_per_hour(self, cpus: float) -> float:
        """US dollars per hour for so many of its CPUs, in proportion.

        An assumption, to be printed as one: nobody sells half an instance.
        """
        return self.usd_per_hour * cpus / self.cpus

    def said(self, cpus: float) -> str:
        """The assumption in words."""
        return (
            f"{cpus:g} of the {self.cpus} CPUs of {self.id} at ${self.usd_per_hour:g}/h "
            f"({self.region}, {self.purchase}; {self.date}, {self.source}), so "
            f"${self.share_per_hour(cpus):.5g}/h, busy all the time"
        )

    def is_old(self, today: datetime.date) -> bool:
        """Whether it was looked up more than a year ago."""
        return (today - self.date).days > _OLD_DAYS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"date": self.date.isoformat()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Price:
        """What ``to_dict`` gave."""
        return cls(**raw | {"date": datetime.date.fromisoformat(raw["date"])})


def read(path: Path = SHIPPED) -> dict[str, Price]:
    """The price book: id -> entry.

    Raises:
        InvalidSetting: it is no list of entries, or an entry lacks its date, source or amount.
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
    return entries


def _entry(item: Any, path: Path) -> Price:
    try:
        price = Price(**item)
    except TypeError as error:
        raise InvalidSetting(f"an entry of {path} is not a price: {error}") from None
    if isinstance(price.date, datetime.datetime) or not isinstance(price.date, datetime.date):
        raise InvalidSetting(f"entry '{price.id}' of {path} has no date of the form 2026-09-24")
    if not (_positive(price.usd_per_hour) and _positive(price.cpus) and price.source):
        raise InvalidSetting(f"entry '{price.id}' of {path} needs a price, CPUs and a source")
    return price


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def usd_per_million(usd_per_hour: float, requests_per_s: float) -> float:
    """US dollars for a million requests on a machine that answers at this rate, all the time."""
    return 1e6 * usd_per_hour / (3600 * requests_per_s)
