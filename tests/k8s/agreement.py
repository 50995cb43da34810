"""What has to agree within a manifest: selectors, ports, names, images, who scales what."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.k8s.manifest import Manifest, Pod, selects
from tests.k8s.rendering import ROOT

# Made by users, and named in k8s/README.md.
USERS = {
    ("ConfigMap", "farthing-models-s3"),
    ("PersistentVolumeClaim", "farthing-models"),
    ("Secret", "farthing-secured"),
    ("Secret", "farthing-models-s3"),
}
# Not ours: what copies models from a bucket.
STRANGERS = {"amazon/aws-cli"}
_SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
# Options that take the address of a Service; that of a master has Locust's own port.
_HOSTS = ("--target", "--host", "--master-host")
_LOCUSTS = "5557"
_WHOLE = re.compile(r"[1-9]\d*")


def selectors(manifest: Manifest) -> Iterator[str]:
    """Whatever selects pods selects some."""
    for one in manifest.all("Deployment"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        if not selects(one["spec"]["selector"], labels):
            yield f"Deployment {one['metadata']['name']} does not select its own pods"
    for kind, asked in (
        ("Service", lambda one: {"matchLabels": one["spec"]["selector"]}),
        ("PodDisruptionBudget", lambda one: one["spec"]["selector"]),
        ("NetworkPolicy", lambda one: one["spec"]["podSelector"]),
        ("PodMonitor", lambda one: one["spec"]["selector"]),
    ):
        for one in manifest.all(kind):
            if not _selected(manifest, asked(one)):
                yield f"{kind} {one['metadata']['name']} selects no pod"
    for pod in manifest.pods:
        for spread in pod.spec.get("topologySpreadConstraints", ()):
            if not selects(spread["labelSelector"], pod.labels):
                yield f"{pod.owner} spreads other pods than its own"


def _selected(manifest: Manifest, selector: dict[str, Any]) -> list[Pod]:
    return [pod for pod in manifest.everybody if selects(selector, pod.labels)]


def ports(manifest: Manifest) -> Iterator[str]:
    """Whatever names a port of a pod names one that a container has."""
    for one in manifest.all("Service"):
        yield from (
            f"Service {one['metadata']['name']}: {wrong}" for wrong in _offers(manifest, one)
        )
    for kind, selector, asked in (
        ("NetworkPolicy", "podSelector", _opened),
        ("PodMonitor", "selector", lambda one: _named(one["spec"]["podMetricsEndpoints"])),
    ):
        for one in manifest.all(kind):
            for pod in _selected(manifest, one["spec"][selector]):
                for port in asked(one) - {*pod.ports, *pod.ports.values()}:
                    yield f"{kind} {one['metadata']['name']}: {pod.owner} has no port {port}"
    yield from _backends(manifest)


def _offers(manifest: Manifest, service: dict[str, Any]) -> Iterator[str]:
    for port in service["spec"]["ports"]:
        wanted = port.get("targetPort", port["port"])
        for pod in _selected(manifest, {"matchLabels": service["spec"]["selector"]}):
            if wanted not in (*pod.ports, *pod.ports.values()):
                yield f"{pod.owner} has no port {wanted}"
            elif pod.ports.get(wanted, wanted) != port["port"]:
                # Callers of the headless Service reach the pod's own number.
                yield f"{port['port']} is not {wanted} of {pod.owner}"


def _opened(policy: dict[str, Any]) -> set[int | str]:
    return {
        number
        for rule in policy["spec"].get("ingress", ())
        for number in _named(rule.get("ports", ()))
    }


def _named(ports: Sequence[dict[str, Any]]) -> set[int | str]:
    return {port["port"] for port in ports}


def _backends(manifest: Manifest) -> Iterator[str]:
    for route in manifest.all("GRPCRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = manifest.found("Service", backend["name"])
                offered = [port["port"] for port in service["spec"]["ports"]] if service else []
                if backend["port"] not in offered:
                    yield f"GRPCRoute {route['metadata']['name']}: nobody is at {backend}"


def references(manifest: Manifest) -> Iterator[str]:
    """Whatever is named is there, or is the user's to make."""
    for pod in manifest.pods:
        named = {("ServiceAccount", pod.spec["serviceAccountName"])} if (
            "serviceAccountName" in pod.spec
        ) else set()  # fmt: skip
        for volume in pod.spec.get("volumes", ()):
            for field, kind, key in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if field in volume:
                    named.add((kind, volume[field][key]))
        for container in pod.containers:
            named |= set(_sources(container))
            mounts = {mount["name"] for mount in container.get("volumeMounts", ())}
            for missing in mounts - {volume["name"] for volume in pod.spec.get("volumes", ())}:
                yield f"{pod.owner} mounts {missing}, which is no volume of its"
        for kind, name in sorted(named - USERS):
            if manifest.found(kind, name) is None:
                yield f"{pod.owner} needs the {kind} {name}, which is nowhere"


