"""A plan as a kustomize overlay: replicas, CPUs, settings, and an autoscaler where it pays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests import outside
from loadtests.plans import plannedsettings, scaling
from loadtests.plans.plan import Option, Plan
from loadtests.plans.scaling import Autoscaler
from service.errors import InvalidSetting

_HEAD = "# Written by `farthing plan --write-patch`, which writes over it; change what lies beside."
_KUSTOMIZATION, _DEPLOYMENT, _AUTOSCALER = (
    "kustomization.yaml",
    "deployment.yaml",
    "autoscaler.yaml",
)
# Beside the base's directory.
_KEDA = Path("components") / "keda"
_BY_CPU = "used"


@dataclass(frozen=True)
class Place:
    """Where an overlay goes, and on what.

    Attributes:
        base: directory of the base's kustomization.
        directory: of the overlay; made if it is not there.
        autoscaler: what scales it, where that pays.
    """

    base: Path
    directory: Path
    autoscaler: Autoscaler = Autoscaler.HPA

    def way(self, target: Path) -> str:
        """From the overlay to another directory."""
        return os.path.relpath(target.resolve(), self.directory.resolve())


@dataclass(frozen=True)
class Base:
    """What an overlay changes.

    Attributes:
        deployment: the only one.
        settings: the generated ConfigMap that its server reads; empty if there is none.
        trigger: which one of the component's triggers scales by CPU; None if there is no component.
    """

    deployment: dict[str, Any]
    settings: str
    trigger: int | None

    @property
    def name(self) -> str:
        """Of the Deployment."""
        return str(self.deployment["metadata"]["name"])

    @property
    def container(self) -> str:
        """Name of the server's."""
        return str(self.deployment["spec"]["template"]["spec"]["containers"][0]["name"])


def write(
    made: Plan,
    option: Option,
    base: Path,
    directory: Path,
    *,
    autoscaler: Autoscaler = Autoscaler.HPA,
) -> list[Path]:
    """Write an overlay of a base that has one Deployment.

    Args:
        made: the plan.
        option: of it, one with a number of replicas.
        base: directory of the base's kustomization.
        directory: of the overlay; made if it is not there.
        autoscaler: what scales it, where that pays.

    Returns:
        The files.

    Raises:
        InvalidSetting: as of ``check``, or the directory holds somebody else's kustomization.
    """
    known, place = check(base, autoscaler), Place(base, directory, autoscaler)
    kustomization = directory / _KUSTOMIZATION
    if kustomization.exists() and not kustomization.read_text(encoding="utf-8").startswith(_HEAD):
        raise InvalidSetting(
            f"{kustomization} was not written by `farthing plan`; give another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    documents = documents_of(made, option, known, place)
    (directory / _AUTOSCALER).unlink(missing_ok=True)
    said = {
        _KUSTOMIZATION: plannedsettings.reasons(made, option),
        _DEPLOYMENT: plannedsettings.machine(option),
    }
    for name, document in documents.items():
        text = yaml.safe_dump(document, sort_keys=False, width=100)
        lines = [_said(made, option), *said.get(name, ())]
        head = "".join(f"# {line}\n" for line in lines)
        directory.joinpath(name).write_text(f"{_HEAD}\n{head}{text}", encoding="utf-8")
    return [directory / name for name in documents]


def check(base: Path, autoscaler: Autoscaler = Autoscaler.HPA) -> Base:
    """What there is of a base.

    Raises:
        InvalidSetting: it cannot be read, has not just one Deployment, or lies beside no component
            `keda` that is asked for.
    """
    try:
        kustomization = _documents(base / _KUSTOMIZATION)[0]
        found = [one for one in _resources(base, kustomization) if one["kind"] == "Deployment"]
        containers = [one["spec"]["template"]["spec"]["containers"][0] for one in found]
        read = [each["configMapRef"]["name"] for one in containers
                for each in one.get("envFrom", ()) if "configMapRef" in each]  # fmt: skip
        made = [each["name"] for each in kustomization.get("configMapGenerator", ())]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        found, containers, read, made = [], [], [], []
    if len(found) != 1 or "name" not in containers[0]:
        raise InvalidSetting(
            f"{base} is no kustomize base with one Deployment; give k8s/base of farthing's "
            "repository, or your own, with --base"
        )
    trigger = _trigger(base) if autoscaler is Autoscaler.KEDA else None
    return Base(found[0], next((name for name in read if name in made), ""), trigger)


def _trigger(base: Path) -> int:
    component = base.parent / _KEDA
    try:
        kustomization = _documents(component / _KUSTOMIZATION)[0]
        (scaled,) = (
            one for one in _resources(component, kustomization) if one["kind"] == "ScaledObject"
        )
        return [one.get("name") for one in scaled["spec"]["triggers"]].index(_BY_CPU)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        raise InvalidSetting(
            f"{component} is no component with a ScaledObject that has a trigger '{_BY_CPU}'; "
            "copy k8s/components of farthing's repository there, or take --autoscaler hpa"
        ) from None


def _resources(directory: Path, kustomization: dict[str, Any]) -> list[Any]:
    paths = (directory / name for name in kustomization["resources"])
    return [one for path in paths if path.is_file() for one in _documents(path)]


def _documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def documents_of(made: Plan, option: Option, base: Base, place: Place) -> dict[str, Any]:
    """The overlay: name of a file -> what is in it.

    Args:
        made: the plan.
        option: of it.
        base: what it changes.
        place: of the overlay.
    """
    told = plannedsettings.of(made, option)
    scaled = None if place.autoscaler is Autoscaler.NONE else scaling.planned(made, option)
    kustomization: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [place.way(place.base)],
        "patches": [{"path": _DEPLOYMENT}],
    }
    # Without a number, so that applying it anew does not undo what the autoscaler did.
    deployment = _patch(option, base, None if scaled else option.number)
    documents: dict[str, Any] = {_KUSTOMIZATION: kustomization, _DEPLOYMENT: deployment}
    if base.settings:
        # Not the container's own variables: those would win over what you set likewise.
        literals = [f"{name}={value}" for name, value in told.items()]
        generated = {"name": base.settings, "behavior": "merge", "literals": literals}
        kustomization["configMapGenerator"] = [generated]
    else:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        container["env"] = [{"name": name, "value": value} for name, value in told.items()]
    if scaled and base.trigger is not None:
        kustomization["components"] = [place.way(place.base.parent / _KEDA)]
        target = {"kind": "ScaledObject"}
        kustomization["patches"].append({"path": _AUTOSCALER, "target": target})
        documents[_AUTOSCALER] = scaling.keda(base.trigger, scaled)
    elif scaled:
        kustomization["resources"].append(_AUTOSCALER)
        documents[_AUTOSCALER] = scaling.hpa(base.name, scaled)
    return documents


def _patch(option: Option, base: Base, replicas: int | None) -> dict[str, Any]:
    conditions = option.profile.conditions
    amounts = {"cpu": f"{conditions.cpus:g}"}
    limits = dict(amounts)
    if conditions.price is not None and conditions.price.accelerators:
        limits["nvidia.com/gpu"] = str(conditions.price.accelerators)
    patched = {"name": base.container, "resources": {"requests": amounts, "limits": limits}}
    return {
        "apiVersion": base.deployment["apiVersion"],
        "kind": "Deployment",
        "metadata": {"name": base.name},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [patched]}}},
    }


def _said(made: Plan, option: Option) -> str:
    """What it is for, on one line."""
    said = f"{option.profile.name} for {made.asked.demand.said}, {made.asked.slo.said}"
    return outside.plain(said)
