"""Each check refuses what is broken: one thing is changed in what is right, and must be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.k8s import agreement, rendering, serving, validation
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import BASE, COMPONENTS, K8S, OVERLAYS, CannotRender, Document, unrendered
from tests.k8s.restricted import breaches

Change = Callable[[dict[str, Document]], Any]


def documents(*more: str) -> dict[str, Document]:
    """Of the base and of these folders, by kind and name."""
    found = unrendered(BASE) + [one for name in more for one in unrendered(K8S / name)]
    return {f"{one['kind']} {one['metadata']['name']}": one for one in found}


def pod(all_of_them: dict[str, Document]) -> Any:
    return all_of_them["Deployment farthing"]["spec"]["template"]["spec"]


def container(all_of_them: dict[str, Document]) -> Any:
    return pod(all_of_them)["containers"][0]


def told(all_of_them: dict[str, Document], **settings: str) -> None:
    all_of_them["ConfigMap farthing"]["data"].update(settings)


AGREEMENT: list[tuple[Any, Change, str]] = [
    (agreement.selectors,
     lambda d: d["Deployment farthing"]["spec"]["selector"]["matchLabels"].update(more="x"),
     "does not select its own pods"),
    (agreement.selectors,
     lambda d: d["Service farthing"]["spec"].update(selector={"app": "other"}),
     "Service farthing selects no pod"),
    (agreement.selectors,
     lambda d: d["PodDisruptionBudget farthing"]["spec"]["selector"]["matchLabels"].update(x="y"),
     "PodDisruptionBudget farthing selects no pod"),
    (agreement.selectors,
     lambda d: d["NetworkPolicy farthing-calls"]["spec"]["podSelector"].update(
         matchLabels={"app": "other"}),
     "NetworkPolicy farthing-calls selects no pod"),
    (agreement.selectors,
     lambda d: pod(d)["topologySpreadConstraints"][0].update(
         labelSelector={"matchLabels": {"app": "other"}}),
     "spreads other pods"),
    (agreement.ports,
     lambda d: d["Service farthing"]["spec"]["ports"][0].update(targetPort="http"),
     "has no port http"),
    (agreement.ports,
     lambda d: d["Service farthing-headless"]["spec"]["ports"][0].update(port=80),
     "80 is not grpc"),
    (agreement.ports,
     lambda d: d["NetworkPolicy farthing-calls"]["spec"]["ingress"][0]["ports"][0].update(port=80),
     "has no port 80"),
    (agreement.ports,
     lambda d: d["GRPCRoute farthing"]["spec"]["rules"][0]["backendRefs"][0].update(port=80),
     "GRPCRoute farthing: nobody is at"),
    (agreement.references,
     lambda d: d.pop("ServiceAccount farthing"),
     "needs the ServiceAccount farthing"),
    (agreement.references,
     lambda d: pod(d)["volumes"][0]["persistentVolumeClaim"].update(claimName="other"),
     "needs the PersistentVolumeClaim other"),
    (agreement.references,
     lambda d: container(d)["envFrom"].append({"secretRef": {"name": "other"}}),
     "needs the Secret other"),
    (agreement.references,
     lambda d: pod(d)["volumes"].pop(),
     "mounts tmp, which is no volume"),
    (agreement.scaling,
     lambda d: None,
     "HorizontalPodAutoscaler farthing and a number of replicas contradict each other"),
    (agreement.scaling,
     lambda d: d["HorizontalPodAutoscaler farthing"]["spec"]["scaleTargetRef"].update(name="x"),
     "scales x, which is nowhere"),
    (agreement.scaling,
     lambda d: d["HorizontalPodAutoscaler farthing"]["spec"]["behavior"]["scaleDown"].update(
         stabilizationWindowSeconds=60),
     "goes down in less than five minutes"),
    (agreement.scaling,
     lambda d: d["HorizontalPodAutoscaler farthing"]["spec"]["behavior"]["scaleUp"].update(
         stabilizationWindowSeconds=60),
     "waits before it goes up"),
    (agreement.scaling,
     lambda d: d["HorizontalPodAutoscaler farthing"]["spec"].update(minReplicas=1),
     "keeps 1 to 10 replicas"),
    (agreement.scaling,
     lambda d: d.update(second=d["HorizontalPodAutoscaler farthing"]),
     "two autoscalers"),
    (agreement.callees,
     lambda d: d["Service farthing"]["spec"]["ports"].pop(0),
     "nobody is at farthing:8001"),
    (agreement.callees,
     lambda d: d["Job farthing-loadtest"]["spec"]["template"]["spec"]["containers"][0][
         "args"].append("--host=other:8001"),
     "nobody is at other:8001"),
    (agreement.resources,
     lambda d: container(d)["resources"]["requests"].update(cpu="1"),
     "requests are not the limits"),
    (agreement.resources,
     lambda d: [part.update(cpu="1500m") for part in container(d)["resources"].values()],
     "1500m CPUs are not whole ones"),
    (agreement.resources,
     lambda d: [part.pop("memory") for part in container(d)["resources"].values()],
     "memory are not limited"),
    (agreement.images, lambda d: container(d).update(image="farthing"), "is not pinned"),
    (agreement.images, lambda d: container(d).update(image="farthing:latest"), "is not pinned"),
    (agreement.images,
     lambda d: container(d).update(image="farthing:0.0.1"), "is not what `make image` makes"),
    (agreement.images,
     lambda d: container(d).update(image="farthing-tpu:0.1.0"), "is not what `make image` makes"),
    (serving.arguments,
     lambda d: told(d, FARTHING_DRAINS_S="30"),
     "FARTHING_DRAINS_S is no setting"),
    (serving.arguments,
     lambda d: told(d, FARTHING_DRAIN_S="thirty"),
     "FARTHING_DRAIN_S is 'thirty'"),
    (serving.arguments,
     lambda d: told(d, FARTHING_GRPC_PORT="80010"),
     "it takes 0 to 65535"),
    (serving.arguments,
     lambda d: container(d).update(args=["serve", "/models", "--fast"]),
     "unrecognized arguments: --fast"),
    (serving.arguments,
     lambda d: container(d)["envFrom"][0]["configMapRef"].update(name="other"),
     "the ConfigMap 'other' is nowhere"),
    (serving.arguments,
     lambda d: d["Job farthing-loadtest"]["spec"]["template"]["spec"]["containers"][0][
         "args"].append("--speed=2"),
     "load: No such option: --speed"),
    (serving.arguments,
     lambda d: d["Job farthing-loadtest"]["spec"]["template"]["spec"]["containers"][0].update(
         args=["measure"]),
     "which is none of serve, load, slo"),
    (serving.probes, lambda d: container(d).pop("startupProbe"), "has not all of startupProbe"),
    (serving.probes,
     lambda d: container(d)["readinessProbe"]["grpc"].update(port=8002),
     "gRPC is not where the probes ask"),
    (serving.probes,
     lambda d: container(d)["readinessProbe"]["grpc"].update(service="ready"),
     "health does not tell by '' or 'ready'"),
    (serving.probes,
     lambda d: container(d)["livenessProbe"]["grpc"].pop("service"),
     "by '' a server that drains is dead"),
    (serving.probes,
     lambda d: told(d, FARTHING_TOKENS="/secured/tokens"),
     "the kubelet has no token"),
    (serving.probes,
     lambda d: [container(d).update({probe: {"httpGet": {"path": "/", "port": "metrics"}}})
                for probe in ("startupProbe", "readinessProbe", "livenessProbe")],
     "is not asked for /v2/health/ready"),
    (serving.probes,
     lambda d: container(d).update(readinessProbe={"httpGet": {"path": "/v2/health/ready"}}),
     "is asked in several ways"),
    (serving.ports, lambda d: told(d, FARTHING_METRICS_PORT="9000"), "and the server [8001, 9000]"),
    (serving.leaving,
     lambda d: pod(d).update(terminationGracePeriodSeconds=70),
     "is killed after 70 s, and leaving takes 82 s"),
    (serving.leaving, lambda d: container(d).pop("lifecycle"), "is refused calls"),
    (serving.leaving, lambda d: told(d, FARTHING_GRACE_S="30"), "connections outlive the 30 s"),
    (serving.leaving,
     lambda d: told(d, FARTHING_MAX_CONNECTION_AGE_S="0"), "connections outlive the 42 s"),
    (serving.leaving,
     lambda d: told(d, FARTHING_MAX_CONNECTION_AGE_S="33"),
     "connections end before clients may look"),
    (serving.replacing,
     lambda d: d["Deployment farthing"]["spec"].update(minReadySeconds=30),
     "replaces pods faster than clients hear of it"),
]  # fmt: skip


def everything() -> dict[str, Document]:
    return documents("components/hpa", "components/gateway", "overlays/loadtest-job")


@pytest.mark.parametrize(("check", "change", "found"), AGREEMENT, ids=range(len(AGREEMENT)))
def test_what_disagrees_is_found(check: serving.Check, change: Change, found: str) -> None:
    changed = everything()
    change(changed)
    wrong = list(check(Manifest(list(changed.values()))))
    assert found in "\n".join(wrong)


def test_every_check_is_seen_to_refuse_something() -> None:
    assert {check for check, *_ in AGREEMENT} == {*agreement.CHECKS, *serving.CHECKS}


RESTRICTED: list[tuple[Callable[[Any, Any], Any], str]] = [
    (lambda pod, _: pod.update(hostNetwork=True), "hostNetwork is on"),
    (lambda pod, _: pod.pop("automountServiceAccountToken"), "token is mounted"),
    (lambda pod, _: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "hostPath"),
    (lambda pod, _: pod["volumes"].append({"name": "x"}), "volume x is nothing"),
    (lambda pod, _: pod["securityContext"].update(sysctls=[]), "sysctls"),
    (lambda pod, _: pod["securityContext"].pop("runAsNonRoot"), "may run as root"),
    (lambda pod, _: pod["securityContext"].update(runAsUser=0), "user is root"),
    (lambda pod, _: pod["securityContext"].pop("seccompProfile"), "not filtered"),
    (lambda _, own: own["securityContext"].update(runAsNonRoot=False), "may run as root"),
    (lambda _, own: own["securityContext"].pop("allowPrivilegeEscalation"), "gain privileges"),
    (lambda _, own: own["securityContext"].update(privileged=True), "it is privileged"),
    (lambda _, own: own["securityContext"].pop("readOnlyRootFilesystem"), "root can be written"),
    (lambda _, own: own["securityContext"].pop("capabilities"), "has capabilities"),
    (lambda _, own: own["securityContext"]["capabilities"].update(add=["CHOWN"]), "capabilities"),
    (lambda _, own: own["securityContext"].update(procMount="Unmasked"), "/proc"),
    (lambda _, own: own["securityContext"].update(seLinuxOptions={"user": "x"}), "SELinux"),
    (lambda _, own: own["ports"][0].update(hostPort=8001), "port of the host"),
    (lambda pod, _: pod.update(initContainers=[{"name": "first"}]), "first: it may gain"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "found"), RESTRICTED, ids=[found for _, found in RESTRICTED])
def test_what_is_not_restricted_is_found(change: Callable[[Any, Any], Any], found: str) -> None:
    all_of_them = documents()
    change(pod(all_of_them), container(all_of_them))
    assert found in "\n".join(breaches(pod(all_of_them)))


CUSTOM = {
    one["kind"]: one
    for kind, names in (("components", COMPONENTS), ("overlays", OVERLAYS))
    for name in names
    for one in unrendered(K8S / kind / name)
    if (one["apiVersion"], one["kind"]) in validation.own_schemas()
}


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_a_field_that_a_custom_kind_does_not_have_is_found(kind: str) -> None:
    right = CUSTOM[kind]
    assert validation.complaints(right) == []
    for where in ("spec", "metadata"):
        wrong = right | {where: right[where] | {"replica": 1}}
        assert "'replica' was unexpected" in "\n".join(validation.complaints(wrong))


def test_what_is_kubernetes_own_in_a_custom_kind_is_validated() -> None:
    runtime = CUSTOM["ServingRuntime"]
    (only,) = runtime["spec"]["containers"]
    wrong = runtime | {"spec": runtime["spec"] | {"containers": [only | {"imagePull": "Never"}]}}
    assert "imagePull" in "\n".join(validation.complaints(wrong))


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"apiVersion": "autoscaling/v2beta2", "kind": "HorizontalPodAutoscaler"},
         "autoscaling/v2beta2 is not known in"),
        ({"apiVersion": "example.com/v1", "kind": "Unheard"}, "example.com/v1 is not known in"),
        ({"apiVersion": "v1", "kind": "Service", "spec": {"port": 1}}, "'port' was unexpected"),
    ],
)  # fmt: skip
def test_what_an_api_server_does_not_know_is_found(document: Document, found: str) -> None:
    named = document | {"metadata": {"name": "x"}}
    assert found in "\n".join(validation.complaints(named))


def test_what_an_older_release_does_not_know_is_found() -> None:
    image = {"name": "models", "image": {"reference": "x@sha256:0"}}
    with_image = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
                  "spec": {"containers": [{"name": "x"}], "volumes": [image]}}  # fmt: skip
    assert validation.complaints(with_image, oldest=validation.IMAGE_VOLUMES) == []
    (wrong,) = validation.complaints(with_image)
    assert wrong.startswith(f"Pod x, in {validation.OLDEST}")


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (None, "kubectl 1.27 or later is needed on PATH to render k8s/, and there is none"),
        ('{"clientVersion": {"major": "1", "minor": "26+"}}', "is 1.26"),
        ("no json", "does not tell its version"),
    ],
)
def test_a_missing_or_old_kubectl_is_one_sentence(
    says: str | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if says is not None:
        fake = tmp_path / "kubectl"
        fake.write_text(f"#!/bin/sh\necho '{says}'\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    rendering.kubectl.cache_clear()
    try:
        with pytest.raises(CannotRender, match="is needed on PATH") as caught:
            rendering.kubectl()
    finally:
        rendering.kubectl.cache_clear()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
