"""Pure: the tables of a report, and how each of their figures is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN, VOID = "-", "void"
AT_LEAST, AT_MOST = ">= ", "<= "


@dataclass(frozen=True)
class Column:
    """One figure of all records of a table.

    Attributes:
        key: in the record.
        heading: of the column, with the unit.
        said: how a value is written.
        voidable: whether it may not be said where the record is void.
        bound: how it is written that a value is a bound only, where the generator made it one.
    """

    key: str
    heading: str
    said: Callable[[Any], str] = str
    voidable: bool = False
    bound: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it holds words, not a figure."""
        return self.said is str


def cell(record: Mapping[str, Any], column: Column) -> str:
    """A figure as it is written; what is void says so, and what is not known is a dash."""
    value = record.get(column.key)
    if value is None or value == "":
        return VOID if column.voidable and record.get("void") else UNKNOWN
    return f"{column.bound if record.get('generator_bound') else ''}{column.said(value)}"


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def dollars(value: float) -> str:
    """US dollars."""
    return f"${three_digits(value)}"


def share(value: float) -> str:
    """Of 1, as a percentage."""
    return f"{100 * value:.2f} %"


def signed(value: float, digits: int) -> str:
    """With its sign; what is rounded to nothing has that of nothing."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def points(value: float) -> str:
    """Of a percentage, with their sign."""
    return f"{value:+.2f}" if round(value, 2) else "0.00"


def times(value: float) -> str:
    """A ratio."""
    return f"{three_digits(value)}x"


def megabytes(value: float) -> str:
    """Bytes as MB."""
    return three_digits(value / 1e6)


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def percentile(value: float) -> str:
    """Its name."""
    return f"p{value:g}"


NAME = Column("name", "variant")
WHY = Column("void", "why void")

TABLES: dict[str, tuple[Column, ...]] = {
    "variants": (
        NAME,
        Column("usd_per_million", "$ per million", dollars, voidable=True, bound=AT_MOST),
        Column("usd_ratio", "$ over baseline", times, voidable=True),
        Column("accuracy", "accuracy", share),
        Column("accuracy_change", "change, points", points),
        Column("rate", "calls/s at SLO", three_digits, voidable=True, bound=AT_LEAST),
        Column("alone_p50_ms", "p50 ms, 1 caller", three_digits, voidable=True),
        Column("p99_ms", "p99 ms at SLO", three_digits, voidable=True),
        Column("note", ""),
    ),
    "latency": (
        NAME,
        Column("rate", "offered, calls/s", three_digits),
        Column("p50_ms", "p50, ms", three_digits, voidable=True),
        Column("p99_ms", "p99, ms", three_digits, voidable=True),
        Column("answers", "answers", count),
        WHY,
    ),
    "distribution": (
        NAME,
        Column("percent", "percentile", percentile),
        Column("ms", "ms", three_digits),
    ),
    "goodput": (
        NAME,
        Column("offered_per_s", "offered, calls/s", three_digits),
        Column("good_per_s", "good, answers/s", three_digits, voidable=True),
        Column("success", "answered", share, voidable=True),
        Column("usd_per_million", "whole bill, $ per million good", dollars, voidable=True),
        WHY,
    ),
    "phases": (
        NAME,
        Column("phase", "phase"),
        Column("ms", "mean, ms", three_digits),
    ),
    "bill": (
        NAME,
        Column("line", "line of the ledger"),
        Column("core_s", "core- or GPU-seconds", three_digits),
        Column("share", "of the bill", share),
        Column("usd", "$", dollars, voidable=True),
        WHY,
    ),
    "sizes": (
        NAME,
        Column("bytes", "file, MB", megabytes),
        Column("memory_bytes", "resident memory, MB", megabytes),
    ),
}
