"""The base lets in whom it should, and nobody else."""

from __future__ import annotations

import pytest

from tests.k8s.manifest import Manifest
from tests.k8s.reach import End, allowed
from tests.k8s.rendering import BASE, K8S, unrendered

POLICIES = Manifest(unrendered(BASE)).all("NetworkPolicy")
(SERVER,) = (End(pod.labels) for pod in Manifest(unrendered(BASE)).pods)
LABELLED = End({"farthing-client": "true"})
GATEWAY = End.elsewhere("gateway", **{"farthing-client": "true"})
DNS = End.elsewhere("kube-system")
# (who answers, at which port): the cluster's own, NodeLocal DNSCache, OpenShift's pods.
NAMES = [(DNS, 53), (End(address="169.254.20.10"), 53), (End.elsewhere("openshift-dns"), 5353)]


@pytest.mark.parametrize(
    ("source", "port", "may"),
    [
        (LABELLED, 8001, True),
        (LABELLED, 8002, False),
        (GATEWAY, 8001, True),
        (GATEWAY, 8002, False),
        (End.elsewhere("monitoring"), 8002, True),
        (End.elsewhere("monitoring"), 8001, False),
        (End({"app": "stranger"}), 8001, False),
        (End.elsewhere("stranger"), 8001, False),
        (End.elsewhere("stranger"), 8002, False),
        (SERVER, 8001, False),
    ],
)
def test_calls_and_scrapes_come_in_from_whom_they_should(source: End, port: int, may: bool) -> None:
    assert allowed(POLICIES, source, SERVER, port) is may


@pytest.mark.parametrize("target", [DNS, LABELLED, End.elsewhere("stranger")])
def test_nothing_goes_out_of_a_server(target: End) -> None:
    assert not any(allowed(POLICIES, SERVER, target, port) for port in (53, 80, 443, 8001))
    assert not allowed(POLICIES, SERVER, target, 53, "UDP")


def test_a_bucket_is_reached_and_its_name_found_and_no_more() -> None:
    policies = POLICIES + unrendered(K8S / "components/models-s3")[:1]
    assert allowed(policies, SERVER, End.elsewhere("stranger"), 443)
    assert allowed(policies, SERVER, End(address="52.216.1.1"), 443)
    assert all(allowed(policies, SERVER, dns, port, "UDP") for dns, port in NAMES)
    assert not allowed(policies, SERVER, End.elsewhere("stranger"), 80)
    assert not allowed(policies, SERVER, End.elsewhere("stranger"), 53, "UDP")


def test_a_bucket_is_read_with_the_role_of_the_pod_and_not_with_that_of_its_node() -> None:
    policies = POLICIES + unrendered(K8S / "components/models-s3")[:1]
    assert allowed(policies, SERVER, End(address="169.254.170.23"), 80)
    assert not allowed(policies, SERVER, End(address="169.254.169.254"), 80)


def test_a_collector_of_spans_is_reached_and_its_name_found_and_no_more() -> None:
    added = Manifest(unrendered(K8S / "components/tracing")).all("NetworkPolicy")
    policies, collector = [*POLICIES, *added], End.elsewhere("observability")
    assert allowed(policies, SERVER, collector, 4317)
    assert all(allowed(policies, SERVER, dns, port, "UDP") for dns, port in NAMES)
    assert not allowed(policies, SERVER, collector, 443)
    assert not allowed(policies, SERVER, End.elsewhere("stranger"), 4317)


@pytest.mark.parametrize("name", ["loadtest-job", "loadtest-locust"])
def test_generators_reach_the_server_and_their_master_and_nobody_else(name: str) -> None:
    overlay = Manifest(unrendered(K8S / "overlays" / name))
    policies = POLICIES + overlay.all("NetworkPolicy")
    pods = {pod.labels["app.kubernetes.io/component"]: End(pod.labels) for pod in overlay.pods}
    for pod in pods.values():
        assert allowed(policies, pod, SERVER, 8001)
        assert all(allowed(policies, pod, dns, port, "UDP") for dns, port in NAMES)
        assert not allowed(policies, pod, SERVER, 8002)
        assert not allowed(policies, pod, End.elsewhere("stranger"), 443)
        assert not allowed(policies, LABELLED, pod, 8089)
    if len(pods) > 1:
        assert allowed(policies, pods["locust-worker"], pods["locust"], 5557)
        assert not allowed(policies, LABELLED, pods["locust"], 5557)
