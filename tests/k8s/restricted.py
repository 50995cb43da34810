"""The Pod Security Standard "restricted", for any pod spec.

Source: kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted", with all of
"Baseline" that a spec can break; image volumes are since 1.33 (kubernetes/kubernetes#130394).
Stricter here: capabilities are dropped and never added, roots are read-only, users are numbers, and
no token is mounted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def breaches(pod: dict[str, Any]) -> Iterator[str]:
    """What the standard, or we, would refuse.

    Args:
        pod: a pod's spec.
    """
    shared = pod.get("securityContext", {})
    for field in _HOST:
        if pod.get(field):
            yield f"{field} is on"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a service account's token is mounted"
    for volume in pod.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds or not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is {', '.join(kinds) or 'nothing'}"
    if "sysctls" in shared:
        yield "sysctls are set"
    for container in all_containers(pod):
        yield from (f"{container['name']}: {breach}" for breach in _of_container(container, shared))


def all_containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a pod's spec, those that run before the others too."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, ())]


def _of_container(container: dict[str, Any], shared: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    said = {**shared, **own}
    if said.get("runAsNonRoot") is not True:
        yield "it may run as root"
    if not isinstance(said.get("runAsUser"), int) or said["runAsUser"] == 0:
        yield "its user is root, or not a number"
    if said.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "system calls are not filtered"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "it may gain privileges"
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "its root can be written"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "it has capabilities"
    if own.get("procMount", "Default") != "Default":
        yield "/proc is not masked"
    if any(said.get(field) for field in ("seLinuxOptions", "windowsOptions", "appArmorProfile")):
        yield "it sets SELinux, AppArmor or Windows options"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "it takes a port of the host"
