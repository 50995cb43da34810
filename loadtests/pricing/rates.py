"""Pure: which rates to try, for how long, and which one is the answer; no clock, no server.

A search is a generator: it yields a trial and is sent how that ended. Short trials find about where
the SLO stops to hold; only long ones, whose answers suffice to show it, say that it does. So the
answer is the highest rate that was confirmed, and what lies above it was tried and failed.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import ceil, sqrt

from loadtests.histogram import samples_for
from loadtests.slo import Slo

# Rates nearer to each other than this are one: noise of a shared machine is as large.
RESOLUTION = 0.04
# Short trials stop here, since a bad second decides them.
_ROUGHLY = 0.1
# The first step up or down from what short trials found.
_STEP = 0.05
# Shorter trials measure how the server felt at that moment; confirmations last longer if they can.
_LEAST_S, _LONG_S = 2.0, 30.0
# Of the first guess: a server that holds the SLO at less is not worth the time.
_LEAST_SHARE = 1 / 64
# So many void rates in a row, each tried twice: the generator is not better at lower ones.
_MOST_VOIDS = 5
# Of the budget, so that one trial, or all short ones, leave something for confirmation.
_SHORT_SHARE, _ALL_SHORT_SHARE, _LONG_SHARE = 0.1, 0.4, 0.25
# Violations that a confirmation may have, the more of them the less a single stall decides; and,
# where there is time for few only, how far below the rate that seems to hold to begin.
_ONLY_TRY = 0.6
_VIOLATIONS = {10: 1.0, 3: 0.95, 1: 0.9, 0: 0.85}
# Beyond what must be answered: some answers may fail within the SLO.
_SPARE = 1.02


@dataclass(frozen=True)
class Trial:
    """One open-loop run.

    Attributes:
        rate: calls per second.
        seconds: how long.
        confirms: whether its answers must suffice to show that the SLO holds.
    """

    rate: float
    seconds: float
    confirms: bool


@dataclass(frozen=True)
class Judged:
    """How a trial ended.

    Attributes:
        failure: why the SLO did not hold; empty if it did.
        void: whether the trial says nothing about the server.
        left_s: of the budget.
    """

    failure: str
    void: bool
    left_s: float


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        rate: the highest that was confirmed; None if none was.
        why: why it ended there, in words.
        generator_bound: whether what lies above it is unknown, since the generator failed there.
    """

    rate: float | None
    why: str
    generator_bound: bool = False


Search = Generator[Trial, Judged, Found]


@dataclass
class _Bracket:
    """What is known so far."""

    held: float | None = None
    failed: float | None = None
    why: str = ""
    void: bool = False
    voids: int = 0
    left_s: float = 0.0

    def take(self, rate: float, judged: Judged) -> None:
        if not judged.failure:
            self.held = rate
        else:
            self.failed, self.why, self.void = rate, judged.failure, judged.void
        self.left_s = judged.left_s
        self.voids = self.voids + 1 if judged.failure and judged.void else 0

    @property
    def gap(self) -> float:
        """How much higher the failed rate is; 1 where only one of both is known."""
        return self.failed / self.held - 1 if self.held and self.failed else 1.0

    def found(self, why: str = "") -> Found:
        """The end, with what is known by now."""
        said = [why, f"at {self.failed:.4g}/s {self.why}" if self.failed else ""]
        if self.void:
            below = "so" if self.failed else "shorter runs above it were void, so"
            said.append(f"{below} the bound is the generator's, not the server's")
        return Found(self.held, "; ".join(filter(None, said)), self.void)


def search(slo: Slo, *, first: float, budget_s: float) -> Search:
    """The highest rate at which an SLO holds, to ``RESOLUTION``.

    Args:
        slo: what must hold.
        first: calls per second to begin with: what one caller gets who waits for his answers.
        budget_s: seconds for all trials; it ends with what is confirmed by then.
    """
    about = yield from _roughly(slo, first, budget_s)
    if about.held is None:
        return about.found("" if about.failed else "the budget of time was spent at once")
    return (yield from _confirmed(slo, about.held, about.left_s, void=about.void))


def _tried(trial: Trial) -> Generator[Trial, Judged, Judged]:
    """One trial; a void one is repeated once, for what disturbed it may be over."""
    judged = yield trial
    return (yield trial) if judged.void and judged.left_s > trial.seconds else judged


def _roughly(slo: Slo, first: float, budget_s: float) -> Generator[Trial, Judged, _Bracket]:
    """Doubled, or halved, until it holds on one side and fails on the other; then bisected."""
    bracket, rate, left_s = _Bracket(), first, budget_s
    while bracket.gap > _ROUGHLY:
        seconds = min(_SHORT_SHARE * budget_s, _short_s(slo, rate, bracket.gap))
        if bracket.held and left_s - seconds < (1 - _ALL_SHORT_SHARE) * budget_s:
            break
        hopeless = rate < _LEAST_SHARE * first or bracket.voids >= _MOST_VOIDS
        if left_s < seconds or (hopeless and not bracket.held):
            break
        judged = yield from _tried(Trial(rate, seconds, confirms=False))
        left_s = judged.left_s
        bracket.take(rate, judged)
        if bracket.held and bracket.failed:
            rate = sqrt(bracket.held * bracket.failed)
        else:
            rate = 2 * bracket.held if bracket.held else rate / 2
    return bracket


def _confirmed(slo: Slo, about: float, left_s: float, *, void: bool) -> Search:
    """Up from there while it is confirmed, down while it is not, then between the two.

    Args:
        slo: what must hold.
        about: the rate to begin at.
        left_s: of the budget.
        void: whether what seemed to bound it was the generator; it is, until a long trial fails.
    """
    bracket, rate, step = _Bracket(void=void), about, _STEP
    longest_s = max(_LONG_S, slo.limit_s / RESOLUTION, _SHORT_SHARE * left_s)
    begun = _long_s(slo, rate, left_s, longest_s)
    rate *= begun[1] if begun else 1.0
    while True:
        long = _long_s(slo, rate, left_s, longest_s)
        if long is None:
            return bracket.found("the budget of time was spent")
        judged = yield from _tried(Trial(rate, long[0], confirms=True))
        left_s = judged.left_s
        bracket.take(rate, judged)
        if bracket.held and bracket.failed:
            if bracket.gap <= RESOLUTION + 1e-9:
                return bracket.found()
            rate = sqrt(bracket.held * bracket.failed)
            continue
        rate = bracket.held * (1 + step) if bracket.held else rate * (1 - step)
        step = min(0.5, 2 * step)
        if rate < _LEAST_SHARE * about:
            return bracket.found()


def _short_s(slo: Slo, rate: float, gap: float) -> float:
    """Long enough for a percentile to show itself, and a queue that grows by the gap."""
    answers = 2 / (1 - slo.percent / 100)
    return max(answers / rate, slo.limit_s / gap, _LEAST_S)


def _long_s(slo: Slo, rate: float, left_s: float, longest_s: float) -> tuple[float, float] | None:
    """Long enough to show that the SLO holds, and where to begin; None where there is no time."""
    for violations, begin in _VIOLATIONS.items():
        answers = ceil(_SPARE * samples_for(slo.percent, violations) / max(slo.success, 0.5))
        # In less time a queue that grows by a tenth of the rate does not reach the limit.
        seconds = max(answers / rate, slo.limit_s / _ROUGHLY, _LEAST_S)
        if seconds <= _LONG_SHARE * left_s:
            return max(seconds, min(longest_s, _LONG_SHARE * left_s)), begin
    if seconds > left_s:
        return None
    return seconds, begin if seconds < left_s / 2 else _ONLY_TRY
