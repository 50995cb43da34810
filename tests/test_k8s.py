"""The manifests agree with the server: its settings, its ports, its health names."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.arguments import environment_name
from service.probes import LIVE, READY
from service.settings import Settings

BASE = Path(__file__).parent.parent / "k8s" / "base"


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((BASE / name).read_text(encoding="utf-8"))


def container() -> dict[str, Any]:
    (only,) = document("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return only


def settings() -> dict[str, str]:
    (generated,) = document("kustomization.yaml")["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generated["literals"])


def test_every_environment_variable_is_a_setting() -> None:
    known = {environment_name(knob.name) for knob in dataclasses.fields(Settings)}
    assert settings()
    assert set(settings()) <= known


def test_the_ports_are_those_of_the_settings() -> None:
    ports = {port["name"]: str(port["containerPort"]) for port in container()["ports"]}
    assert ports == {
        "grpc": settings()["FARTHING_GRPC_PORT"],
        "metrics": settings()["FARTHING_METRICS_PORT"],
    }
    exposed = {port["targetPort"] for port in document("service.yaml")["spec"]["ports"]}
    assert exposed == set(ports)


def test_the_probes_ask_for_paths_that_the_server_knows() -> None:
    asked = {
        probe: container()[probe]["httpGet"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    ready, live = ({"path": path, "port": "metrics"} for path in (READY, LIVE))
    assert asked == {"startupProbe": ready, "readinessProbe": ready, "livenessProbe": live}


def test_the_pod_gets_the_time_that_leaving_takes() -> None:
    pod = document("deployment.yaml")["spec"]["template"]["spec"]
    leaving_s = sum(float(settings()[f"FARTHING_{part}_S"]) for part in ("GRACE", "DRAIN"))
    assert pod["terminationGracePeriodSeconds"] > leaving_s


def test_the_pod_holds_to_the_restricted_standard() -> None:
    pod = document("deployment.yaml")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container()["resources"]
    assert resources["requests"] == resources["limits"]


@pytest.mark.slow
def test_the_base_renders() -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl 1.27 or later is needed on PATH for this test"
    done = subprocess.run(
        [kubectl, "kustomize", str(BASE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    kinds = [rendered["kind"] for rendered in yaml.safe_load_all(done.stdout)]
    assert sorted(kinds) == ["ConfigMap", "Deployment", "Service"]
