"""The report as one HTML file that needs no network; its markup is in page.html."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtests.reports import plots
from loadtests.reports.columns import TABLES, Column, cell, percentile, three_digits
from loadtests.reports.sections import sections


@dataclass(frozen=True)
class Cell:
    """One figure on the page.

    Attributes:
        text: as people read it.
        value: in full, for whoever reads the page by program; None where it is no figure.
        is_text: whether it holds words.
    """

    text: str
    value: float | None = None
    is_text: bool = False


@dataclass(frozen=True)
class Grid:
    """A table on the page.

    Attributes:
        label: what it is, for screen readers.
        headings: of its columns; the first is that of the rows' names.
        texts: whether a column holds words.
        rows: of cells.
        marks: a class for each row.
        notes: what is said below a row, in words; empty for nothing.
    """

    label: str
    headings: tuple[str, ...]
    texts: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marks: tuple[str, ...]
    notes: tuple[str, ...]


def render(figures: dict[str, Any]) -> str:
    """The page; it shows these figures and no others."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    drawn = plots.plots(figures)
    themes = [(each, each.theme in drawn, _grid(figures, each.table)) for each in sections(figures)]
    conditions = [
        (what, list(those))
        for what, those in groupby(figures["conditions"], key=lambda each: each["what"])
    ]
    return environment.get_template("page.html").render(
        figures=figures, conditions=conditions, main=_grid(figures, "variants"),
        # Its figures are in the table above already.
        themes=[(each, has, None if each.table == "variants" else grid)
                for each, has, grid in themes],
        plots=drawn, library=plots.library(),
    )  # fmt: skip


def _grid(figures: dict[str, Any], table: str) -> Grid:
    records = figures["tables"][table]
    if table == "distribution":
        return _crossed(records)
    columns, main = TABLES[table], table == "variants"
    if not any(record.get("void") for record in records):
        columns = tuple(column for column in columns if column.key != "void")
    return Grid(
        label=f"figures: {table}",
        headings=tuple(column.heading for column in columns),
        texts=tuple(column.is_text for column in columns),
        rows=tuple(tuple(_cell(record, column) for column in columns) for record in records),
        marks=tuple(_mark(record, figures) if main else "" for record in records),
        notes=tuple(_note(record) if main else "" for record in records),
    )


def _mark(record: dict[str, Any], figures: dict[str, Any]) -> str:
    if record.get("refused"):
        return "refused"
    return "chosen" if record["name"] == figures["chosen"] else ""


def _note(record: dict[str, Any]) -> str:
    """Why a row is void, refused or a bound; below it: a phone would not show it beside."""
    told = record["void"] or record["refused"] or record.get("generator_bound")
    return str(record["note"]) if told else ""


def _cell(record: dict[str, Any], column: Column) -> Cell:
    value = record.get(column.key)
    number = value if isinstance(value, int | float) and math.isfinite(value) else None
    silent = column.key in ("note", "void") and not value
    below = column.key == "note" and bool(_note(record))
    text = "" if silent or below else cell(record, column)
    return Cell(text, number, column.is_text)


def _crossed(records: Sequence[dict[str, Any]]) -> Grid:
    """A row for each percentile, a column for each variant."""
    names = _unique(record["name"] for record in records)
    known = {(record["percent"], record["name"]): record["ms"] for record in records}
    rows = []
    for percent in sorted({record["percent"] for record in records}):
        values = [known.get((percent, name)) for name in names]
        cells = [Cell("-" if each is None else three_digits(each), each) for each in values]
        rows.append((Cell(percentile(percent), is_text=True), *cells))
    return Grid(
        label="figures: distribution", rows=tuple(rows),
        marks=("",) * len(rows), notes=("",) * len(rows),
        headings=("percentile", *(f"{name}, ms" for name in names)),
        texts=(True, *(False for _ in names)),
    )  # fmt: skip


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
