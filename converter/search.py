"""Trying candidates of one variant, cheapest first, on rows that do not judge.

A ladder is a generator: it yields a candidate, is sent back how that did, and decides what to try
next. The search ends it at the first candidate that does well, or when the budget is spent; then
the best so far is taken. The held-out rows are not looked at here: a search that stops by them
voids their bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter import compare, speed, verify
from converter.exporters.trained import first_line
from converter.proof import plausible
from converter.recipe import Bounds, Budget
from converter.samples import Samples
from converter.target import Target, this_cpu
from service.session import Session

# Until the drop on the selection rows looks like at most this share of what is allowed.
_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A file to try.

    Attributes:
        path: the graph.
        how: how it was made, in a few words.
        excluded: regions that were left in fp32.
        ranges_sha256: digest of the activation ranges, or empty.
        probe: whether it is only tried to learn something, and not to be published.
        step: whether the ladder goes on from it even if it does well, to do better.
    """

    path: Path
    how: str
    excluded: tuple[str, ...] = ()
    ranges_sha256: str = ""
    probe: bool = False
    step: bool = False


@dataclass(frozen=True)
class Score:
    """How a candidate did on the selection rows.

    Attributes:
        spoiled: rows that are newly wrong.
        rows: selection rows.
        distance: mean distance of its answers from fp32's, in units of the outputs' spread.
        speedup: the smaller median ratio over fp32 of a few rounds; 0 where it was not timed.
        good: whether the spoiled rows look like at most half of the drop allowed.
    """

    spoiled: int
    rows: int
    distance: float
    speedup: float
    good: bool


# Of what was taken without being tried.
UNSEEN = Score(0, 0, 0.0, 0.0, good=True)

Ladder = Generator[Candidate, Score, None]


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        candidate: the best.
        score: how it did.
        trials: how many were tried.
        told: why the search ended where it did, or empty if it found what it looked for.
    """

    candidate: Candidate
    score: Score
    trials: int
    told: str = ""


class Selection:
    """Rows and the reference's answers for them, by which candidates are compared."""

    def __init__(
        self,
        reference: Session,
        rows: Samples,
        bounds: Bounds,
        target: Target | None = None,
    ) -> None:
        """Hold the reference's answers.

        Args:
            reference: fp32, on the target.
            rows: none of them held out.
            bounds: what a variant has to hold.
            target: where candidates are tried; this CPU unless said.
        """
        self._target = target or this_cpu()
        self._reference = reference
        self._rows = rows
        self._bounds = bounds
        self._answers = verify.predict(reference, rows)
        self._metric = verify.metric_for(
            Bounds(metric="agreement" if bounds.metric == "accuracy" else bounds.metric),
            self._answers,
            None,
        )

    def score(self, candidate: Candidate, *, gated: bool) -> Score:
        """Try a candidate.

        Args:
            candidate: what to try.
            gated: whether its speed matters.

        Raises:
            ModelUnusable: ONNX Runtime cannot load it.
        """
        target, ratio = self._target, 0.0
        with target.opened(candidate.path) as session:
            if gated and not candidate.probe:
                feeds = self._rows.slice(0, max(target.batches))
                figures = speed.speed_up(
                    self._reference, session, feeds,
                    rounds=speed.FEW_ROUNDS, batches=target.batches, warm=target.warm,
                )  # fmt: skip
                ratio = min(figures[f"speedup_batch_{rows}"] for rows in target.batches)
            answers = verify.predict(session, self._rows)
        wrong, _ = verify.newly_wrong(
            answers, self._answers, None, self._metric, self._bounds.tolerance
        )
        spoiled, rows = int(wrong.sum()), len(wrong)
        moved = compare.distances(answers, self._answers)
        allowed = _SHARE * self._bounds.max_drop / 100
        return Score(
            spoiled=spoiled,
            rows=rows,
            distance=float(np.minimum(moved, np.finfo(np.float32).max).mean()),
            speedup=ratio,
            good=plausible(spoiled, rows, allowed),
        )


def best(
    ladder: Ladder,
    score: Callable[[Candidate], Score],
    *,
    least_speedup: float,
    budget: Budget,
    tell: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Climb a ladder to the first candidate that does well.

    Args:
        ladder: gives at least one candidate.
        score: tries one.
        least_speedup: a candidate below it ends the search: what comes later on a ladder is more
            accurate, not faster. 0 where speed does not matter.
        budget: what it may take.
        tell: called with what is being tried.
        clock: seconds.

    Returns:
        The best by (good, few spoiled, near), and how many were tried.
    """
    started = clock()
    found: Found | None = None
    trials = 0
    told = ""
    candidate = next(ladder)
    while True:
        tell(candidate.how)
        try:
            result = score(candidate)
            trials += 1
            if not candidate.probe and (found is None or _better(result, found.score)):
                found = Found(candidate, result, trials)
            ends = not candidate.probe and not candidate.step
            if ends and (result.good or result.speedup < least_speedup):
                break
            if clock() - started > budget.seconds or trials >= budget.trials:
                told = f"the budget of {budget.seconds:g} s and {budget.trials} trials was spent"
                break
            candidate = ladder.send(result)
        except StopIteration:
            told = "nothing more to try"
            break
        except Exception as error:  # the quantizers raise anything; what was found stays found
            if found is None:
                raise
            told = f"the next trial failed: {first_line(error)}"
            break
    ladder.close()
    assert found is not None
    return Found(found.candidate, found.score, trials, "" if found.score.good else told)


def _better(new: Score, old: Score) -> bool:
    """Of several that do well the later: a ladder excludes less from there on."""
    if new.good or old.good:
        return new.good
    return (new.spoiled, new.distance) < (old.spoiled, old.distance)
