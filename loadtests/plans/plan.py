"""Pure: what serving a demand costs with each of several measured profiles, and which is best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from loadtests.plans import evidence
from loadtests.plans.autoscaling import LAG_S, Following
from loadtests.plans.capacity import (
    TARGETS,
    Scaled,
    Told,
    Work,
    break_even,
    highest,
    replicas,
    scaled,
)
from loadtests.plans.demand import Demand
from loadtests.plans.nodes import Machines
from loadtests.plans.replica import measured
from loadtests.plans.simulation import Simulated
from loadtests.prices import Price, usd_per_million
from loadtests.profile import Profile
from loadtests.slo import Slo
from service.errors import InvalidSetting

MONTH_H = 730.0


@dataclass(frozen=True)
class Asked:
    """What to plan for.

    Attributes:
        demand: what comes.
        slo: what must hold.
        headroom: so much more than comes must hold too; 0.2 is a fifth.
        lag_s: of an autoscaler, from a higher rate to replicas that serve.
        seed: of all draws.
        targets: of CPU utilisation, that an autoscaler is tried with; without any, there is none.
        least: replicas at any time.
    """

    demand: Demand
    slo: Slo
    headroom: float = 0.2
    lag_s: float = LAG_S
    seed: int = 1
    targets: tuple[float, ...] = TARGETS
    least: int = 1


@dataclass(frozen=True)
class Option:
    """One profile, and what it would take.

    Attributes:
        profile: of the model, the variant, the machine and its price.
        rate: calls per second that one replica carries at the SLO; None if it holds at none.
        number: replicas, always there; None if that cannot be said.
        done: what becomes of the calls while most come, of one of them; None without a number.
        mean_used: CPU utilisation over all of the time, 0 to 1.
        scaled: with autoscaling, by its target; empty for a steady rate, and for accelerators,
            which CPU utilisation says nothing of.
        why: there is no number, though one replica holds at some rate, or may.
        measured: calls per second of one replica up to which the SLO was measured to hold; None
            where that is not known.
        least: replicas that there are whatever they carry.
    """

    profile: Profile
    rate: float | None
    number: int | None
    done: Simulated | None
    mean_used: float = 0.0
    scaled: tuple[Scaled, ...] = ()
    why: str = ""
    measured: float | None = None
    least: int = 1

    @property
    def simulated(self) -> bool:
        """Whether that one replica carries so much was only simulated, not measured."""
        return bool(self.rate and self.measured and self.rate > self.measured)

    @property
    def at_least(self) -> bool:
        """Whether it may carry more, since the generator alone kept more from being measured."""
        return self.profile.generator_bound and bool(self.rate) and self.rate == self.measured

    @property
    def at_most(self) -> bool:
        """Whether it may therefore take fewer replicas than are said, but for the least."""
        return self.at_least and (self.number or 0) > self.least

    @property
    def usd_per_hour(self) -> float:
        """Of one replica."""
        return self.profile.conditions.usd_per_hour or 0.0

    @property
    def usd_per_month(self) -> float:
        """Of all replicas, always there; infinite if no number will do."""
        return inf if self.number is None else self.number * self.usd_per_hour * MONTH_H

    def scaled_usd_per_month(self, one: Scaled) -> float:
        """With autoscaling."""
        return one.fleet.mean * self.usd_per_hour * MONTH_H

    @property
    def best_scaled(self) -> Scaled | None:
        """The cheapest target at which the SLO holds, if it is cheaper than a fixed number."""
        held = [one for one in self.scaled if not one.failure]
        best = min(held, key=self.scaled_usd_per_month, default=None)
        saves = best is not None and self.scaled_usd_per_month(best) < self.usd_per_month
        return best if saves else None

    @property
    def least_usd_per_month(self) -> float:
        """By autoscaling, where that pays."""
        best = self.best_scaled
        return self.scaled_usd_per_month(best) if best else self.usd_per_month

    @property
    def machines(self) -> Machines | None:
        """What the replicas run on; None without a price."""
        where = self.profile.conditions
        return Machines(where.price, where.cpus) if where.price else None

    def whole_usd_per_month(self, one: Scaled | None = None) -> float | None:
        """Of whole machines, always there or with autoscaling; None where none holds a replica."""
        machines = self.machines
        if machines is None or not machines.holds or self.number is None:
            return None
        fleet = one.fleet if one else Following(((0.0, self.number),), 1.0)
        return machines.usd_per_hour(fleet) * MONTH_H

    @property
    def accelerated(self) -> bool:
        """Whether its machine has an accelerator."""
        price = self.profile.conditions.price
        return bool(price and price.accelerators)

    @property
    def lag_ms(self) -> float | None:
        """How late the generator was in 99 of 100 sends at the SLO; None if that is not known."""
        level = self.profile.at_slo
        return level.seen.lag_ms(99) if level else None

    def effective_usd_per_million(self, demand: Demand) -> float | None:
        """The bill of a fixed number over its good answers, as many as while most come."""
        if self.number is None or self.done is None or not self.done.in_time:
            return None
        return usd_per_million(self.number * self.usd_per_hour, demand.mean * self.done.in_time)


@dataclass(frozen=True)
class Plan:
    """All options, the cheapest first, and what was left out.

    Attributes:
        asked: what was planned for.
        options: one of each profile.
        not_measured: ids of the price book without a profile of their own.
    """

    asked: Asked
    options: tuple[Option, ...]
    not_measured: tuple[str, ...] = ()

    @property
    def best(self) -> Option | None:
        """The cheapest at which the SLO holds."""
        return next((option for option in self.options if option.number is not None), None)

    def break_evens(self) -> list[tuple[Option, Option, float | None]]:
        """Each option with an accelerator, the best without, and from which rate it is cheaper."""
        held = [option for option in self.options if option.rate and not option.at_least]
        plain = [option for option in held if not option.accelerated]
        if not plain:
            return []
        rival = min(plain, key=lambda one: one.usd_per_hour / (one.rate or inf))
        least = self.asked.least
        return [
            (one, rival, break_even(self._carries(one), self._carries(rival), least=least))
            for one in held
            if one.accelerated
        ]

    def _carries(self, option: Option) -> tuple[float, float]:
        return (option.rate or 0.0) / (1 + self.asked.headroom), option.usd_per_hour


def check(profiles: Sequence[Profile], slo: Slo | None) -> Slo:
    """Make sure that the profiles can be compared.

    Returns:
        What must hold: what was asked for, else what all of them were measured at.

    Raises:
        InvalidSetting: one is void or cannot be simulated, they are of different work, or no run of
            any of them shows what must hold.
    """
    for profile in profiles:
        measured(profile)
    first = profiles[0]
    for other in profiles[1:]:
        if other.name == first.name and other.conditions.price == first.conditions.price:
            raise InvalidSetting(
                f"two profiles are called '{first.name}' and have one price; leave one out, or "
                "measure it under another name"
            )
        if other.conditions.rows != first.conditions.rows:
            raise InvalidSetting(
                f"'{first.name}' was measured with {first.conditions.rows} rows in a request and "
                f"'{other.name}' with {other.conditions.rows}, so their rates don't compare"
            )
        if slo is None and other.slo != first.slo:
            raise InvalidSetting(
                f"'{first.name}' was measured for {first.slo.said}, and '{other.name}' for "
                f"{other.slo.said}; say with --p99 and --success which must hold"
            )
    wanted = slo or first.slo
    if not any(evidence.shown(profile, wanted) for profile in profiles):
        raise InvalidSetting(
            f"no run of {' or '.join(repr(profile.name) for profile in profiles)} shows "
            f"{wanted.said}; measure again, with that as the SLO of `farthing slo`"
        )
    return wanted


def plan(
    profiles: Sequence[Profile],
    asked: Asked,
    *,
    listed: Collection[str] = (),
    told: Told = lambda _: None,
) -> Plan:
    """What serving a demand takes with each profile.

    Args:
        profiles: as ``check`` lets them pass.
        asked: what to plan for.
        listed: ids of the price book that somebody may ask about.
        told: is given what is being simulated, in words.
    """
    options = [
        _option(profile, asked, partial(_prefixed, told, profile.name)) for profile in profiles
    ]
    has = {profile.conditions.price.id for profile in profiles if profile.conditions.price}
    return Plan(
        asked,
        tuple(sorted(options, key=lambda option: option.least_usd_per_month)),
        tuple(each for each in listed if each not in has),
    )


def _prefixed(told: Told, name: str, what: str) -> None:
    told(f"{name}: {what}")


def _option(profile: Profile, asked: Asked, told: Told) -> Option:
    shown = evidence.shown(profile, asked.slo)
    if shown is None:
        return Option(profile, None, None, None, why=f"no run shows {asked.slo.said}")
    most, least = evidence.most(profile, asked.slo), asked.least
    work = Work(measured(profile), asked.slo, most, asked.seed, told)
    rate = highest(work)
    if not rate:
        return Option(profile, rate, None, None, measured=shown)
    sized = replicas(work, asked.demand, rate, headroom=asked.headroom, least=least)
    number, done = sized.number, sized.done
    option = Option(profile, rate, number, done, why=sized.why, measured=shown, least=least)
    if done is None or number is None:
        return option
    if asked.demand.steady:
        return replace(option, mean_used=done.used)
    whole = work.trial(asked.demand, ((0.0, number),))
    option = replace(option, mean_used=whole.used)
    if option.accelerated or not asked.targets:
        return option
    followed = scaled(
        work, asked.demand, rate, lag_s=asked.lag_s, headroom=asked.headroom,
        targets=asked.targets, least=least,
    )  # fmt: skip
    return replace(option, scaled=tuple(followed))


def repriced(profile: Profile, own: Mapping[str, Price]) -> Profile:
    """The same at the user's own price for its instance type, where there is one."""
    price = profile.conditions.price
    if price is None or price.id not in own:
        return profile
    return replace(profile, conditions=replace(profile.conditions, price=own[price.id]))
