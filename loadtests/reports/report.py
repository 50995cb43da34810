"""The verb `report`: profiles as one page, and the same figures as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests import outside, profile
from loadtests.profile import Profile
from loadtests.reports import page
from loadtests.reports.columns import TABLES, Column, cell
from loadtests.reports.figures import Refused, Study, figures
from loadtests.reports.wording import Condition
from loadtests.screen import WIDTH
from service.errors import InvalidSetting

_TITLE = "What a request costs"
# A spreadsheet reads what begins with one of them.
_FORMULAS = tuple("=+-@\t\r\n")
_PLACES = ("name", "rate", "percent", "phase", "line")


@dataclass(frozen=True)
class Written:
    """A report on disk.

    Attributes:
        page: for people; needs no other file and no network.
        data: the figures, and the profiles with their histograms, as JSON.
        sheet: the figures as CSV, one a line.
        figures: what all three show.
    """

    page: Path
    data: Path
    sheet: Path
    figures: dict[str, Any]


def report(
    profiles: Annotated[
        list[Path],
        typer.Argument(metavar="PROFILE...", help="Files that `farthing slo` saved, of one SLO."),
    ],
    baseline: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The profile that the others are compared with, by its name.",
            show_default="the first",
        ),
    ] = "",
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where report.html, .json and .csv go; what is there is replaced."
        ),
    ] = Path("build/report"),
    title: Annotated[str, typer.Option(metavar="TEXT", help="Of the page.")] = _TITLE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON instead of the table.")
    ] = False,
) -> None:
    """Write what was measured as one page that says which variant to serve, and what it saves.

    The page needs no network. What lacks a price, a digest, an accuracy or a generator that kept
    its schedule is shown as void, without dollars. Exit code 1 if nothing may be priced.
    """
    read = [profile.read(path) for path in profiles]
    written = write(read, out, baseline=baseline or read[0].name, title=title)
    if as_json:
        print(json.dumps(written.figures, indent=2))
    else:
        console = Console(width=WIDTH)
        show(console, written.figures)
        console.print(f"\nThe report: {written.page}", soft_wrap=True, highlight=False)
    if written.figures["chosen"] is None:
        raise typer.Exit(1)


def write(
    profiles: Sequence[Profile],
    directory: Path,
    *,
    baseline: str | None = None,
    refused: Sequence[Refused] = (),
    notes: Sequence[Condition] = (),
    title: str = _TITLE,
) -> Written:
    """Write ``report.html``, ``report.json`` and ``report.csv``.

    Args:
        profiles: of the same work.
        directory: made where it is missing.
        baseline: name of the profile that others are compared with.
        refused: variants that were not published, so not measured.
        notes: conditions that no profile tells.
        title: of the page.

    Raises:
        InvalidSetting: these cannot stand in one report.
    """
    found = figures(Study(profiles, baseline, refused, title, notes))
    directory.mkdir(parents=True, exist_ok=True)
    everything = found | {"profiles": [each.to_dict() for each in profiles]}
    written = Written(
        directory / "report.html", directory / "report.json", directory / "report.csv", found
    )
    written.page.write_text(page.render(found), encoding="utf-8")
    written.data.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    written.sheet.write_text(sheet(found), encoding="utf-8")
    return written


def read_all(path: Path) -> list[Profile]:
    """The profiles in a file: one that `farthing slo` saved, or those of a report.json.

    Raises:
        InvalidSetting: it is neither.
    """
    try:
        raw = outside.mapping(outside.read_json(path), "it")
        if raw.get("schema") == profile.SCHEMA:
            return [Profile.from_dict(raw)]
        return [
            Profile.from_dict(each) for each in outside.listed(raw.get("profiles"), "its profiles")
        ]
    except (OSError, ValueError) as error:
        raise InvalidSetting(
            f"{path} is neither a profile nor a report; `farthing slo --save-profile` and "
            f"`farthing report` make them ({outside.said(error)})"
        ) from None


def sheet(found: dict[str, Any]) -> str:
    """The figures as CSV: table, name, what else tells records apart, figure, value.

    Conditions stand first, as a table of words; those of all profiles are of no name.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("table", "name", "at", "figure", "value"))
    for each in found["conditions"]:
        for name in each["of"] or ("",):
            lines.writerow(("conditions", _inert(name), "", each["what"], _inert(each["said"])))
    for table, records in found["tables"].items():
        for record in records:
            place = _place(table, record)
            for key, value in record.items():
                if key not in ("name", place):
                    cells = (table, record["name"], record.get(place), key, value)
                    lines.writerow(_inert(each) for each in cells)
    return text.getvalue()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, with the apostrophe that says it is not.

    OWASP, CSV injection.
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULAS else value


def _place(table: str, record: dict[str, Any]) -> str:
    """What tells records of a name apart in a table; in the first there is one of each."""
    if table == "variants":
        return ""
    return next((key for key in _PLACES[1:] if key in record), "")


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the table of variants, the notes and the verdict."""
    table = Table(title=escape(found["title"]), title_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 1, 0, 0))  # fmt: skip
    columns = [column for column in TABLES["variants"] if column.key != "note"]
    for column in columns:
        table.add_column(_folded(column), justify="left" if column.is_text else "right")
    for record in found["tables"]["variants"]:
        style = "bold" if record["name"] == found["chosen"] else None
        style = "dim" if record["refused"] else style
        table.add_row(*(escape(cell(record, column)) for column in columns), style=style)
    console.print(table)
    for record in found["tables"]["variants"]:
        if record["void"] or record["refused"] or record.get("generator_bound"):
            console.print(escape(f"* {record['name']}: {record['note']}"), highlight=False)
    for each in found["conditions"]:
        if not each["of"]:
            console.print(escape(f"· {each['what']}: {each['said']}"), highlight=False)
    apart = dict.fromkeys(each["what"] for each in found["conditions"] if each["of"])
    if apart:
        said = f"· Not the same for all, and told on the page: {', '.join(apart)}"
        console.print(escape(said), highlight=False)
    console.print(f"\n[bold]{escape(found['verdict'])}[/]", highlight=False)


def _folded(column: Column) -> str:
    """A heading in two lines, where it has two parts."""
    words = column.heading.split(" ")
    half = (len(words) + 1) // 2
    return escape(" ".join(words[:half]) + "\n" + " ".join(words[half:]))
