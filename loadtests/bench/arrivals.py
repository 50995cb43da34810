"""The open loop's pure parts: when to send, how calls ended, and whether that may be judged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

GOOD = "good"
LATE = "late"
_VOID_SHARE = 0.01
_CODES = {"RESOURCE_EXHAUSTED": "refused", "DEADLINE_EXCEEDED": "deadline"}
_ALWAYS = (GOOD, LATE, *_CODES.values())


def schedule(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Seconds after the start at which to send, the same for equal seeds.

    Poisson arrivals, of those draws that hold just as many as were asked for (which are sorted
    uniform times): what is answered can then not exceed what is said to be offered.
    """
    chance = random.Random(seed)
    return sorted(chance.uniform(0, seconds) for _ in range(round(rate * seconds)))


def slack_s(deadline_s: float) -> float:
    """How late a send may be: a millisecond, or 5 % of the deadline where that is more."""
    return max(0.001, 0.05 * deadline_s)


@dataclass
class Outcome:
    """How the calls of one open loop ended; times run from the schedule, not from the send.

    Attributes:
        seconds: length of the schedule.
        endings: calls by ``good``, ``late`` (OK, but after the deadline) or gRPC's code.
        latencies_s: of all that were answered OK.
        sent: calls that were sent.
        sent_late: of them later than their schedule allows.
    """

    seconds: float
    endings: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    sent: int = 0
    sent_late: int = 0

    def answered(self, taken_s: float, *, deadline_s: float) -> None:
        """Count an answer that was OK."""
        self.endings[GOOD if taken_s <= deadline_s else LATE] += 1
        self.latencies_s.append(taken_s)

    @property
    def good_per_s(self) -> float:
        """Answers inside their deadline, per second."""
        return self.endings[GOOD] / self.seconds

    @property
    def void(self) -> str:
        """Why these figures say nothing about the server; empty where they do."""
        share = self.sent_late / self.sent if self.sent else 0.0
        return f"void: generator late in {share:.1%}" if share > _VOID_SHARE else ""

    @property
    def others(self) -> str:
        """What became of the calls that were not good, in words."""
        parts = (f"{n} {what}" for what, n in sorted(self.endings.items()) if what != GOOD)
        return ", ".join(parts) or "none"

    @property
    def told(self) -> str:
        """What became of all calls, in words; the usual endings also where there were none."""
        counts = Counter(dict.fromkeys(_ALWAYS, 0))
        for what, number in self.endings.items():
            counts[_CODES.get(what, what)] += number
        return ", ".join(f"{number} {what}" for what, number in counts.items())


def marked(text: str, *outcomes: Outcome) -> str:
    """A figure, said to be void where the generator did not keep its schedule."""
    reasons = [outcome.void for outcome in outcomes if outcome.void]
    return f"{text} ({reasons[0]})" if reasons else text


async def paced(
    times: Sequence[float],
    send: Callable[[float], None],
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Send when each time has come, however late the one before was.

    Args:
        times: seconds after now, ascending.
        send: is given the moment at which the send was due; it must not wait.
        clock: now, in seconds.
        sleep: waits so many seconds.
    """
    begun = clock()
    for time in times:
        await sleep(max(0.0, begun + time - clock()))
        send(begun + time)
