"""A plan's autoscaler as Kubernetes or KEDA takes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Any

from loadtests.plans.autoscaling import HOLD_S
from loadtests.plans.plan import Option, Plan


class Autoscaler(StrEnum):
    """What an overlay is to scale by."""

    HPA = "hpa"
    KEDA = "keda"
    NONE = "none"


@dataclass(frozen=True)
class Range:
    """Between how many replicas, and at which CPU utilisation one is added.

    Attributes:
        least: replicas.
        most: replicas; so many more than were planned as there is headroom.
        blind: replicas that hold at any time, for when nothing is seen.
        target: utilisation, 0 to 1.
    """

    least: int
    most: int
    blind: int
    target: float


def planned(made: Plan, option: Option) -> Range | None:
    """What a plan scales by; None where a fixed number costs as little."""
    best = option.best_scaled
    if best is None:
        return None
    number = option.number or best.fleet.most
    most = max(number, ceil(best.fleet.most * (1 + made.asked.headroom)))
    return Range(best.fleet.least, most, number, best.target)


def hpa(name: str, scaled: Range) -> dict[str, Any]:
    """A HorizontalPodAutoscaler of a Deployment, by CPU."""
    target = {"type": "Utilization", "averageUtilization": round(100 * scaled.target)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": scaled.least,
            "maxReplicas": scaled.most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": round(HOLD_S)}},
        },
    }


def keda(trigger: int, scaled: Range) -> list[dict[str, Any]]:
    """A JSON patch of the ScaledObject of farthing's component.

    Args:
        trigger: which one of its triggers scales by CPU; such lists cannot be merged.
        scaled: what it is to scale by.
    """
    values = {
        "minReplicaCount": scaled.least,
        "maxReplicaCount": scaled.most,
        "fallback/replicas": scaled.blind,
        f"triggers/{trigger}/metadata/threshold": f"{scaled.target:g}",
    }
    return [
        {"op": "replace", "path": f"/spec/{at}", "value": value} for at, value in values.items()
    ]
