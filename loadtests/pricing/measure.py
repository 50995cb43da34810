"""The story of `farthing slo`: from a running server to a profile with a price."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata

from loadtests import energy
from loadtests.observed import Observed
from loadtests.pricing import drawing, identity, rates
from loadtests.pricing.identity import Said
from loadtests.pricing.rates import Found, Judged, Search, Trial
from loadtests.pricing.rig import Rig, Told, Work, connected
from loadtests.profile import Conditions, Level, Profile, Subject
from loadtests.slo import Slo
from service import hardware
from service.proto import inference_pb2 as pb

# Of the rate that was found: where the latency rises, and what overload leaves of the goodput.
SHARES = (0.25, 0.5, 0.75, 0.9)
OVERLOADS = (1.5, 2.0, 4.0)
# Of the budget: one caller alone, sizes of batches; and the search, where levels come after it.
_ALONE_SHARE, _SIZES_SHARE, _SEARCH_SHARE = 0.05, 0.05, 0.65
_MOST_ALONE_S, _MOST_SETTLE_S = 10.0, 15.0
_LEAST_LEVEL_S, _USUAL_LEVEL_S, _MOST_LEVEL_S, _LEVEL_ANSWERS = 1.0, 6.0, 20.0, 700
_ROWS_UNTOLD = 32


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        budget_s: seconds for all of it, about.
        seed: of the arrivals.
        levels: whether to run at shares and multiples of the rate that was found.
    """

    budget_s: float = 180.0
    seed: int = 1
    levels: bool = True


@dataclass(frozen=True)
class Clock:
    """Seconds, and when they are used up."""

    ends: float
    now: Callable[[], float] = time.perf_counter

    @property
    def left_s(self) -> float:
        """Of the time that was given; never negative."""
        return max(0.0, self.ends - self.now())


def profile_of(
    work: Work,
    said: Said,
    slo: Slo,
    effort: Effort | None = None,
    *,
    name: str = "",
    told: Told = lambda _: None,
    warned: Callable[[list[str]], None] = lambda _: None,
) -> Profile:
    """Measure a running server: the highest rate at which an SLO holds, and all around it.

    Args:
        work: what is asked of whom.
        said: what the servers do not tell, the price among it.
        slo: what must hold.
        effort: how much is done.
        name: how tables call it; the variant's name if empty, else the model's.
        told: is given what is being done, in words, as often as it changes.
        warned: is given, before the search, what a price will lack whatever is measured.

    Raises:
        TargetFailed: a target does not answer, or does not serve such requests.
        BadRows: the rows do not fit the model.
        InvalidSetting: a URL of the metrics does not answer with metrics, or not with the targets'.
    """
    effort = effort or Effort()
    clock = Clock(time.perf_counter() + effort.budget_s)
    told(f"waiting for the first answer of {', '.join(work.targets)}")
    with connected(work, slo, seed=effort.seed, most_s=clock.left_s) as rig:
        told("one caller, alone")
        rig.check_metrics(_ALONE_SHARE * effort.budget_s)
        alone = rig.alone(min(_MOST_ALONE_S, _ALONE_SHARE * effort.budget_s))
        begun, begun_s = rig.taken(), clock.now()
        config = rig.config()
        who = _subject(rig, config, said)
        given = _told_more(conditions(work, said, slo, effort), config, begun.metrics.gpus, said)
        warned(Profile(name, who(), given, slo, rate=1.0).lacking)
        if begun.statistics:
            told("one caller, batches of all sizes")
            most_rows = config.max_batch_size if config else _ROWS_UNTOLD
            rig.sizes(most_rows, _SIZES_SHARE * effort.budget_s)
        share = _SEARCH_SHARE if effort.levels else 1.0
        found, searched = searched_on(rig, alone, Clock(clock.now() + share * clock.left_s), told)
        before, before_s = rig.taken(), clock.now()
        levels = list[Level]()
        phases = before.phases(begun)
        if found.rate and effort.levels:
            below, above = ([x * found.rate for x in some] for some in (SHARES, OVERLOADS))
            levels = _levels(rig, below, clock, told, after=len(above))
            phases = rig.taken().phases(before)
            # Whoever is slower than the SLO under overload might as well not answer: callers who
            # give up at the limit are what a server can act upon.
            levels += _levels(rig, above, clock, told, impatient=True)
        found = raised(found, [*levels, *(level for level, _ in searched)], slo)
        ended, since = rig.taken(), (before if levels else begun).metrics
        span_s = clock.now() - (before_s if levels else begun_s)
        subject = who(memory_bytes=ended.metrics.memory_bytes or None)
        drawn = drawing.at(found.rate, rig, told) if found.rate else None
    return Profile(
        name=name or subject.variant or work.model,
        subject=subject,
        conditions=given,
        slo=slo,
        rate=found.rate,
        generator_bound=found.generator_bound,
        searched=tuple(searched), ended=found.why,
        alone=alone, levels=tuple(levels),
        runs=ended.sizes(begun),
        phases=phases,
        bill=ended.metrics.bill(since),
        paid_core_s=ended.metrics.paid(since), bill_unit=ended.metrics.unit,
        energy=drawn,
        unbilled=ended.metrics.anew(since), span_s=span_s,
    )  # fmt: skip


