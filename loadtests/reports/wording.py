"""Pure: what a report says in sentences: its verdict, its conditions, and why something is void."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtests.energy import NOT_MEASURED
from loadtests.observed import slack_s
from loadtests.profile import Profile
from loadtests.reports import resolution
from loadtests.reports.columns import dollars, points, share, three_digits
from loadtests.slo import exact


@dataclass(frozen=True)
class Condition:
    """One thing that figures depend on.

    Attributes:
        what: it is.
        said: in words.
        of: names of the profiles that this holds for; empty for all of them.
    """

    what: str
    said: str
    of: tuple[str, ...] = ()


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def void(profile: Profile) -> str:
    """Why it may not be priced; empty where it may."""
    if not profile.lacking:
        return ""
    said = f"it lacks {listed(profile.lacking)}"
    failed = [(level.rate, failure) for level, failure in profile.searched if failure]
    if profile.rate is None and failed:
        rate, failure = min(failed)
        said += f" (at {three_digits(rate)}/s: {failure})"
    return said


def other_work(one: Profile, other: Profile) -> str:
    """Why two profiles are not of the same work; empty where they are."""
    names = f"'{one.name}' and '{other.name}'"
    if one.conditions.rows != other.conditions.rows:
        sizes = f"{one.conditions.rows} and {other.conditions.rows}"
        return f"{names} were sent requests of {sizes} rows"
    if one.slo != other.slo:
        return f"{names} were held to different SLOs ({one.slo.said}; {other.slo.said})"
    return ""


def bound(profile: Profile) -> str:
    """Why its rate is at least, and its dollars at most, what is told; empty where they are so."""
    if not profile.generator_bound or profile.rate is None:
        return ""
    why = f" ({profile.ended})" if profile.ended else ""
    return f"bounds only: the generator failed before the server did{why}, so nothing is made of it"


def verdict(profiles: Sequence[Profile], chosen: Profile | None, base: Profile | None) -> str:
    """One sentence: which variant, how much cheaper than the baseline, at which SLO.

    Of bounds that the generator made none is passed; those they are of are named behind it.
    """
    bounds = [each.name for each in profiles if bound(each) and not each.lacking]
    if len(profiles) == 1 and not bounds and chosen and chosen.usd_per_million is not None:
        cost = f"{dollars(chosen.usd_per_million)} per million good answers"
        return f"{chosen.name} costs {cost} at {_slo(chosen)}{_accuracy(chosen)}."
    if not bounds:
        return _judged(chosen, base)
    untold = f"what {listed(bounds)} can do is not known, since the generator failed first"
    if chosen is None:
        return f"There is no verdict: {untold}; measure with a stronger one."
    said = _judged(chosen, None if base and base.name in bounds else base).rstrip(".")
    return f"{said}; {untold}."


def _judged(chosen: Profile | None, base: Profile | None) -> str:
    if chosen is None or chosen.usd_per_million is None:
        return "Nothing here may be priced: each profile is void for the reason in its row."
    cost = f"{dollars(chosen.usd_per_million)} per million good answers"
    at = f"at {_slo(chosen)}{_accuracy(chosen)}"
    if base is None:
        return f"{chosen.name} is the cheapest: {cost} {at}."
    if base.name == chosen.name:
        return f"Nothing is cheaper than the baseline, {base.name}: {cost} {at}."
    if base.usd_per_million is None:
        return (
            f"{chosen.name} is the cheapest: {cost} {at}; the baseline, {base.name}, is void: "
            f"{void(base)}."
        )
    if not resolution.apart(base, chosen):
        return (
            f"{chosen.name} came out cheapest, with {cost} {at}, but the search cannot tell it "
            f"from the baseline, {base.name}."
        )
    ratio = base.usd_per_million / chosen.usd_per_million
    return (
        f"{chosen.name} is the cheapest: {cost}, {three_digits(ratio)} times cheaper than "
        f"{base.name} ({100 * (1 - 1 / ratio):.0f} % less), {at}."
    )


def _slo(profile: Profile) -> str:
    slo = profile.slo
    return (
        f"an SLO of p{exact(slo.percent)} within {exact(1e3 * slo.limit_s)} ms and "
        f"{exact(100 * slo.success)} % answered"
    )


def _accuracy(profile: Profile) -> str:
    change = profile.subject.accuracy_change
    if change is None:
        return ""
    if not round(change, 2):
        return ", as accurate as the trained model"
    where = "below" if change < 0 else "above"
    return f", {points(abs(change)).lstrip('+')} points of accuracy {where} the trained model"


def conditions(profiles: Sequence[Profile]) -> list[Condition]:
    """All that the figures depend on; what holds for all profiles is said once."""
    found = []
    for what, said in _CONDITIONS:
        groups: dict[str, list[str]] = {}
        for profile in profiles:
            groups.setdefault(said(profile), []).append(profile.name)
        for text, names in groups.items():
            found.append(Condition(what, text, () if len(groups) == 1 else tuple(names)))
    return found


def _price(profile: Profile) -> str:
    where = profile.conditions
    if where.price is None:
        return "void: none was given"
    measured = _date(where.date)
    old = "; more than a year old" if measured and where.price.is_old(measured) else ""
    return f"in US dollars, an assumption: {where.price_said}{old}"


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        return None


def _cpus(profile: Profile) -> str:
    where = profile.conditions
    each = f" on each of {where.machines} such machines" if where.machines > 1 else ""
    paid = f"{where.cpus:g} CPUs paid for{each}"
    return f"{where.hardware or 'void: it was not told'}; {paid}"


def _server(profile: Profile) -> str:
    where = profile.conditions
    if where.replicas == 1:
        return profile.subject.server
    local = where.local
    on = "each on a machine of its own, and each paid for"
    if local == where.replicas:
        on = "all on one machine, paid for once"
    elif local > 1:
        on = f"{local} of them on one machine; {where.machines} machines are paid for"
    return f"{profile.subject.server}; {where.replicas} replicas that shared the calls, {on}"


def _span(profile: Profile) -> str:
    """Of what time the phases and the bill are."""
    if not (profile.phases or profile.bill):
        return "the server told none"
    if not profile.levels:
        return "of the probes of batch sizes and the search: there were no runs after it"
    return (
        "phases of the runs below the SLO's rate, without overload; the bill of those and of the "
        "overload, and of the pauses between them"
    )


def _cores(profile: Profile) -> str:
    if profile.conditions.shared:
        return "shared the server's CPUs, so both are slower than alone"
    return "had CPUs of its own"


def _lag(profile: Profile) -> str:
    """How well the generator kept its schedule, in the run at the SLO's rate."""
    if profile.at_slo is None:
        return "no run of it held the SLO"
    seen = profile.at_slo.seen
    if not len(seen.lag):
        return "it did not write down its lag"
    told = [
        f"p{percent} {three_digits(value)} ms"
        for percent in (50, 99)
        if (value := seen.lag_ms(percent)) is not None
    ]
    said = ", ".join(told) or "too few sends to tell a percentile"
    said += (
        f"; {share(seen.late_share)} sent more than {1e3 * slack_s(seen.limit_s):g} ms late, of "
        f"1 % allowed"
    )
    return f"void: {seen.void}; {said}" if seen.void else said


