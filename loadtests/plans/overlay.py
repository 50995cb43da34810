"""A plan as a kustomize overlay: replicas, CPUs, the variant, and an autoscaler where it pays."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from loadtests import outside
from loadtests.plans.autoscaling import HOLD_S
from loadtests.plans.plan import Option, Plan
from service.errors import InvalidSetting

_HEAD = "# Written by `farthing plan --write-patch`, which writes over it; change what lies beside."
_KUSTOMIZATION, _DEPLOYMENT, _AUTOSCALER = (
    "kustomization.yaml",
    "deployment.yaml",
    "autoscaler.yaml",
)


def write(made: Plan, option: Option, base: Path, directory: Path) -> list[Path]:
    """Write an overlay of a base that has one Deployment.

    Args:
        made: the plan.
        option: of it, one with a number of replicas.
        base: directory of the base's kustomization.
        directory: of the overlay; made if it is not there.

    Returns:
        The files.

    Raises:
        InvalidSetting: the base is none, or the directory holds somebody else's kustomization.
    """
    deployment = deployed(base)
    kustomization = directory / _KUSTOMIZATION
    if kustomization.exists() and not kustomization.read_text(encoding="utf-8").startswith(_HEAD):
        raise InvalidSetting(
            f"{kustomization} was not written by `farthing plan`; give another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    documents = documents_of(
        made, option, deployment, os.path.relpath(base.resolve(), directory.resolve())
    )
    (directory / _AUTOSCALER).unlink(missing_ok=True)
    for name, document in documents.items():
        text = yaml.safe_dump(document, sort_keys=False, width=100)
        head = f"{_HEAD}\n# {_said(made, option)}\n"
        directory.joinpath(name).write_text(head + text, encoding="utf-8")
    return [directory / name for name in documents]


def deployed(base: Path) -> dict[str, Any]:
    """The Deployment of a base.

    Raises:
        InvalidSetting: the base cannot be read, or has not just one.
    """
    try:
        kustomization = _documents(base / _KUSTOMIZATION)[0]
        found = [
            document
            for name in kustomization["resources"]
            if (base / name).is_file()
            for document in _documents(base / name)
            if document["kind"] == "Deployment"
        ]
        containers = [one["spec"]["template"]["spec"]["containers"][0] for one in found]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        found, containers = [], []
    if len(found) != 1 or "name" not in containers[0]:
        raise InvalidSetting(
            f"{base} is no kustomize base with one Deployment; give k8s/base of farthing's "
            "repository, or your own, with --base"
        )
    return dict(found[0])


def _documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def documents_of(
    made: Plan, option: Option, deployment: dict[str, Any], base: str
) -> dict[str, dict[str, Any]]:
    """The overlay: name of a file -> what is in it.

    Args:
        made: the plan.
        option: of it.
        deployment: of the base.
        base: the way to it.
    """
    best = option.best_scaled
    documents: dict[str, dict[str, Any]] = {
        _KUSTOMIZATION: {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [base, *([_AUTOSCALER] if best else [])],
            "patches": [{"path": _DEPLOYMENT}],
        },
        # Without a number, so that applying it anew does not undo what the autoscaler did.
        _DEPLOYMENT: _patch(option, deployment, None if best else option.number),
    }
    if best:
        name = deployment["metadata"]["name"]
        most = max(option.number or 0, ceil(best.fleet.most * (1 + made.asked.headroom)))
        documents[_AUTOSCALER] = _autoscaler(name, best.fleet.least, most, best.target)
    return documents


def _patch(option: Option, deployment: dict[str, Any], replicas: int | None) -> dict[str, Any]:
    profile = option.profile
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    amounts = {"cpu": f"{profile.conditions.cpus:g}"}
    price = profile.conditions.price
    limits = dict(amounts)
    if price is not None and price.accelerators:
        limits["nvidia.com/gpu"] = str(price.accelerators)
    patched = {
        "name": container["name"],
        "env": [{"name": "FARTHING_VARIANT", "value": profile.subject.variant}],
        "resources": {"requests": amounts, "limits": limits},
    }
    return {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "metadata": {"name": deployment["metadata"]["name"]},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [patched]}}},
    }


def _autoscaler(name: str, least: int, most: int, target: float) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {
                            "type": "Utilization",
                            "averageUtilization": round(100 * target),
                        },
                    },
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": round(HOLD_S)}},
        },
    }


def _said(made: Plan, option: Option) -> str:
    """What it is for, on one line."""
    said = f"{option.profile.name} for {made.asked.demand.said}, {made.asked.slo.said}"
    return outside.plain(said)
