"""Rendered documents, asked for by kind and name; what selects which pods; what a pod is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.k8s.rendering import Document
from tests.k8s.restricted import all_containers

# kind -> where the pod's template is.
_TEMPLATES = {"Deployment": ("spec", "template"), "Job": ("spec", "template"), "Pod": ()}


@dataclass(frozen=True)
class Pod:
    """What a workload makes pods of.

    Attributes:
        owner: the kind and the name of the workload.
        labels: of its pods.
        spec: of its pods.
    """

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them."""
        return all_containers(self.spec)

    @property
    def ports(self) -> dict[str, int]:
        """Name of a container's port -> its number."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", ())
        }


@dataclass(frozen=True)
class Manifest:
    """What is applied, and what it meets in its namespace.

    Attributes:
        documents: what is applied.
        there: what was applied before it, such as the base before a load test.
    """

    documents: Sequence[Document]
    there: Sequence[Document] = ()

    def all(self, kind: str) -> list[Document]:
        """Documents of a kind that are applied."""
        return [one for one in self.documents if one["kind"] == kind]

    def found(self, kind: str, name: str) -> Document | None:
        """One that is applied, or was there."""
        for one in (*self.documents, *self.there):
            if (one["kind"], one["metadata"]["name"]) == (kind, name):
                return one
        return None

    @property
    def pods(self) -> list[Pod]:
        """Of the workloads that are applied."""
        return list(_pods(self.documents))

    @property
    def everybody(self) -> list[Pod]:
        """Of those that were there, too."""
        return [*self.pods, *_pods(self.there)]

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """What a container is told; without what comes from Secrets.

        Raises:
            KeyError: a ConfigMap that it names is not there.
        """
        told: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                name = source["configMapRef"]["name"]
                held = self.found("ConfigMap", name)
                if held is None:
                    raise KeyError(name)
                told |= held["data"]
        return told | {
            one["name"]: one["value"] for one in container.get("env", ()) if "value" in one
        }


def _pods(documents: Sequence[Document]) -> Iterator[Pod]:
    for one in documents:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in _TEMPLATES:
            template = one
            for key in _TEMPLATES[one["kind"]]:
                template = template[key]
            yield Pod(name, template.get("metadata", {}).get("labels", {}), template["spec"])
        elif one["kind"] == "ServingRuntime":
            # KServe puts the fields of whoever uses it over its own.
            for user in documents:
                predictor = user.get("spec", {}).get("predictor", {})
                if predictor.get("model", {}).get("runtime") == one["metadata"]["name"]:
                    yield Pod(name, one["spec"].get("labels", {}), predictor | one["spec"])


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector selects what has these labels.

    Raises:
        ValueError: it has an operator that we do not use.
    """
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    for each in selector.get("matchExpressions", ()):
        if each["operator"] != "In":
            raise ValueError(f"the operator {each['operator']} is not known here")
        wanted = wanted and labels.get(each["key"]) in each["values"]
    return wanted
