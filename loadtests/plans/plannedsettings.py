"""Pure: what a planned server is told, and why; what a plan knows of its machine."""

from __future__ import annotations

from loadtests import outside
from loadtests.plans.plan import Option, Plan
from loadtests.slo import exact

# Provider of a price's id -> how the label of its nodes begins.
_LABELS = {"aws": "", "gcp": "", "azure": "Standard_"}


def of(made: Plan, option: Option) -> dict[str, str]:
    """Environment variable of `farthing serve` -> its value."""
    subject, where = option.profile.subject, option.profile.conditions
    told = {"FARTHING_VARIANT": f"{subject.model}={subject.variant}"}
    if _spares(made, option):
        told["FARTHING_LATENCY_TARGET_MS"] = exact(1e3 * made.asked.slo.limit_s)
    if where.price is not None:
        price = where.price
        part = "" if price.accelerators else f"{where.cpus:g} of {price.cpus} CPUs of "
        if price.accelerators and where.gpus:
            part = f"{where.gpus:g} of {price.accelerators} {price.accelerator} of "
        told["FARTHING_PRICE_USD_PER_HOUR"] = f"{option.usd_per_hour:.6g}"
        told["FARTHING_PRICE_ID"] = outside.plain(f"{part}{price.id}, {price.date}")
    return told


def _spares(made: Plan, option: Option) -> bool:
    """Whether enough is answered though what would be late is refused."""
    best = option.best_scaled
    done = best.done if best else option.done
    return done is None or done.in_time >= made.asked.slo.success


def reasons(made: Plan, option: Option) -> list[str]:
    """Why it is told that, in lines."""
    slo, model = made.asked.slo, outside.plain(option.profile.subject.model)
    found = [
        f"FARTHING_VARIANT pins {model} alone. A version of it without that variant stops",
        "the server: plan it anew, or say FARTHING_VARIANT=auto in an overlay of your own.",
    ]
    if _spares(made, option):
        return [
            *found,
            "FARTHING_LATENCY_TARGET_MS refuses what would be answered later than the SLO's limit,",
            "so that overload does not make all late, and lets Prometheus count what was late. As",
            f"planned so few are late that {exact(slo.success)} are answered all the same.",
            "It is of all models here; one's own in config.pbtxt wins, and 0 turns it off.",
        ]
    return [
        *found,
        "Not said: FARTHING_LATENCY_TARGET_MS. It refuses what would be answered later than the",
        f"SLO's limit, and as planned so much is, which {slo.held_to} allows, that fewer than",
        f"{exact(slo.success)} would be answered.",
    ]


def machine(option: Option) -> list[str]:
    """How to get the machines that were priced, in lines; a wish of ours might fit no node."""
    price = option.profile.conditions.price
    provider, _, kind = outside.plain(price.id if price else "").partition("-")
    if provider not in _LABELS or not kind:
        return []
    return [
        f"Planned for {provider}-{kind}. For pods that run there and nowhere else, or",
        "wait, put this beside `containers` in an overlay of your own:",
        "  nodeSelector:",
        f"    node.kubernetes.io/instance-type: {_LABELS[provider]}{kind}",
    ]