def searched_on(
    rig: Rig, alone: Observed, clock: Clock, told: Told
) -> tuple[Found, list[tuple[Level, str]]]:
    """Search on a running server.

    Args:
        rig: the server.
        alone: what one caller saw.
        clock: for the search.
        told: what is being done.

    Returns:
        How it ended; and each run, with why the SLO did not hold ("" if it did).
    """
    slo, usual_s = rig.slo, alone.latency.at(50) or 0.0
    if usual_s > slo.limit_s:
        return Found(None, f"one caller alone waits {1e3 * usual_s:.1f} ms at the median"), []
    first = len(rig.work.targets) / max(usual_s, 1e-4)
    return follow(
        rates.search(slo, first=first, budget_s=clock.left_s), slo, clock,
        run=lambda trial, number: rig.run(
            trial.rate, trial.seconds, number=number, watch=_watched(trial, told), lost=slo.lost
        ),
        settle=lambda: rig.settle(min(_MOST_SETTLE_S, clock.left_s)),
    )  # fmt: skip


def raised(found: Found, levels: Iterable[Level], slo: Slo) -> Found:
    """With the highest rate that runs show to hold, where only the generator ended the search.

    What `plan` reads of the same runs is the same rate.
    """
    if not found.generator_bound or found.rate is None:
        return found
    runs = [level for level in levels if not level.seen.void]
    against = {level.rate for level in runs if slo.doubt(level.seen)}
    held = [one.rate for one in runs if one.rate not in against and not slo.failure(one.seen)]
    if max(held, default=0.0) <= found.rate:
        return found
    why = f"one run held there, above where the search ended: {found.why}"
    return replace(found, rate=max(held), why=why)


def follow(
    steps: Search,
    slo: Slo,
    clock: Clock,
    *,
    run: Callable[[Trial, int], Observed],
    settle: Callable[[], None],
) -> tuple[Found, list[tuple[Level, str]]]:
    """Do what a search asks for until it ends.

    Args:
        steps: the search.
        slo: what must hold.
        clock: for all of it.
        run: one trial, with its number.
        settle: lets the server come to rest after a trial that failed.

    Returns:
        As ``searched_on``.
    """
    searched: list[tuple[Level, str]] = []
    try:
        trial = next(steps)
        while True:
            seen = run(trial, len(searched))
            failure = slo.failure(seen) if trial.confirms else slo.doubt(seen)
            searched.append((Level(trial.rate, seen), failure))
            if failure:
                settle()
            trial = steps.send(Judged(failure, bool(seen.void), clock.left_s))
    except StopIteration as end:
        found: Found = end.value
        return found, searched


def _levels(
    rig: Rig,
    wanted: list[float],
    clock: Clock,
    told: Told,
    *,
    after: int = 0,
    impatient: bool = False,
) -> list[Level]:
    """Runs at these rates; long enough for a p99 where there is time for it, and for those after.

    Args:
        rig: the server.
        wanted: calls per second, ascending.
        clock: for these and those after them.
        told: what is being done.
        after: how many levels come after these.
        impatient: whether callers give up at the SLO's limit.
    """
    levels = list[Level]()
    for index, rate in enumerate(wanted):
        share_s = clock.left_s / (len(wanted) - index + after)
        seconds = min(_MOST_LEVEL_S, max(_USUAL_LEVEL_S, _LEVEL_ANSWERS / rate))
        seconds = max(_LEAST_LEVEL_S, min(seconds, share_s))
        watch = _watched(Trial(rate, seconds, confirms=False), told)
        number = 1000 + 100 * impatient + index
        seen = rig.run(rate, seconds, number=number, watch=watch, impatient=impatient)
        levels.append(Level(rate, seen))
        rig.settle(_MOST_SETTLE_S)
    return levels


def _watched(trial: Trial, told: Told) -> Callable[[Observed], None]:
    what = f"{'confirming ' if trial.confirms else ''}{trial.rate:.4g}/s for {trial.seconds:.0f} s"
    told(what)

    def watch(seen: Observed) -> None:
        told(f"{what}: {seen.offered} sent, {seen.good} in time")

    return watch


def _subject(rig: Rig, config: pb.ModelConfig | None, said: Said) -> Callable[..., Subject]:
    """Who is measured, but for the memory, which is told at the end."""
    model, version = rig.work.model, rig.work.version
    return partial(identity.subject, rig.server(), config, said, model=model, version=version)


def _told_more(
    given: Conditions, config: pb.ModelConfig | None, gpus: energy.Cards, said: Said
) -> Conditions:
    """With what the servers tell."""
    machine = given.hardware if said.hardware else energy.hardware(given.hardware, gpus)
    return replace(given, instances=_instances(config), hardware=machine)


def _instances(config: pb.ModelConfig | None) -> int:
    """Runs at the same time; 1 where the server does not tell."""
    return max(1, sum(group.count for group in config.instance_group)) if config else 1


def conditions(work: Work, said: Said, slo: Slo, effort: Effort) -> Conditions:
    """What the figures depend on, as far as it is known before anything is measured."""
    ours = work.local == len(work.targets)
    here = hardware.fingerprint() if ours else ""
    cpus = said.cpus
    if cpus is None:
        cpus = hardware.cpus() if ours else said.price.cpus if said.price else 0
    return Conditions(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=said.hardware or here,
        cpus=cpus,
        price=said.price,
        gpus=said.gpus,
        shared=work.shared,
        rows=work.rows,
        payload=work.payload,
        deadline_ms=1e3 * work.deadline_for(slo),
        seed=effort.seed,
        generator=f"farthing {metadata.version('farthing')}",
        replicas=len(work.targets),
        local=work.local,
    )
