"""How the calls of open loops ended, in words."""

from __future__ import annotations

from collections import Counter

from loadtests.histogram import Histogram
from loadtests.observed import GOOD, LATE, Observed

_CODES = {"RESOURCE_EXHAUSTED": "refused", "DEADLINE_EXCEEDED": "deadline"}
_ALWAYS = (GOOD, LATE, *_CODES.values())


def void(seen: Observed) -> str:
    """That these figures say nothing about the server, for a table; empty where they do."""
    return f"void: generator late in {seen.late_share:.1%}" if seen.void else ""


def others(seen: Observed) -> str:
    """What became of the calls that were not good."""
    parts = (f"{n} {what}" for what, n in sorted(seen.endings.items()) if what != GOOD)
    return ", ".join(parts) or "none"


def told(seen: Observed) -> str:
    """What became of all calls; the usual endings also where there were none."""
    counts = Counter(dict.fromkeys(_ALWAYS, 0))
    for what, number in seen.endings.items():
        counts[_CODES.get(what, what)] += number
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def marked(text: str, *runs: Observed) -> str:
    """A figure, said to be void where the generator did not keep its schedule."""
    reasons = [void(seen) for seen in runs if seen.void]
    return f"{text} ({reasons[0]})" if reasons else text


def good_latency(seen: Observed) -> Histogram:
    """Of the good answers alone: as many of the shortest as there were good ones."""
    found, left = Histogram(), seen.good
    for seconds, number in seen.latency.values():
        for _ in range(min(number, left)):
            found.add(seconds)
        left -= min(number, left)
    return found
