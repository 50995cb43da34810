"""Pure: what must hold, and whether a run shows it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.histogram import samples_for
from loadtests.observed import LATE, VOID_SHARE, Observed
from service.errors import InvalidSetting

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Slo:
    """A percentile of the latency below a limit, and a share of the calls answered.

    Attributes:
        percent: of the percentile, such as 99.
        limit_s: that it must not exceed, from the scheduled time of a call.
        success: share of the offered calls that must be answered OK, 0 to 1.
    """

    percent: float
    limit_s: float
    success: float

    @property
    def said(self) -> str:
        """In words."""
        return f"{self.held_to}, {exact(self.success)} answered"

    @property
    def held_to(self) -> str:
        """The percentile and its limit, in words."""
        return f"p{exact(self.percent)} <= {exact(1e3 * self.limit_s)} ms"

    def failure(self, seen: Observed) -> str:
        """Why this run does not show that the SLO holds; empty where it does.

        Few violations of few answers show nothing: how many answers there must be for the
        violations that were seen is ``samples_for``'s to say. What the answers cannot show, a
        longer run may; ``missing`` tells the two apart.
        """
        if not self.doubt(seen) and self.missing(seen):
            return f"{self.missing(seen)} answers too few to say"
        return self.doubt(seen)

    def doubt(self, seen: Observed) -> str:
        """Why this run, however short, looks as if the SLO did not hold; empty where it does."""
        if seen.void:
            return f"void: {seen.void}"
        if seen.success < self.success:
            return f"{seen.offered - seen.answers} of {seen.offered} calls were not answered"
        if not seen.offered:
            return "no call was sent"
        value = seen.latency.at(self.percent)
        if value is not None and value > self.limit_s:
            late = seen.latency.above(self.limit_s)
            return f"{late} of {seen.answers} answers took over {1e3 * self.limit_s:g} ms"
        return ""

    def only_seen(self, seen: Observed) -> str:
        """What of it a run saw and yet did not show, in words; empty where it showed all of it.

        A search waits for answers enough to show the percentile. The share that must be answered
        takes as many calls as a percentile of that height, which for 0.999 are ten times those of a
        p99: of that the run's own share decides.
        """
        failed = seen.offered - seen.answers
        said = (
            f"that {exact(self.success)} are answered was seen ({seen.answers} of {seen.offered})"
        )
        if self.success >= 1:
            return f"{said}, not shown, which no number of calls can"
        needed = samples_for(round(100 * self.success, 9), failed)
        if seen.offered >= needed:
            return ""
        return f"{said}, not shown, which takes {needed} calls with as many failures"

    def lost(self, seen: Observed, planned: int) -> bool:
        """Whether a run that is not over can no longer show that the SLO holds.

        Args:
            seen: of the run so far.
            planned: calls of the whole run.
        """
        late = seen.endings[LATE]
        failed = seen.endings.total() - seen.answers
        return (
            seen.sent_late > VOID_SHARE * planned
            or failed > (1 - self.success) * planned
            or late > (1 - self.percent / 100) * planned
        )

    def missing(self, seen: Observed) -> int:
        """How many more answers, all in time, would show that the percentile holds."""
        return max(0, samples_for(self.percent, seen.latency.above(self.limit_s)) - seen.answers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def exact(number: float) -> str:
    """A setting as it was given: 0.99999 is not 1."""
    return f"{number:.10g}"


def seconds_of(text: str) -> float:
    """What a length of time such as ``100ms`` says.

    Raises:
        InvalidSetting: it is none, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(us|ms|s)", text.strip())
    if not found or not float(found[1]):
        raise InvalidSetting(f"'{text}' is no length of time; give it as 100ms or 2s")
    return float(found[1]) * _UNITS_S[found[2]]
