"""Pure: all figures of a report, from profiles; the page, the JSON and the CSV show just these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtests import energy
from loadtests.profile import Level, Profile
from loadtests.reports import wording
from loadtests.reports.wording import Condition
from service.errors import InvalidSetting

SCHEMA = "farthing.report/1"
# Evenly spread where a distribution is drawn: over the logarithm of what lies above.
PERCENTS = (
    1, 25, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 98.5, 99, 99.25, 99.5, 99.7, 99.8, 99.9,
)  # fmt: skip
_WHOLE = "request"
# How nearly the lines of a ledger come to cores x seconds; and what is in no ledger.
_SUM_WITHIN, _UNSEEN = 1e-3, "unseen"


@dataclass(frozen=True)
class Refused:
    """A variant that was not published, and stands in the table with its reason.

    Attributes:
        name: of the variant.
        reason: one sentence.
        accuracy: on held-out rows, 0 to 1, where that was measured.
        bytes: of its file.
    """

    name: str
    reason: str
    accuracy: float | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Study:
    """What one report is about.

    Attributes:
        profiles: of the same work: one SLO, as many rows in each request.
        baseline: name of the one that others are compared with; None for none.
        refused: variants that were not measured.
        title: of the page.
        notes: conditions that no profile tells.

    Raises:
        InvalidSetting: these cannot stand in one report.
    """

    profiles: Sequence[Profile]
    baseline: str | None = None
    refused: Sequence[Refused] = ()
    title: str = "What a request costs"
    notes: Sequence[Condition] = ()

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InvalidSetting("a report needs a profile at least")
        names = [profile.name for profile in self.profiles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidSetting(
                f"two profiles are called '{twice[0]}'; give each its own with `farthing slo "
                '--name NAME`, or change the "name" in one of the files'
            )
        if self.baseline is not None and self.baseline not in names:
            raise InvalidSetting(f"no profile is called '{self.baseline}'; {', '.join(names)} are")
        for profile in self.profiles[1:]:
            other = wording.other_work(self.profiles[0], profile)
            if other:
                raise InvalidSetting(f"{other}; a report compares the same work, so make two")

    @property
    def base(self) -> Profile | None:
        """The baseline."""
        return next((each for each in self.profiles if each.name == self.baseline), None)

    @property
    def chosen(self) -> Profile | None:
        """The cheapest of those that may be priced; None if none may, or nothing but bounds."""
        priced = [each for each in self.profiles if _exact_usd(each) is not None]
        return min(priced, key=lambda each: each.usd_per_million or 0.0, default=None)


def figures(study: Study) -> dict[str, Any]:
    """Everything that a report says: title, verdict, conditions, and tables of records.

    A table is a list of flat records; ``columns.TABLES`` says what their figures are. What is not
    known is None; a record with a reason under ``void`` has None wherever that reason forbids to
    speak. ``quick`` names those without runs after their search; ``generator_bound`` marks a rate
    that is at least, and dollars that are at most, what stands there. Times are ms, sizes bytes,
    shares 0 to 1.
    """
    front = _front(study.profiles)
    said = [*wording.conditions(study.profiles), *study.notes]
    measured = [_variant(each, study, front=front) for each in study.profiles]
    return {
        "schema": SCHEMA,
        "title": study.title,
        "verdict": wording.verdict(study.profiles, study.chosen, study.base),
        "chosen": study.chosen.name if study.chosen else None,
        "baseline": study.baseline,
        "quick": [each.name for each in study.profiles if not each.levels],
        "slo": study.profiles[0].slo.to_dict() | {"said": study.profiles[0].slo.said},
        "conditions": [asdict(each) for each in said],
        "tables": {
            "variants": measured + [_refused(each) for each in study.refused],
            "latency": [row for each in study.profiles for row in _latency(each)],
            "distribution": [row for each in study.profiles for row in _distribution(each)],
            "goodput": [row for each in study.profiles for row in _goodput(each)],
            "phases": [row for each in study.profiles for row in _phases(each)],
            "bill": [row for each in study.profiles for row in _bill(each)],
            "sizes": [
                {"name": each.name, "bytes": about.bytes, "memory_bytes": about.memory_bytes}
                for each, about in ((each, each.subject) for each in study.profiles)
            ],
        },
    }


def _exact_usd(profile: Profile | None) -> float | None:
    """Its dollars, where they are the server's and no bound that the generator made."""
    return None if profile is None or profile.generator_bound else profile.usd_per_million


def _front(profiles: Sequence[Profile]) -> set[str]:
    """Names of those that no other one beats in accuracy or dollars without losing in the other."""
    known = [
        (usd, -each.subject.accuracy, each.name)
        for each in profiles
        if (usd := _exact_usd(each)) is not None and each.subject.accuracy is not None
    ]
    return {
        name
        for usd, wrong, name in known
        if not any(a <= usd and b <= wrong and (a, b) != (usd, wrong) for a, b, _ in known)
    }


