"""What a rendered Deployment says of its pods, as far as one machine can act it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.k8s.manifest import Manifest
from tests.k8s.rendering import Document


@dataclass(frozen=True)
class Probe:
    """One of the three probes; numbers that are not said are Kubernetes' own.

    Attributes:
        port: of gRPC, or of HTTP if there is a path.
        service: the name that health is asked for.
        path: of HTTP.
    """

    port: int
    service: str
    path: str
    delay_s: float
    period_s: float
    timeout_s: float
    failures: int

    @classmethod
    def of(cls, probe: dict[str, Any], ports: dict[str, int]) -> Probe:
        """A probe of a container that has named ports."""
        http = probe.get("httpGet")
        asked = http or probe["grpc"]
        return cls(
            port=ports.get(asked["port"], asked["port"]),
            service=asked.get("service", ""),
            path=http.get("path", "/") if http else "",
            delay_s=probe.get("initialDelaySeconds", 0),
            period_s=probe.get("periodSeconds", 10),
            timeout_s=probe.get("timeoutSeconds", 1),
            failures=probe.get("failureThreshold", 3),
        )


@dataclass(frozen=True)
class Plan:
    """A Deployment.

    Attributes:
        arguments: of ``farthing``, with the models' real place.
        environment: beside the machine's own.
        surge: pods beyond the replicas that an update may have.
        unavailable: pods that an update may be short of.
        min_ready_s: until a pod that is ready counts as available.
        pre_stop_s: of sleep before SIGTERM.
        grace_s: from the deletion of a pod to SIGKILL.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    grpc_port: int
    startup: Probe
    readiness: Probe
    liveness: Probe
    replicas: int
    surge: int
    unavailable: int
    min_ready_s: float
    pre_stop_s: float
    grace_s: float

    @classmethod
    def of(cls, documents: Sequence[Document], *, models: str) -> Plan:
        """The one Deployment among rendered documents.

        Args:
            documents: of an overlay.
            models: what stands for the volume with the models.
        """
        manifest = Manifest(documents)
        (deployment,) = manifest.all("Deployment")
        spec = deployment["spec"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        arguments = (*container.get("command", ())[1:], *container.get("args", ()))
        rolling = spec["strategy"]["rollingUpdate"]
        replicas = spec["replicas"]
        return cls(
            arguments=tuple(models if word == places["models"] else word for word in arguments),
            environment=manifest.environment(container),
            grpc_port=ports["grpc"],
            startup=Probe.of(container["startupProbe"], ports),
            readiness=Probe.of(container["readinessProbe"], ports),
            liveness=Probe.of(container["livenessProbe"], ports),
            replicas=replicas,
            surge=_pods(rolling["maxSurge"], replicas, math.ceil),
            unavailable=_pods(rolling["maxUnavailable"], replicas, math.floor),
            min_ready_s=spec.get("minReadySeconds", 0),
            pre_stop_s=container["lifecycle"]["preStop"]["sleep"]["seconds"],
            grace_s=pod["terminationGracePeriodSeconds"],
        )


def _pods(said: int | str, replicas: int, rounded: Any) -> int:
    """A number of pods, which may be said as a percentage of the replicas."""
    if isinstance(said, str):
        return int(rounded(float(said.rstrip("%")) / 100 * replicas))
    return said
