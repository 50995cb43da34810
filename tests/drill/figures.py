"""What the callers saw, by phase and kind of client."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.histogram import Histogram

Call = tuple[float, float, str]


@dataclass(frozen=True)
class Phase:
    """A part of the drill, on the system's monotonic clock."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Row:
    """One phase of one kind of client; milliseconds from when a call was due, None if too few."""

    phase: str
    client: str
    seconds: float
    sent: int
    failed: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Outcome:
    """A drill.

    Attributes:
        rows: by phase, then client.
        void: kind of client -> why its figures say nothing; only kinds of which that is so.
        open_at_kill: kind -> calls that were under way when a replica was killed.
        exits: address -> exit codes of its processes.
        killed: pods that had to be killed, or were given up, though nobody asked for it.
    """

    rows: list[Row]
    void: dict[str, str]
    open_at_kill: dict[str, int]
    exits: dict[str, list[int]]
    killed: list[str]

    def of(self, phase: str) -> list[Row]:
        """The rows of one phase."""
        return [row for row in self.rows if row.phase == phase]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def rows(phases: list[Phase], calls: dict[str, list[Call]]) -> list[Row]:
    """What was due in each phase."""
    return [
        _row(phase, client, [call for call in all_of if phase.begin <= call[0] < phase.end])
        for phase in phases
        for client, all_of in calls.items()
    ]


def under_way(moment: float, calls: list[Call]) -> int:
    """Calls that had been sent by then, and had not ended."""
    return sum(due <= moment <= ended for due, ended, _ in calls)


def _row(phase: Phase, client: str, calls: list[Call]) -> Row:
    answered = Histogram(ended - due for due, ended, code in calls if not code)
    return Row(
        phase.name, client, phase.end - phase.begin, len(calls),
        dict(Counter(code for _, _, code in calls if code)),
        _ms(answered.judged(50)), _ms(answered.judged(99)),
    )  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 2)


def table(outcome: Outcome) -> str:
    """For people, within 100 columns."""
    head = f"{'phase':20} {'client':20} {'seconds':>8}"
    lines = [f"{head} {'sent':>6} {'failed':>6} {'p50 ms':>7} {'p99 ms':>7}"]
    for row in outcome.rows:
        lines.append(
            f"{row.phase:20} {row.client:20} {row.seconds:8.0f} {row.sent:6} "
            f"{sum(row.failed.values()):6} {_told(row.p50_ms):>7} {_told(row.p99_ms):>7}"
        )
        lines += [f"{'':20} {'':20} {number} x {code}" for code, number in row.failed.items()]
    for client, why in outcome.void.items():
        lines.append(f"void: {client}: {why}")
    under = ", ".join(f"{number} of {kind}" for kind, number in outcome.open_at_kill.items())
    lines.append(f"calls under way when a replica was killed: {under}")
    return "\n".join(lines)


def _told(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"