def _variant(profile: Profile, study: Study, *, front: set[str]) -> dict[str, Any]:
    alone, void = profile.alone, wording.void(profile)
    # What a late generator saw says nothing of the server, so not even the rate is told.
    late = profile.at_slo is not None and bool(profile.at_slo.seen.void)
    at = None if late else profile.at_slo
    dollars, base = _exact_usd(profile), _exact_usd(study.base)
    chosen = study.chosen is not None and study.chosen.name == profile.name
    bound = wording.bound(profile)
    roles = (("baseline", profile.name == study.baseline and not bound), ("cheapest", chosen))
    said = [f"void: {void}" if void else ", ".join(role for role, holds in roles if holds), bound]
    return {
        "name": profile.name,
        **asdict(profile.subject),
        "rate": None if late else profile.rate,
        "p50_ms": at.seen.percentile_ms(50) if at else None,
        "p99_ms": at.seen.percentile_ms(99) if at else None,
        "success": at.seen.success if at else None,
        "alone_p50_ms": alone.percentile_ms(50) if alone and not alone.void else None,
        "alone_p99_ms": alone.percentile_ms(99) if alone and not alone.void else None,
        "usd_per_hour": profile.conditions.usd_per_hour,
        "usd_per_million": profile.usd_per_million,
        **energy.figures(profile.energy),
        "gpu_busy": profile.energy.busy if profile.energy else None,
        "usd_ratio": dollars / base if dollars is not None and base else None,
        "generator_bound": profile.generator_bound,
        "on_front": profile.name in front,
        "void": void,
        "refused": "",
        "note": "; ".join(filter(None, said)),
    }


def _refused(variant: Refused) -> dict[str, Any]:
    return {
        "name": variant.name, "variant": variant.name, "accuracy": variant.accuracy,
        "bytes": variant.bytes, "void": "", "refused": variant.reason,
        "note": f"refused: {variant.reason}",
    }  # fmt: skip


def _runs(profile: Profile) -> list[Level]:
    """Its runs at rising rates, with the one that held the SLO among them."""
    at = profile.at_slo
    found = {level.rate: level for level in ((at,) if at else ())}
    found |= {level.rate: level for level in profile.levels}
    return [found[rate] for rate in sorted(found)]


def _latency(profile: Profile) -> list[dict[str, Any]]:
    return [
        {
            "name": profile.name,
            "rate": level.rate,
            "p50_ms": None if level.seen.void else level.seen.percentile_ms(50),
            "p99_ms": None if level.seen.void else level.seen.percentile_ms(99),
            "answers": level.seen.answers,
            "breaks_slo": "" if level.seen.void else profile.slo.doubt(level.seen),
            "void": level.seen.void,
        }
        for level in _runs(profile)
    ]


def _distribution(profile: Profile) -> list[dict[str, Any]]:
    """At the SLO's rate, as far as there are answers enough to speak of it."""
    if profile.at_slo is None or profile.at_slo.seen.void:
        return []
    values = [(percent, profile.at_slo.seen.percentile_ms(percent)) for percent in PERCENTS]
    return [
        {"name": profile.name, "percent": percent, "ms": value}
        for percent, value in values
        if value is not None
    ]


def _goodput(profile: Profile) -> list[dict[str, Any]]:
    records = []
    for level in _runs(profile):
        seen, dollars = level.seen, profile.effective_usd_per_million(level)
        # What may not be priced has its reason in the first table; here, that of this run.
        lacks = wording.void(profile) if dollars is None and seen.good else ""
        records.append({
            "name": profile.name,
            "rate": level.rate,
            "offered_per_s": seen.offered / seen.seconds if seen.seconds else None,
            "good_per_s": None if seen.void else seen.good_per_s,
            "success": None if seen.void else seen.success,
            "usd_per_million": dollars,
            "void": seen.void or lacks,
        })  # fmt: skip
    return records


def _phases(profile: Profile) -> list[dict[str, Any]]:
    phases = profile.phases
    if not phases:
        return [{"name": profile.name, "phase": None, "ms": None}]
    rest = phases.get(_WHOLE, 0.0) - sum(s for phase, s in phases.items() if phase != _WHOLE)
    parts = {phase: s for phase, s in phases.items() if phase != _WHOLE}
    if rest > 0:
        parts["rest"] = rest
    return [{"name": profile.name, "phase": p, "ms": 1e3 * s} for p, s in parts.items()]


def _bill(profile: Profile) -> list[dict[str, Any]]:
    """The lines of the ledger, which come to the price of all machines for that time.

    CPUs that are paid for and in no ledger have a line of their own. Servers that share CPUs claim
    them once each, but they are paid for once: so many core-seconds cost less.
    """
    lines, void = profile.bill, wording.void(profile) or _unsound(profile)
    if not lines:
        nothing = {"line": None, "core_s": None, "share": None, "usd": None, "void": ""}
        return [{"name": profile.name, **nothing}]
    told, where = sum(lines.values()), profile.conditions
    on_gpus = profile.bill_unit != "core"  # of which none is paid for and in no ledger
    paid = told
    if profile.span_s is not None and not on_gpus:
        paid = where.cpus * where.machines * profile.span_s
    if paid - told > _SUM_WITHIN * paid:
        lines = lines | {_UNSEEN: paid - told}
    whole, hourly = sum(lines.values()), where.usd_per_hour
    dollars = paid / where.cpus * hourly / 3600 if hourly and where.cpus else None
    if on_gpus and hourly and profile.span_s is not None:
        dollars = where.machines * hourly * profile.span_s / 3600
    dollars = None if void else dollars
    shares = {line: core_s / whole if whole else None for line, core_s in lines.items()}
    return [
        {
            "name": profile.name,
            "line": line,
            "core_s": lines[line],
            "share": share,
            "usd": None if dollars is None or share is None else share * dollars,
            "void": void,
        }
        for line, share in shares.items()
    ]


def _unsound(profile: Profile) -> str:
    """Why a ledger may not be believed; empty where it may."""
    told, paid = sum((profile.bill or {}).values()), profile.paid_core_s
    if paid is None or abs(told - paid) <= _SUM_WITHIN * paid:
        return ""
    unit = "core" if profile.bill_unit == "core" else "GPU"
    return f"the ledger's lines come to {told:.1f} of {paid:.1f} {unit}-seconds"
