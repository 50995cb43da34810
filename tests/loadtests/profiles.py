"""Profiles made up by hand, for those who only read them."""

from __future__ import annotations

import datetime
from typing import Any

from loadtests.observed import Observed
from loadtests.prices import Price
from loadtests.profile import Conditions, Level, Profile, Subject
from loadtests.slo import Slo

SLO = Slo(percent=99, limit_s=0.1, success=0.999)


def price(id: str = "cloud-small", **change: Any) -> Price:
    """Four CPUs for 20 cents an hour."""
    given: dict[str, Any] = {
        "id": id, "usd_per_hour": 0.2, "cpus": 4, "region": "here", "purchase": "on demand",
        "date": datetime.date(2026, 11, 1), "source": "made up",
    }  # fmt: skip
    return Price(**given | change)


def observed(latency_s: float, *, calls: int = 1000, seconds: float = 10.0) -> Observed:
    """All answered after the same time."""
    seen = Observed(seconds, limit_s=SLO.limit_s, offered=calls)
    for _ in range(calls):
        seen.sent(0.0)
        seen.answered(latency_s)
    return seen


def profile(
    name: str = "net fp32",
    *,
    row_s: float = 0.01,
    rate: float | None = 70.0,
    serving_s: float = 0.0005,
    variant: str = "fp32",
    cpus: float = 1.0,
    price: Price | None = price(),  # noqa: B008  # it is frozen
    **change: Any,
) -> Profile:
    """One whose runs take half of a row's time, and half of it for each row."""
    level = Level(rate or 1.0, observed(row_s + 0.001))
    given: dict[str, Any] = {
        "name": name,
        "subject": Subject(
            server="farthing 0.1.0", model="net", version="1", variant=variant, sha256="ab" * 32,
            accuracy=0.9, accuracy_change=0.0,
        ),
        "conditions": Conditions(
            date="2026-11-22", hardware="a machine", cpus=cpus, price=price, shared=False, rows=1,
            payload="drawn", deadline_ms=1000.0, seed=1, generator="farthing 0.1.0",
        ),
        "slo": SLO,
        "rate": rate,
        "searched": ((level, ""),) if rate else (),
        "alone": observed(row_s + 0.001),
        "levels": (level,),
        "runs": {rows: (100, row_s * (1 + rows) / 2) for rows in (1, 2, 4, 8)},
        "bill": {"serving": 1000 * serving_s},
    }  # fmt: skip
    return Profile(**given | change)