def _model(profile: Profile) -> str:
    about = profile.subject
    version = f" version {about.version}" if about.version else ""
    digest = f"sha256 {about.sha256}" if about.sha256 else "void: its digest was not told"
    return f"{about.model}{version}, {about.variant or 'void: no variant was told'}, {digest}"


def _energy(profile: Profile) -> str:
    if profile.energy is None:
        return f"{NOT_MEASURED}: the server tells of no GPU's"
    return profile.energy.said


_CONDITIONS: tuple[tuple[str, Callable[[Profile], str]], ...] = (
    ("SLO", lambda p: f"{p.slo.said}, from the scheduled time of each call"),
    ("Price", _price),
    ("Hardware", _cpus),
    ("Server", _server),
    ("Load", lambda p: f"open loop, Poisson arrivals, seed {p.conditions.seed}"),
    ("Payload", lambda p: f"{p.conditions.rows} row a request, {p.conditions.payload}"
     if p.conditions.rows == 1 else f"{p.conditions.rows} rows a request, {p.conditions.payload}"),
    ("Deadline", lambda p: f"{p.conditions.deadline_ms:g} ms for each call; above the SLO's "
     "rate the SLO's limit, since there callers give up"),
    ("Generator", lambda p: f"{p.conditions.generator}; it {_cores(p)}"),
    ("Generator's lag", _lag),
    ("Phases and bill", _span),
    ("Energy", _energy),
    ("Measured", lambda p: p.conditions.date),
    ("Model", _model),
)  # fmt: skip