def _sources(container: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", ()):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in source:
                yield kind, source[field]["name"]
    for variable in container.get("env", ()):
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if field in variable.get("valueFrom", {}):
                yield kind, variable["valueFrom"][field]["name"]


def scaling(manifest: Manifest) -> Iterator[str]:
    """One scaler at most for what is there, slow to go down, and nobody else sets the number."""
    scaled = list[str]()
    for kind in _SCALERS:
        for one in manifest.all(kind):
            name, spec = f"{kind} {one['metadata']['name']}", one["spec"]
            target = spec["scaleTargetRef"]
            deployment = manifest.found(target.get("kind", "Deployment"), target["name"])
            scaled.append(target["name"])
            if deployment is None:
                yield f"{name} scales {target['name']}, which is nowhere"
            elif "replicas" in deployment["spec"]:
                yield f"{name} and a number of replicas contradict each other"
            least = spec.get("minReplicas", spec.get("minReplicaCount", 0))
            most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
            if not 2 <= least < most:
                yield f"{name} keeps {least} to {most} replicas"
            how = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", spec)
            behavior = how.get("behavior", {})
            if behavior.get("scaleDown", {}).get("stabilizationWindowSeconds", 0) < 300:
                yield f"{name} goes down in less than five minutes"
            if behavior.get("scaleUp", {}).get("stabilizationWindowSeconds", 0) > 0:
                yield f"{name} waits before it goes up"
    if len(scaled) != len(set(scaled)):
        yield "two autoscalers have the same target"


def callees(manifest: Manifest) -> Iterator[str]:
    """Hosts in arguments are Services of this namespace, at ports that they have."""
    for pod in manifest.pods:
        for container in pod.containers:
            for each in container.get("args", ()):
                flag, _, value = each.partition("=")
                if flag in _HOSTS:
                    name, _, port = value.partition(":")
                    service = manifest.found("Service", name)
                    offered = [one["port"] for one in service["spec"]["ports"]] if service else []
                    if int(port or _LOCUSTS) not in offered:
                        yield f"{pod.owner}: nobody is at {value}"


def resources(manifest: Manifest) -> Iterator[str]:
    """Whole CPUs, and as much asked for as may be used: else the kernel throttles."""
    for pod in manifest.pods:
        for container in pod.containers:
            asked = container.get("resources", {})
            name = f"{pod.owner}, {container['name']}"
            if not asked or asked.get("requests") != asked.get("limits"):
                yield f"{name}: requests are not the limits"
            elif not {"cpu", "memory"} <= set(asked["limits"]):
                yield f"{name}: CPUs or memory are not limited"
            elif not _WHOLE.fullmatch(str(asked["limits"]["cpu"])):
                yield f"{name}: {asked['limits']['cpu']} CPUs are not whole ones"


def images(manifest: Manifest) -> Iterator[str]:
    """Images are built by our Dockerfile or known strangers', and pinned."""
    for pod in manifest.pods:
        for container in pod.containers:
            name, _, tag = container["image"].partition(":")
            if tag in ("", "latest"):
                yield f"{pod.owner}: {container['image']} is not pinned"
            elif name not in STRANGERS and container["image"] not in ours():
                yield f"{pod.owner}: {container['image']} is not what `make image` makes"


def ours() -> set[str]:
    """Images that are made of the Dockerfile's last stages; each target has a name of its own.

    Kustomize changes images by their names alone, so one with two tags could not be told apart.
    """
    stages = re.findall(r"^FROM (\S+) AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    last = stages[-1][1]
    made = [stage for based, stage in stages if based == "runtime"]
    names = ["farthing" if stage == last else f"farthing-{stage}" for stage in made]
    return {f"{name}:{project['version']}" for name in names}


CHECKS: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    selectors, ports, references, scaling, callees, resources, images,
)  # fmt: skip
