"""Pure: what a process, or a fleet, has to pay, and what it was paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from service.figures import Labels

# What core-seconds went into. Of a model: answered in time; late, failed or given up; loading and
# warming up. Of the process: the front end, nothing, and all of its start that no model took.
BUSY, WASTE, WARM_UP, SERVING, IDLE = "busy", "waste", "warm_up", "serving", "idle"
OF_MODELS = (BUSY, WASTE, WARM_UP)
OF_PROCESS = (SERVING, IDLE, WARM_UP)
# The model, version and variant of what is the process's own.
NO_MODEL: Labels = ("", "", "")

Line = tuple[Labels, str]
K = TypeVar("K")


@dataclass(frozen=True)
class Unit:
    """What is paid for by the second.

    Attributes:
        name: as metrics have it.
        said: in sentences, and of several.
        beside: of it that one thread takes which runs no model, but stacks rows or loads.
    """

    name: str
    said: str
    beside: int


CORE, GPU = Unit("core", "core", 1), Unit("gpu", "GPU", 0)


class Energy(Protocol):
    """What a process's hardware draws, as somebody else reads it."""

    def joules(self) -> float:
        """So far; never falls."""

    def watts(self) -> float | None:
        """Now; None where that is not known."""


@dataclass(frozen=True)
class Price:
    """What a process costs.

    Attributes:
        usd_per_hour: dollars for an hour of all that it may use: its cores, its GPUs or its slice.
        id: where that is written down, e.g. the entry of a price book.
    """

    usd_per_hour: float
    id: str = ""


@dataclass(frozen=True)
class Bill:
    """Core-seconds of one moment, or GPU-seconds; those of several processes can be added up.

    ``paid_core_s`` is always what the lines and ``unsettled`` come to together, and ``drawn_j``
    what ``joules`` and ``unsettled_j`` do.

    Attributes:
        lines: labels and what for -> core-seconds so far; none ever falls.
        unsettled: labels -> core-seconds of runs whose callers have no ending yet.
        cores: CPUs that are paid for now, or GPUs.
        seconds: since the process began, its imports included; of a fleet, the sum.
        paid_core_s: cores x seconds.
        paid_usd: what that costs; None where a price is not known.
        unit: what ``cores`` are.
        joules: labels and what for -> energy so far; empty where nobody tells.
        unsettled_j: labels -> energy of runs whose callers have no ending yet.
        drawn_j: all energy so far; None where nobody tells.
    """

    lines: Mapping[Line, float] = field(default_factory=dict)
    unsettled: Mapping[Labels, float] = field(default_factory=dict)
    cores: float = 0.0
    seconds: float = 0.0
    paid_core_s: float = 0.0
    paid_usd: float | None = 0.0
    unit: Unit = CORE
    joules: Mapping[Line, float] = field(default_factory=dict)
    unsettled_j: Mapping[Labels, float] = field(default_factory=dict)
    drawn_j: float | None = None

    def of(self, kind: str) -> float:
        """Core-seconds of all lines of one kind, e.g. ``BUSY``."""
        return sum(core_s for (_, line), core_s in self.lines.items() if line == kind)

    @property
    def accounted_core_s(self) -> float:
        """The sum of all lines and of what is not settled yet."""
        return sum(self.lines.values()) + sum(self.unsettled.values())

    def usd(self, core_s: float) -> float | None:
        """What so many core-seconds cost; None where the price is not known."""
        if self.paid_usd is None:
            return None
        return self.paid_usd * core_s / self.paid_core_s if self.paid_core_s else 0.0

    def __add__(self, other: Bill) -> Bill:
        if self.cores and other.cores and self.unit != other.unit:
            raise ValueError("core-seconds and GPU-seconds do not add up")
        known = self.paid_usd is not None and other.paid_usd is not None
        drawn = [bill.drawn_j for bill in (self, other) if bill.drawn_j is not None]
        return Bill(
            lines=_added(self.lines, other.lines),
            unsettled=_added(self.unsettled, other.unsettled),
            cores=self.cores + other.cores,
            seconds=self.seconds + other.seconds,
            paid_core_s=self.paid_core_s + other.paid_core_s,
            paid_usd=(self.paid_usd or 0.0) + (other.paid_usd or 0.0) if known else None,
            unit=self.unit if self.cores else other.unit,
            joules=_added(self.joules, other.joules),
            unsettled_j=_added(self.unsettled_j, other.unsettled_j),
            drawn_j=sum(drawn) if drawn else None,
        )


def _added(one: Mapping[K, float], other: Mapping[K, float]) -> dict[K, float]:
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in {**one, **other}}
