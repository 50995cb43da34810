"""Pure: what a run is to be, and how its one schedule is dealt to those who generate it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import arrivals
from loadtests.observed import UNANSWERED, Observed

# To what a share takes to come to all of them.
LEAD_S = 0.1
# For answers that have no deadline.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Order:
    """One run.

    Attributes:
        arrivals: of an open loop, see ``loadtests.arrivals``; empty for closed users.
        rate: of an open loop, calls per second.
        seconds: that count.
        warmup_s: before them.
        seed: of the schedule.
        trace: of a replay.
        limit_s: later answers are late; 0 for none.
        deadline_s: of each call, in an open loop from its schedule on; 0 for none.
        patience_s: how long to wait for answers after the end; 0 for the deadline.
    """

    arrivals: str = ""
    rate: float = 0.0
    seconds: float = 10.0
    warmup_s: float = 1.0
    seed: int = 1
    trace: Path | None = None
    limit_s: float = 0.0
    deadline_s: float = 0.0
    patience_s: float = 0.0

    @classmethod
    def of(cls, options: Any) -> Order:
        """From the options of the command line, or of Locust's page."""
        return cls(
            arrivals=options.arrivals,
            rate=options.rate,
            seconds=options.seconds,
            warmup_s=options.warmup_s,
            seed=options.seed,
            trace=Path(options.trace) if options.trace else None,
            limit_s=options.limit_ms / 1e3,
            deadline_s=options.deadline_ms / 1e3,
            patience_s=options.stop_timeout or 0.0,
        )

    @property
    def waits_s(self) -> float:
        """How long answers are waited for when nothing more is sent."""
        return self.patience_s or self.deadline_s or PATIENCE_S

    def times(self) -> list[float]:
        """Of an open loop: seconds from where it begins to count; those of the warm-up are below 0.

        The warm-up is Poisson, at the rate with which the rest begins.

        Raises:
            InvalidSetting: there are no such arrivals, or the trace cannot be read.
        """
        counted = arrivals.schedule(
            self.arrivals, rate=self.rate, seconds=self.seconds, seed=self.seed, trace=self.trace
        )
        if not self.warmup_s:
            return counted
        if self.arrivals in arrivals.SHAPES:
            rate = self.rate * arrivals.SHAPES[self.arrivals][0][1]
        else:
            rate = len(counted) / self.seconds
        warming = arrivals.schedule("poisson", rate=rate, seconds=self.warmup_s, seed=self.seed + 1)
        return [time - self.warmup_s for time in warming] + counted


def dealt(times: Sequence[float], users: Sequence[str]) -> dict[str, list[float]]:
    """Each user's share of one schedule: their union is that schedule, whoever sends it."""
    return {user: list(times[index :: len(users)]) for index, user in enumerate(users)}


class Tally:
    """What all generators have seen so far of one run; each tells its whole part again and again.

    Attributes:
        failure: why the run could not be made; empty if it could.
    """

    def __init__(self, order: Order, users: int) -> None:
        """Begin with nothing.

        Args:
            order: the run.
            users: how many there are to be.
        """
        self.order = order
        self.failure = ""
        self.due = 0
        self._expected = users
        self._ready: list[tuple[str, str]] = []
        self._parts: dict[str, Observed] = {}
        self._last = set[str]()
        self._dealt = False

    def ready(self, client: str, user: str) -> bool:
        """Note a user that could send now; whether it is the last that was waited for."""
        self._ready.append((client, user))
        return len(self._ready) == self._expected

    def deal(self) -> dict[str, dict[str, list[float]]]:
        """Client -> user -> its share; of closed users the shares are empty."""
        times = self.order.times() if self.order.arrivals else []
        self._dealt = True
        self.due = sum(0 <= time < self.order.seconds for time in times)
        # Sorted by turns, so that neighbours in the schedule go to different processes.
        turns = dict[str, int]()
        ranked = list[tuple[int, str, str]]()
        for client, user in self._ready:
            turns[client] = turns.get(client, 0) + 1
            ranked.append((turns[client], client, user))
        owners = {user: client for _, client, user in sorted(ranked)}
        found: dict[str, dict[str, list[float]]] = {client: {} for client in turns}
        for user, share in dealt(times, list(owners)).items():
            found[owners[user]][user] = share
        return found

    def told(self, client: str, part: dict[str, Any], *, last: bool) -> None:
        """Take what a client has seen of its part until now."""
        self._parts[client] = Observed.from_dict(part)
        if last:
            self._last.add(client)

    @property
    def waits_for(self) -> set[str]:
        """Clients that have not told the last yet."""
        return {client for client, _ in self._ready} - self._last

    def total(self, *, ended: bool) -> Observed:
        """All parts together.

        Args:
            ended: whether nothing more comes: what was due and never sent is then missed, what has
                not ended has no answer, and who has not told the last is lost.
        """
        whole = Observed(self.order.seconds, limit_s=self.order.limit_s)
        if self._parts:
            whole.seconds = max(part.seconds for part in self._parts.values())
        for part in self._parts.values():
            whole.merge(part)
        if ended:
            if whole.seconds >= self.order.seconds:
                whole.unsent = max(0, self.due - whole.offered)
            # Of a worker that was lost only what it told in time is known: in a closed loop, or in
            # one that was cut, nobody can say how much that leaves out.
            whole.lost = len(self.waits_for) if self._dealt else 0
            whole.endings[UNANSWERED] += whole.offered - whole.endings.total()
            whole.endings += Counter()
        return whole

    def to_dict(self, *, ended: bool) -> dict[str, Any]:
        """Plain values: of the run, and what was seen."""
        return {
            "ended": ended,
            "failure": self.failure,
            "loop": "open" if self.order.arrivals else "closed",
            "arrivals": self.order.arrivals,
            "rate": self.order.rate if self.order.arrivals else None,
            "seed": self.order.seed if self.order.arrivals else None,
            "users": len(self._ready),
            "processes": len({client for client, _ in self._ready}),
            "observed": self.total(ended=ended).to_dict(),
        }
