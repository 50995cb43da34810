"""What a generator saw of one run, and whether that may be believed; adds up across processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from loadtests import outside
from loadtests.histogram import Histogram, samples_for

GOOD = "good"
LATE = "late"
# The run was over before an answer came, and the call had no deadline, or a later one.
UNANSWERED = "UNANSWERED"
# Of sends, may be late before the run says nothing about the server.
VOID_SHARE = 0.01
# With the servers on the same cores: with ONNX Runtime on both of two, a bare sender of 200/s was
# over 2.5 ms late in 2 % of its sends, and over 5 ms in 0.1 %.
SHARED_LEAST_S = 0.1


_COUNTED = {
    "seconds": float, "limit_ms": float, "offered": int, "endings": dict[str, int],
    "sent_late": int, "unsent": int, "lost": int, "shared_cores": bool,
    "latency_histogram": object, "lag_histogram": object,
}  # fmt: skip


def slack_s(limit_s: float) -> float:
    """How late a send may be: a millisecond, or 5 % of the limit where that is more."""
    return max(0.001, 0.05 * limit_s)


@dataclass
class Observed:
    """How all calls of a run ended. All clocks start at the *scheduled* time of a call.

    Closed users have no schedule: their clocks start when they send, and none of it is ever late.

    Attributes:
        seconds: length of the schedule, or of the window of closed users.
        limit_s: an answer that takes longer is late; 0 if none is.
        offered: calls that were due in that time.
        endings: calls by ``good``, ``late`` (OK, but after the limit), gRPC's code, or
            ``UNANSWERED``.
        latency: of all that were answered OK, the late ones too.
        lag: how late the sends were.
        sent_late: sends that were later than ``slack_s`` allows.
        unsent: calls that were due and never sent: their generator was gone.
        lost: generators that never told the end of what they saw.
        shared: whether the generator shared its cores with the server.
    """

    seconds: float
    limit_s: float = 0.0
    offered: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    sent_late: int = 0
    unsent: int = 0
    lost: int = 0
    shared: bool = True

    def sent(self, lag_s: float) -> None:
        """Count a send that was due so many seconds ago; of an open loop."""
        self.lag.add(max(0.0, lag_s))
        self.sent_late += lag_s > slack_s(self.limit_s)

    def answered(self, taken_s: float) -> None:
        """Count an answer that was OK, so many seconds after its call was due."""
        late = 0 < self.limit_s < taken_s
        self.endings[LATE if late else GOOD] += 1
        self.latency.add(taken_s)

    def failed(self, code: str) -> None:
        """Count a call that ended with one of gRPC's codes."""
        self.endings[code] += 1

    def merge(self, other: Observed) -> None:
        """Add what another generator saw in the same time."""
        self.offered += other.offered
        self.endings.update(other.endings)
        self.latency.merge(other.latency)
        self.lag.merge(other.lag)
        self.sent_late += other.sent_late
        self.unsent += other.unsent
        self.lost += other.lost

    @property
    def good(self) -> int:
        """Calls that were answered OK inside the limit."""
        return self.endings[GOOD]

    @property
    def good_per_s(self) -> float:
        """Good answers per second: the goodput."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def answers(self) -> int:
        """Calls that were answered OK, late or not."""
        return self.endings[GOOD] + self.endings[LATE]

    @property
    def answers_per_s(self) -> float:
        """Calls that were answered OK per second, late or not."""
        return self.answers / self.seconds if self.seconds else 0.0

    @property
    def success(self) -> float:
        """The share of all offered calls that were answered OK; errors stay in what was offered."""
        return self.answers / self.offered if self.offered else 0.0

    @property
    def late_share(self) -> float:
        """The share of the sends that the generator made too late."""
        return self.sent_late / len(self.lag) if len(self.lag) else 0.0

    @property
    def void(self) -> str:
        """Why these figures say nothing about the server; empty where they do."""
        if self.unsent:
            return f"{self.unsent} calls were never sent: a generator was lost"
        if self.lost:
            which = "a generator" if self.lost == 1 else f"{self.lost} generators"
            return f"{which} never told the end: it was lost, and what it saw with it"
        if self.late_share <= VOID_SHARE:
            return ""
        reason = (
            f"the generator sent {self.late_share:.1%} of the calls more than "
            f"{1e3 * slack_s(self.limit_s):g} ms late"
        )
        if self.shared and 0 < self.limit_s < SHARED_LEAST_S:
            reason += (
                f"; on cores shared with the server it can judge limits from about "
                f"{1e3 * SHARED_LEAST_S:g} ms up"
            )
        return reason

    def told(self, figure: float | None) -> float | None:
        """A figure of this run as people and programs may read it; None where the run is void."""
        return None if self.void else figure

    def percentile_ms(self, percent: float) -> float | None:
        """Of the answers' latency; None where there are too few to say, or the run is void."""
        return self.told(_ms(self.latency.judged(percent)))

    def lag_ms(self, percent: float) -> float | None:
        """Of how late the sends were, void or not; None where there are too few to say."""
        return _ms(self.lag.judged(percent))

    def counted(self) -> dict[str, Any]:
        """What was counted, without what follows from it: for ``from_dict``, and cheap to make."""
        return {
            "seconds": self.seconds,
            "limit_ms": 1e3 * self.limit_s,
            "offered": self.offered,
            "endings": dict(self.endings),
            "sent_late": self.sent_late,
            "unsent": self.unsent,
            "lost": self.lost,
            "shared_cores": self.shared,
            "latency_histogram": self.latency.to_text(),
            "lag_histogram": self.lag.to_text(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files and between processes; figures that people read, too.

        Of a void run those are None; what was counted stays, so that nothing of it is lost.
        """
        percents = (50, 90, 95, 99, 99.9)
        return self.counted() | {
            "success": self.told(self.success),
            "answers_per_s": self.told(self.answers_per_s),
            "good_per_s": self.told(self.good_per_s),
            "latency_ms": {f"p{p:g}": self.percentile_ms(p) for p in percents},
            "lag_ms": {f"p{p:g}": self.lag_ms(p) for p in percents},
            "void": self.void,
            "p99_needs": samples_for(99),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Observed:
        """What ``to_dict`` or ``counted`` gave.

        Raises:
            ValueError: it is something else.
        """
        given = {"lost": 0} | outside.mapping(raw, "a run")
        told = outside.checked(_COUNTED, given, "a run")
        return cls(
            seconds=told["seconds"],
            limit_s=told["limit_ms"] / 1e3,
            offered=told["offered"],
            endings=Counter(told["endings"]),
            latency=Histogram.from_text(told["latency_histogram"]),
            lag=Histogram.from_text(told["lag_histogram"]),
            sent_late=told["sent_late"],
            unsent=told["unsent"],
            lost=told["lost"],
            shared=told["shared_cores"],
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
