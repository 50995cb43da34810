"""One model on one server on one machine, measured: the file that reports and plans are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests import energy, outside
from loadtests.conditions import Conditions, Subject
from loadtests.energy import Drawn
from loadtests.observed import Observed
from loadtests.prices import usd_per_million
from loadtests.slo import Slo
from service.errors import InvalidSetting

__all__ = ["SCHEMA", "Conditions", "Level", "Profile", "Subject", "read", "write"]
SCHEMA = "farthing.profile/1"
# CPUs and seconds that are divided by.
_LEAST = 1e-6
_AS_THEY_ARE = ("generator_bound", "phases", "bill", "paid_core_s", "span_s", "unbilled",
                "bill_unit")  # fmt: skip
# Of the conditions, what follows from the others.
_WORKED_OUT = ("usd_per_hour", "machines", "fleet_usd_per_hour")


@dataclass(frozen=True)
class Level:
    """One open-loop run at one rate.

    Attributes:
        rate: calls per second that were offered.
        seen: how they ended.
    """

    rate: float
    seen: Observed


@dataclass(frozen=True)
class Profile:
    """What was measured, under which conditions, and what it costs.

    Attributes:
        name: how tables call it.
        subject: what was measured.
        conditions: under which.
        slo: what had to hold.
        rate: the highest rate at which it did, calls per second; None if it did at none.
        generator_bound: whether it may do so at more, where only the generator failed.
        searched: the runs of that search, in order, with why they failed ("" if they held).
        ended: why it was not tried above the rate, in words.
        alone: one closed caller; None if that was not measured.
        levels: runs at shares and multiples of the rate, ascending; the overload among them.
        runs: rows of a run -> how many there were, and their mean seconds on the server.
        phases: phase of an answered request -> mean seconds in the server.
        bill: line of the ledger -> core-seconds while the levels ran, and until the server came to
            rest after each; without levels while all else was measured.
        paid_core_s: cores x seconds of that time, of all servers; None where they do not tell it.
        span_s: seconds of that time; None where nobody looked.
        unbilled: why a server that keeps a ledger has no bill, in words.
        bill_unit: what its seconds are of: ``core`` or ``gpu``.
        energy: that answers took at the rate; None where it was not measured.
    """

    name: str
    subject: Subject
    conditions: Conditions
    slo: Slo
    rate: float | None
    searched: tuple[tuple[Level, str], ...] = ()
    ended: str = ""
    alone: Observed | None = None
    levels: tuple[Level, ...] = ()
    runs: dict[int, tuple[int, float]] = field(default_factory=dict)
    phases: dict[str, float] | None = None
    bill: dict[str, float] | None = None
    paid_core_s: float | None = None
    span_s: float | None = None
    generator_bound: bool = False
    unbilled: str = ""
    bill_unit: str = "core"
    energy: Drawn | None = None

    @property
    def lacking(self) -> list[str]:
        """What a price cannot be believed without, and this has not; empty where it may be."""
        subject, conditions, lacks = self.subject, self.conditions, list[str]()
        if self.rate is None:
            late = " (the generator was late: stop what else runs there, or run it elsewhere)"
            lacks.append(f"a rate at which the SLO holds{late if self.generator_bound else ''}")
        if conditions.price is None:
            lacks.append("a price")
        if not conditions.hardware:
            lacks.append("the hardware")
        for what, value in (
            ("the variant", subject.variant),
            ("the model's digest", subject.sha256),
            ("the accuracy change", subject.accuracy_change),
        ):
            if value is None:
                lacks.append(what)
        if self.at_slo is not None and self.at_slo.seen.void:
            lacks.append(f"a generator that kept its schedule ({self.at_slo.seen.void})")
        return lacks

    @property
    def at_slo(self) -> Level | None:
        """The run that confirmed the rate, a level perhaps; shorter ones may have held at more."""
        held = [*self.levels, *(level for level, why in self.searched if not why)]
        return next((level for level in reversed(held) if level.rate == self.rate), None)

    @property
    def usd_per_million(self) -> float | None:
        """Unit cost at the SLO: dollars per million good answers, at the highest rate that holds.

        1e6 x P / (3600 x rate), with P of all machines that shared the calls; none where
        ``lacking`` names anything.
        """
        if self.lacking or not self.rate:
            return None
        return usd_per_million(self.conditions.fleet_usd_per_hour or 0.0, self.rate)

    def effective_usd_per_million(self, level: Level) -> float | None:
        """The whole bill of a run over its good answers: what is late or refused costs, too."""
        if self.lacking or level.seen.void or not level.seen.good:
            return None
        return usd_per_million(self.conditions.fleet_usd_per_hour or 0.0, level.seen.good_per_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the figures that follow from the rest."""
        conditions = asdict(self.conditions)
        conditions["price"] = self.conditions.price.to_dict() if self.conditions.price else None
        conditions |= {name: getattr(self.conditions, name) for name in _WORKED_OUT}
        return {
            "schema": SCHEMA,
            "name": self.name,
            "subject": asdict(self.subject),
            "conditions": conditions,
            "slo": self.slo.to_dict(),
            "rate": self.rate,
            "usd_per_million": self.usd_per_million,
            "void": self.lacking,
            "searched": [_level(level) | {"failure": why} for level, why in self.searched],
            "ended": self.ended,
            "alone": self.alone.to_dict() if self.alone else None,
            "levels": [
                _level(level) | {"effective_usd_per_million": self.effective_usd_per_million(level)}
                for level in self.levels
            ],
            "runs": {str(rows): list(run) for rows, run in sorted(self.runs.items())},
            "energy": (asdict(self.energy) | energy.figures(self.energy)) if self.energy else None,
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Profile:
        """What ``to_dict`` gave; figures that follow from others are worked out anew.

        Raises:
            ValueError: it is something else, or a value of it is out of its range.
        """
        raw = outside.mapping(raw, "the profile")
        runs = outside.listed(raw.get("searched"), "the profile's searched")
        searched = [[run, outside.mapping(run, "a run").get("failure")] for run in runs]
        made = cls(**outside.record(cls, raw | {"searched": searched}, "the profile"))
        _check(made)
        return made


def write(profile: Profile, path: Path) -> None:
    """Write one to a file, as a whole or not at all.

    Raises:
        InvalidSetting: a figure of it is infinite or none, which JSON cannot say.
    """
    try:
        text = json.dumps(profile.to_dict(), indent=2, allow_nan=False)
    except ValueError:
        raise InvalidSetting(
            f"{path} is not written: a figure of this profile is no finite number"
        ) from None
    whole = path.with_name(f".{path.name}.part")
    whole.write_text(text + "\n", encoding="utf-8")
    whole.replace(path)


def read(path: Path) -> Profile:
    """Read one from a file.

    Raises:
        InvalidSetting: it is no profile.
    """
    try:
        return Profile.from_dict(outside.of_schema(SCHEMA, outside.read_json(path)))
    except FileNotFoundError:
        raise InvalidSetting(
            f"{path} does not exist; `farthing slo --save-profile {path.name}` makes a profile"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{path} is no profile: {outside.said(error)}") from None


def _level(level: Level) -> dict[str, Any]:
    return {"rate": level.rate, "seen": level.seen.to_dict()}


def _check(profile: Profile) -> None:
    """Refuse what each by itself may be, and both together cannot."""
    conditions = profile.conditions
    if conditions.price and conditions.cpus < _LEAST:
        raise ValueError(f"the conditions' cpus are {conditions.cpus:g}, and have a price")
    if conditions.local > conditions.replicas:
        raise ValueError(f"{conditions.local} of {conditions.replicas} replicas are local")
    levels = (*(level for level, _ in profile.searched), *profile.levels)
    for seen in (*(level.seen for level in levels), *filter(None, [profile.alone])):
        if not seen.answers == len(seen.latency) <= seen.offered:
            answered = f"{seen.answers} and {len(seen.latency)}"
            raise ValueError(f"of {seen.offered} calls {answered} were answered")
        if seen.answers and seen.seconds < _LEAST:
            raise ValueError(f"{seen.answers} calls were answered in {seen.seconds:g} s")
