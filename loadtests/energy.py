"""Pure: what the GPUs of a server drew for its answers, from two scrapes of its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A card's power follows its load within a second or two, and its counter within a tenth: over less
# than this a figure would be of chance.
LEAST_S = 10.0
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Card:
    """One GPU's counters at one moment; all that use it are in them.

    Attributes:
        name: e.g. ``NVIDIA H200``.
        seconds: that the others cover, of the server's own clock.
        busy_s: of them, in which anything ran; None where it is not told.
        energy_j: that it drew in them; None where it is not told.
        counted: whether by the card's own counter, not from samples of its power.
    """

    name: str = ""
    seconds: float = 0.0
    busy_s: float | None = None
    energy_j: float | None = None
    counted: bool = False


# by their ids
Cards = Mapping[str, Card]


@dataclass(frozen=True)
class Power:
    """Of all cards together, over one time.

    Attributes:
        watts: mean.
        busy: share of the time in which anything ran on a card, the mean of all; None if untold.
    """

    watts: float
    busy: float | None


@dataclass(frozen=True)
class Drawn:
    """What answers took, whoever else used the cards meanwhile.

    Attributes:
        gpus: their names.
        calls_per_s: that were sent.
        seconds: from scrape to scrape, all answers among them.
        answers: that were OK, in time or not.
        watts: mean, of all cards together.
        idle_watts: of the same, loaded and without calls; None where that was not measured.
        busy: share of the time in which anything ran on them; None where it is not told.
        counted: whether by the cards' own counters, not from samples of their power.
    """

    gpus: tuple[str, ...]
    calls_per_s: float
    seconds: float
    answers: int
    watts: float
    idle_watts: float | None = None
    busy: float | None = None
    counted: bool = False

    @property
    def joules_per_1000(self) -> float | None:
        """Of all that was drawn, for a thousand answers; None where that says nothing."""
        if self.seconds < LEAST_S or not self.answers:
            return None
        return 1e3 * self.watts * self.seconds / self.answers

    @property
    def net_joules_per_1000(self) -> float | None:
        """Of what was drawn on top of idling; negative where that is nothing but noise."""
        gross = self.joules_per_1000
        if gross is None or self.idle_watts is None:
            return None
        return gross * (1 - self.idle_watts / self.watts) if self.watts else 0.0

    @property
    def said(self) -> str:
        """In words."""
        gross, net = self.joules_per_1000, self.net_joules_per_1000
        if gross is None:
            return f"{NOT_MEASURED}: it takes {LEAST_S:g} s with answers, and these were shorter"
        above = "" if net is None else f", {net:.3g} J of them above idling"
        idle = "" if self.idle_watts is None else f" ({self.idle_watts:.3g} W without calls)"
        busy = "" if self.busy is None else f", busy {100 * self.busy:.0f} % of the time"
        how = "the cards' own counters" if self.counted else "samples of their power"
        return (
            f"{gross:.3g} J per 1,000 answers{above}, at {self.calls_per_s:.4g} calls/s: "
            f"{self.watts:.3g} W{idle} of {', '.join(self.gpus)}{busy}, by {how}"
        )


def figures(drawn: Drawn | None) -> dict[str, Any]:
    """What follows from it, for tables and files; None for what is not known."""
    return {
        "joules_per_1000": drawn.joules_per_1000 if drawn else None,
        "net_joules_per_1000": drawn.net_joules_per_1000 if drawn else None,
    }


def hardware(machine: str, cards: Cards) -> str:
    """A machine's name, with the GPUs that its servers run on before it; they tell those alone."""
    counts = Counter(card.name or "GPU" for card in cards.values())
    return ", ".join(filter(None, [*(f"{n} x {name}" for name, n in counts.items()), machine]))


def tells(cards: Cards) -> bool:
    """Whether there are any, and all of them tell their energy."""
    return bool(cards) and all(each.energy_j is not None for each in cards.values())


def power(before: Cards, after: Cards) -> Power | None:
    """Between two scrapes; None where a card does not tell, is new, or was seen too briefly."""
    watts, busy = 0.0, list[float | None]()
    for uuid, now in after.items():
        then = before.get(uuid)
        if then is None or then.energy_j is None or now.energy_j is None:
            return None
        seconds = now.seconds - then.seconds  # the server's, which the counters are of exactly
        # It looks twice a second, so that each end may be that much behind.
        if seconds < LEAST_S - 1.0 or now.energy_j < then.energy_j:
            return None
        watts += (now.energy_j - then.energy_j) / seconds
        told = now.busy_s is not None and then.busy_s is not None
        busy.append(((now.busy_s or 0.0) - (then.busy_s or 0.0)) / seconds if told else None)
    known = [share for share in busy if share is not None]
    if not after:
        return None
    return Power(watts, sum(known) / len(known) if known and len(known) == len(busy) else None)


def drawn(
    cards: tuple[Cards, Cards],
    *,
    idle: Power | None,
    calls_per_s: float,
    seconds: float,
    answers: int,
) -> Drawn | None:
    """What a run took; None where ``power`` tells none.

    Args:
        cards: before it and after.
        idle: what they draw without calls.
        calls_per_s: that were sent.
        seconds: between the scrapes.
        answers: meanwhile.
    """
    before, after = cards
    found = power(before, after)
    if found is None:
        return None
    return Drawn(
        gpus=tuple(each.name or "a GPU" for each in after.values()),
        calls_per_s=calls_per_s,
        seconds=seconds,
        answers=answers,
        watts=found.watts,
        idle_watts=None if idle is None else idle.watts,
        busy=found.busy,
        counted=all(each.counted for each in after.values()),
    )
