"""Pure: up to which rate a profile's own runs show an SLO, which may be another than its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf

from loadtests.observed import GOOD, LATE, Observed, slack_s
from loadtests.profile import Profile
from loadtests.slo import Slo


def judged_at(seen: Observed, limit_s: float) -> Observed:
    """What a run would have counted, answers and sends, had this been its limit."""
    late = seen.latency.above(limit_s)
    endings = Counter(seen.endings)
    endings[GOOD], endings[LATE] = seen.answers - late, late
    return replace(
        seen, limit_s=limit_s, endings=endings, sent_late=seen.lag.above(slack_s(limit_s))
    )


def shown(profile: Profile, slo: Slo) -> float | None:
    """The highest rate that was measured to hold; None if none was.

    Of the profile's own SLO that is its rate, which its search confirmed; only where the generator
    ended that search, a run above it counts, too. What is stricter is not shown above that rate,
    and what is laxer at least up to it.
    """
    own = profile.rate or 0.0
    if slo == profile.slo and not profile.generator_bound:
        return profile.rate
    strict = stricter(slo, profile.slo)
    known = own if strict and not profile.generator_bound else inf
    found = max((rate for rate in _held(profile, slo) if rate <= known), default=0.0)
    return (found if strict else max(found, own)) or None


def most(profile: Profile, slo: Slo) -> float:
    """The rate up to which a simulation is asked; infinite for an SLO that is only laxer."""
    laxer = slo != profile.slo and not stricter(slo, profile.slo)
    return inf if laxer else shown(profile, slo) or 0.0


def stricter(slo: Slo, than: Slo) -> bool:
    """Whether some of it is, so that what held for the other may not hold for this one."""
    return slo.limit_s < than.limit_s or slo.percent > than.percent or slo.success > than.success


def _held(profile: Profile, slo: Slo) -> Iterator[float]:
    """Rates with a run that shows it, and none that speaks against it."""
    runs = [*profile.levels, *(level for level, _ in profile.searched)]
    judged = [(level.rate, judged_at(level.seen, slo.limit_s)) for level in runs]
    told = [(rate, seen) for rate, seen in judged if not seen.void]
    against = {rate for rate, seen in told if slo.doubt(seen)}
    return (rate for rate, seen in told if rate not in against and not slo.failure(seen))
