"""What the callers saw, by phase and kind of client."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
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
    """One phase of one kind of client; milliseconds from when a call was due, None if too few, or
    if the client was late itself.
    """

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
        open_at_kill: kind -> calls that were under way while a killed replica came to its end.
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


def rows(phases: list[Phase], calls: dict[str, list[Call]], void: Collection[str]) -> list[Row]:
    """What ended in each phase, in the first and last of them with what was before and after.

    By its end, since a call that is under way when something happens is of what happens. Of clients
    that were late themselves without latencies.
    """
    found = []
    for phase in phases:
        begin = -math.inf if phase is phases[0] else phase.begin
        end = math.inf if phase is phases[-1] else phase.end
        for client, all_of in calls.items():
            ended = [call for call in all_of if begin <= call[1] < end]
            found.append(_row(phase, client, ended, void=client in void))
    return found


def under_way(begin: float, end: float, calls: list[Call]) -> int:
    """Calls that were due before the end, and had not ended at the beginning."""
    return sum(due <= end and begin <= ended for due, ended, _ in calls)


def _row(phase: Phase, client: str, calls: list[Call], *, void: bool) -> Row:
    answered = Histogram(ended - due for due, ended, code in calls if not (code or void))
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
    lines.append(f"calls under way while the killed replica came to its end: {under}")
    return "\n".join(lines)


def _told(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"
