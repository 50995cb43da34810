"""The base as it lies there, without kubectl: fast, so CI runs it."""

from __future__ import annotations

import pytest
import yaml

from service.health import SERVICE
from tests.k8s import agreement, serving, validation
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import BASE, COMPONENTS, K8S, OVERLAYS, Document, unrendered
from tests.k8s.restricted import breaches

KINDS = [
    "ConfigMap", "Deployment", "NetworkPolicy", "NetworkPolicy", "NetworkPolicy",
    "PodDisruptionBudget", "Service", "Service", "ServiceAccount",
]  # fmt: skip
KUSTOMIZATIONS = [
    BASE,
    *(K8S / "components" / name for name in COMPONENTS),
    *(K8S / "overlays" / name for name in OVERLAYS),
]


def test_the_base_has_what_a_server_for_money_needs() -> None:
    assert sorted(one["kind"] for one in unrendered(BASE)) == KINDS


@pytest.mark.parametrize("document", unrendered(BASE), ids=lambda one: one["metadata"]["name"])
def test_an_api_server_would_take_it(document: Document) -> None:
    assert validation.complaints(document) == []


@pytest.mark.parametrize(
    "check", (*agreement.CHECKS, *serving.CHECKS), ids=lambda check: check.__name__
)
def test_it_agrees_with_itself_and_with_the_server(check: serving.Check) -> None:
    assert list(check(Manifest(unrendered(BASE)))) == []


def test_its_pods_hold_to_the_restricted_standard() -> None:
    (pod,) = Manifest(unrendered(BASE)).pods
    assert list(breaches(pod.spec)) == []


def test_under_kserve_the_server_gets_the_same_settings() -> None:
    (base,) = Manifest(unrendered(BASE)).all("ConfigMap")
    kserve = Manifest(unrendered(K8S / "overlays" / "kserve"))
    (pod,) = kserve.pods
    (container,) = pod.containers
    assert kserve.environment(container) == base["data"]
    (ours,) = Manifest(unrendered(BASE)).pods
    shared = ("image", "resources", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
    for field in shared:
        assert container[field] == ours.containers[0][field]
    grace = "terminationGracePeriodSeconds"
    assert pod.spec[grace] == ours.spec[grace]


def test_the_gateway_lets_in_inference_and_nothing_else() -> None:
    (route,) = Manifest(unrendered(K8S / "components" / "gateway")).all("GRPCRoute")
    (rule,) = route["spec"]["rules"]
    assert rule["matches"] == [{"method": {"type": "Exact", "service": SERVICE}}]


def test_each_kustomization_names_files_that_are_there() -> None:
    for path in (directory / "kustomization.yaml" for directory in KUSTOMIZATIONS):
        kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
        named = kustomization.get("resources", []) + kustomization.get("components", [])
        named += [patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch]
        assert not [name for name in named if not (path.parent / name).exists()], path


def test_each_file_is_named_by_a_kustomization() -> None:
    for path in (file for directory in KUSTOMIZATIONS for file in directory.iterdir()):
        if path.name != "kustomization.yaml":
            assert path.name in (path.parent / "kustomization.yaml").read_text(), path
