"""Pure: when rows are taken for a run that is to wait for its GPU; no clock, no thread.

A GPU computes one run at a time, and a model has more instances than GPUs, so that the next batch
is gathered and copied while one computes. If that took whatever waits at once, it would have half
the rows that it could have had, and wait with them. So behind a run that computes, rows are taken
when a full run's wait, or when what is left of that run is no more than it takes to get them
there. A GPU without a run takes them at once, as a CPU does.

Both times are learned from the runs, and are the median: what is expected too late here costs a
part of the overlap, and what is expected too early costs rows in the batch; no promise rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from service.latency import Latency

_GRAIN_S = 0.001  # as late as an event loop's timers are


@dataclass(eq=False)
class UnderWay:
    """One run whose rows have been taken.

    Attributes:
        rows: it has.
        taken: when.
        began: when a GPU was free for it; None while it is behind another.
        run_s: seconds from its rows' being gathered until it was over, including those behind
            another run; None until it has succeeded.
    """

    rows: int
    taken: float
    began: float | None = None
    run_s: float | None = None


class Overlap:
    """One model's runs on its GPUs, those that compute and those behind; see above."""

    def __init__(self, gpus: int, max_rows: int) -> None:
        """Know nothing: until runs have been seen, they are expected to take no time.

        Args:
            gpus: each of which computes one run at a time.
            max_rows: of a full run.
        """
        self._gpus, self._max_rows = gpus, max_rows
        self._under_way: list[UnderWay] = []
        self._computes = Latency(margin=1.0, quantile=0.5)
        self._gets_there = Latency(margin=1.0, quantile=0.5)

    def opens(self, rows: int, now: float) -> float:
        """When so many rows are to be taken, if no more come; infinity: not before a run is over.

        Args:
            rows: that wait.
            now: the time; what this returns is past that only if a run is under way.
        """
        computing = [run for run in self._under_way if run.began is not None]
        behind = len(self._under_way) - len(computing)
        if len(computing) < self._gpus or rows >= self._max_rows:
            return now
        if behind >= len(computing):  # each GPU has its next run
            return inf
        ends = sorted(self._ends(run) for run in computing)
        return ends[behind] - self._gets_there(rows) - _GRAIN_S

    def begin(self, rows: int, now: float) -> UnderWay:
        """Rows have been taken; ``end`` must follow."""
        run = UnderWay(rows, now)
        self._under_way.append(run)
        self._go_on(now)
        return run

    def end(self, run: UnderWay, now: float) -> None:
        """A run is over; where it succeeded, its ``run_s`` has been filled in."""
        self._under_way.remove(run)
        if run.run_s is not None and run.began is not None:
            # Behind another it waited too, but then it began when the other was over.
            self._computes.observe(run.rows, min(run.run_s, now - run.began))
            self._gets_there.observe(run.rows, max(0.0, now - run.taken - run.run_s))
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """The first of those behind begin where GPUs are free."""
        free = self._gpus - sum(run.began is not None for run in self._under_way)
        behind = [run for run in self._under_way if run.began is None]
        for run in behind[: max(0, free)]:
            run.began = now

    def _ends(self, run: UnderWay) -> float:
        there = run.taken + self._gets_there(run.rows)
        began = there if run.began is None else max(run.began, there)
        return began + self._computes(run.rows)
