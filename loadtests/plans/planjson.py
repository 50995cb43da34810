"""Pure: a plan as plain values."""

from __future__ import annotations

from typing import Any

from loadtests.plans.demand import Demand
from loadtests.plans.nodes import ASSUMED
from loadtests.plans.plan import MONTH_H, Option, Plan
from loadtests.plans.replica import tells_serving


def to_dict(made: Plan) -> dict[str, Any]:
    """Plain values for JSON."""
    asked = made.asked
    return {
        "demand": {"said": asked.demand.said, "peak_per_s": asked.demand.peak,
                   "mean_per_s": asked.demand.mean},
        "slo": asked.slo.to_dict(),
        "headroom": asked.headroom,
        "least_replicas": asked.least,
        "hours_per_month": MONTH_H,
        "whole_machines": ASSUMED,
        "options": [_option_dict(option, asked.demand) for option in made.options],
        "break_even": [
            {"accelerated": one.profile.name, "other": other.profile.name, "from_per_s": rate}
            for one, other, rate in made.break_evens()
        ],
        "not_measured": list(made.not_measured),
    }  # fmt: skip


def _option_dict(option: Option, demand: Demand) -> dict[str, Any]:
    profile, done, best = option.profile, option.done, option.best_scaled
    price = profile.conditions.price
    return {
        "name": profile.name,
        "variant": profile.subject.variant,
        "sha256": profile.subject.sha256,
        "accuracy_change": profile.subject.accuracy_change,
        "date": profile.conditions.date,
        "generator_lag_p99_ms": option.lag_ms,
        "serving_cpu_known": tells_serving(profile),
        "hardware": profile.conditions.hardware,
        "cpus": profile.conditions.cpus,
        "price": price.to_dict() if price else None,
        "usd_per_hour": option.usd_per_hour,
        "profile_rate": profile.rate,
        "measured_rate": option.measured,
        "rate_per_replica": option.rate,
        "simulated_not_measured": option.simulated,
        "rate_is_lower_bound": option.at_least,
        "replicas": option.number,
        "why_none": option.why,
        "usd_per_month": None if option.number is None else option.usd_per_month,
        "replicas_per_machine": option.machines.holds if option.machines else None,
        "whole_machines_usd_per_month": option.whole_usd_per_month(),
        "effective_usd_per_million": option.effective_usd_per_million(demand),
        "in_time": done.in_time if done else None,
        "seen": done.seen.to_dict() if done else None,
        "used": done.used if done and not option.accelerated else None,
        "mean_used": None if option.accelerated else option.mean_used,
        "autoscaling": [
            {"cpu_target": one.target, "least": one.fleet.least, "most": one.fleet.most,
             "mean": one.fleet.mean, "usd_per_month": option.scaled_usd_per_month(one),
             "whole_machines_usd_per_month": option.whole_usd_per_month(one),
             "in_time": one.done.in_time, "failure": one.failure, "best": one is best}
            for one in option.scaled
        ],
    }  # fmt: skip
