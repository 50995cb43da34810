"""Pure: what one process counts of a run: calls that were due, or begun, in the time that counts.

A call that was counted stays so: if the run is over before its answer, it went unanswered.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from loadtests.observed import UNANSWERED, Observed
from loadtests.swarm.order import Order


class Part:
    """One process's part.

    Attributes:
        seen: what was counted.
        sealed: whether nothing counts any more.
    """

    def __init__(self, order: Order) -> None:
        """Count nothing before it is told when that begins."""
        self.seen = Observed(order.seconds, limit_s=order.limit_s)
        self.sealed = False
        self.begins = math.inf

    def counts(self, moment: float) -> bool:
        """Whether a call that was due, or began, at this moment counts; if so, it is offered."""
        inside = self.begins <= moment < self.begins + self.seen.seconds
        if inside and not self.sealed:
            self.seen.offered += 1
            return True
        return False

    def sent(self, lag_s: float) -> None:
        """Count how late a send was, of an open loop."""
        if not self.sealed:
            self.seen.sent(lag_s)

    def ended(self, taken_s: float, code: str) -> None:
        """Count the end of a call that counts; an empty code is an answer."""
        if self.sealed:
            return
        if code:
            self.seen.failed(code)
        else:
            self.seen.answered(taken_s)

    @property
    def outstanding(self) -> int:
        """Calls that count and have not ended."""
        return self.seen.offered - self.seen.endings.total()

    def counted(self, now: float) -> dict[str, Any]:
        """What was counted so far, and in how many seconds; for the others."""
        return replace(self.seen, seconds=self._elapsed_s(now)).counted()

    def _elapsed_s(self, now: float) -> float:
        return min(self.seen.seconds, max(0.0, now - self.begins))

    def cut(self, now: float) -> None:
        """Let nothing that is due from now on count."""
        self.seen.seconds = self._elapsed_s(now)

    def seal(self) -> None:
        """Count nothing any more: what has no answer now has none."""
        if self.outstanding:
            self.seen.endings[UNANSWERED] += self.outstanding
        self.sealed = True
