"""Figures of a suite, and the file that keeps them with the machine they were measured on."""

from __future__ import annotations

import datetime
import operator
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from service import hardware

PATH = Path(__file__).with_name("RESULTS.md")
_COMPARISONS = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}
_PACKAGES = ("farthing", "onnxruntime", "grpcio", "numpy", "locust")


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        measure: what was measured, in words.
        text: the figure with its unit.
        goal: what it should be, or empty.
    """

    measure: str
    text: str
    goal: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the figure is what it should be; None where the two cannot be compared."""
        goal = re.fullmatch(r"([<>]=?) ([\d.]+) ?(\S*)", self.goal)
        found = re.fullmatch(r"(?:.* = )?(-?[\d.]+) ?(\S*)", self.text)
        if not goal or not found or goal[3] != found[2]:
            return None
        return bool(_COMPARISONS[goal[1]](float(found[1]), float(goal[2])))


def append(suite: str, figures: Sequence[Figure], *, busy_percent: float) -> None:
    """Add a suite's figures to RESULTS.md.

    Args:
        suite: its name.
        figures: what it measured.
        busy_percent: how much of the machine others used before it began.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    lines = [
        f"\n## {suite}, {now}, revision {_revision()}\n",
        f"{hardware.fingerprint()}; {hardware.cpus()} CPUs, {busy_percent:.0f} % busy before; "
        f"{versions}\n",
        "| Measure | Figure | Goal |",
        "|---|---|---|",
        *(f"| {figure.measure} | {figure.text} | {figure.goal or '-'} |" for figure in figures),
    ]
    with PATH.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _revision() -> str:
    command = ["git", "-C", str(PATH.parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
