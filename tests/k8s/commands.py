"""Whether a kubectl command that we show can be right, told without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.k8s.agreement import USERS
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import BASE, K8S, OVERLAYS, OWN, Document, unrendered

_LOOKS = {"configmap", "pods", "hpa"}


def _documents() -> list[Document]:
    paths = [BASE, *(K8S / "overlays" / name for name in OVERLAYS)]
    return [one for path in paths for one in unrendered(path)]


def wrong(arguments: Sequence[str]) -> str:
    """Why kubectl would have nothing to do with these arguments; empty if it may have.

    Args:
        arguments: after `kubectl`.
    """
    words = [word for word in arguments if not word.startswith("--")]
    pods = Manifest(_documents()).pods
    owners = {pod.owner for pod in pods}
    match words:
        case ["apply" | "delete", "-k", directory, *more]:
            return _directory(directory) or _selector(more)
        case (
            ["rollout", "undo" | "status" | "restart", name]
            | ["logs" | "wait", name]
            | ["port-forward", name, _]
        ):
            kind, _, name = name.partition("/")
            return "" if f"{kind.capitalize()} {name}" in owners else f"{kind} {name} is nowhere"
        case ["delete", "pod", name] | ["exec", name, "mv", _, _]:
            moved = all(_mounted(name, path) for path in words[3:])
            return "" if f"Pod {name}" in owners and moved else f"{words} is nowhere"
        case ["cp", source, target]:
            name, _, path = target.partition(":")
            ours = source.startswith("models/") and _mounted(name, path)
            return "" if ours else f"{target} is nowhere"
        case ["create", "secret", "generic", name]:
            return "" if ("Secret", name) in USERS else f"nobody asks for the Secret {name}"
        case ["label", "namespace", _, label]:
            policies = str([one for one in _documents() if one["kind"] == "NetworkPolicy"])
            key, _, value = label.partition("=")
            return "" if f"'{key}': '{value}'" in policies else f"no policy looks at {label}"
        case ["get", kinds]:
            return "" if set(kinds.split(",")) <= _LOOKS else f"{kinds} is nothing of ours"
    return "no test knows what this does"


def _directory(name: str) -> str:
    path = Path(name)
    own = path.parent == Path("k8s/overlays") and path.name.split("-")[0] in OWN
    there = (K8S.parent / name / "kustomization.yaml").exists()
    return "" if own or there else f"{name} is nowhere"


def _selector(more: Sequence[str]) -> str:
    """Of `-l KEY=VALUE`; what is applied before the servers is a volume and the pod on it."""
    if not more:
        return ""
    key, _, value = more[-1].partition("=")
    labelled = [
        one["kind"] for one in _documents() if one["metadata"].get("labels", {}).get(key) == value
    ]
    right = more[0] == "-l" and sorted(labelled) == ["PersistentVolumeClaim", "Pod"]
    return "" if right else f"{more} selects {labelled}"


def _mounted(pod: str, path: str) -> bool:
    return any(
        Path(path).is_relative_to(mount["mountPath"]) and not mount.get("readOnly")
        for one in Manifest(_documents()).pods
        if one.owner == f"Pod {pod}"
        for container in one.containers
        for mount in container["volumeMounts"]
    )
