"""What was measured, with the goals: kept as JSON and as a page after every step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PAGE, DATA = "RESULTS-gpu.md", "RESULTS-gpu.json"
_HEAD = (
    "| model | what | rows/s | over bare | p50 ms | p99 ms | J/1000 rows | $/million rows |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Row:
    """One line of the table; None stands for what was not measured, or may not be told.

    Attributes:
        model: e.g. ``resnet50 fp16``.
        what: how it was run.
        rows_per_s: rows answered.
        over_bare: that over bare ONNX Runtime's best batch.
        p50_ms: of one run, or of one call.
        p99_ms: of one call.
        joules_per_1000: of the whole GPU, idle power included.
        usd_per_million: by the price that was given.
        note: what must be known about it.
    """

    model: str
    what: str
    rows_per_s: float | None = None
    over_bare: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    joules_per_1000: float | None = None
    usd_per_million: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Goal:
    """What should be reached.

    Attributes:
        name: of what.
        least: the figure must be no smaller.
        figure: what was measured; None if it was not.
    """

    name: str
    least: float
    figure: float | None = None

    @property
    def ending(self) -> str:
        """``held``, ``missed`` or ``not measured``."""
        if self.figure is None:
            return "not measured"
        return "held" if self.figure >= self.least else "missed"


@dataclass
class Record:
    """All of one check.

    Attributes:
        machine: lines about it: GPU, driver, CPUs, versions, revision, price.
        folder: where page and data go.
        tests: how tests/gpu ended.
        details: which of them failed or were skipped.
        rows: the table.
        goals: by name; a later figure replaces an earlier one.
        left_out: what was not measured, and why.
    """

    machine: Sequence[str]
    folder: Path
    tests: str = "not run"
    details: Sequence[str] = ()
    rows: list[Row] = field(default_factory=list)
    goals: dict[str, Goal] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        """Add lines, and write all that there is: a run that is killed leaves what it had."""
        self.rows += rows
        self.write()

    def judge(self, *goals: Goal) -> None:
        """Set goals, or their figures, and write all that there is."""
        self.goals |= {goal.name: goal for goal in goals}
        self.write()

    def omit(self, what: str, why: str) -> None:
        """Say what was left out, and write all that there is."""
        self.left_out.append(f"{what}: {why}")
        self.write()

    def write(self) -> None:
        """Replace page and data by what is known now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = {
            "machine": list(self.machine),
            "tests": self.tests,
            "tests_details": list(self.details),
            "rows": [asdict(row) for row in self.rows],
            "goals": [asdict(g) | {"ending": g.ending} for g in self.goals.values()],
            "left_out": self.left_out,
        }
        _replaced(self.folder / DATA, json.dumps(data, indent=1) + "\n")
        _replaced(self.folder / PAGE, self.page())

    def page(self) -> str:
        """The page, in Markdown."""
        parts = [
            "# On a GPU\n",
            *(f"- {line}" for line in self.machine),
            f"- tests/gpu: {self.tests}",
        ]
        parts += [f"  - {line}" for line in self.details]
        parts += ["\n## Goals\n", "| goal | least | measured | |", "|---|---:|---:|---|"]
        parts += [
            f"| {goal.name} | {goal.least:g} | {_figure(goal.figure, 2)} | {goal.ending} |"
            for goal in self.goals.values()
        ]
        parts += ["\n## Figures\n", _HEAD, *map(_line, self.rows)]
        notes = [f"- {row.model}, {row.what}: {row.note}" for row in self.rows if row.note]
        if notes:
            parts += ["\n## Notes\n", *notes]
        if self.left_out:
            parts += ["\n## Not measured\n", *(f"- {line}" for line in self.left_out)]
        return "\n".join(parts) + "\n"


def _line(row: Row) -> str:
    return f"| {row.model} | {row.what} | {' | '.join(figures(row))} |"


def figures(row: Row) -> tuple[str, ...]:
    """Its figures as tables write them, from rows per second on."""
    return (
        _figure(row.rows_per_s, 0), _figure(row.over_bare, 2), _figure(row.p50_ms, 2),
        _figure(row.p99_ms, 2), _figure(row.joules_per_1000, 1), _figure(row.usd_per_million, 3),
    )  # fmt: skip


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _replaced(path: Path, text: str) -> None:
    """Never half a file, whenever the run is killed."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
