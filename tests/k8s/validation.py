"""Whether an API server would take a document, asked offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate.utils import SchemaNotFoundError, ValidationError

from tests.k8s.manifest import Manifest
from tests.k8s.rendering import ROOT, Document

# The first with `sleep` in preStop switched on; image volumes came later.
OLDEST = "1.30"
IMAGE_VOLUMES = "1.33"
NEWEST = kubernetes_validate.latest_version()
_SCHEMAS = ROOT / "tests" / "k8s" / "schemas"


def _pod(spec: dict[str, Any]) -> Document:
    fields = ("containers", "volumes", "automountServiceAccountToken",
              "terminationGracePeriodSeconds")  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "part"},
        "spec": {"containers": []} | {field: spec[field] for field in fields if field in spec},
    }


def _deployment(spec: dict[str, Any]) -> Document:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "part"},
        "spec": {
            "selector": {},
            "strategy": spec["predictor"].get("deploymentStrategy", {}),
            "template": {"spec": _pod(spec["predictor"])["spec"]},
        },
    }


# Kinds of strangers -> documents of Kubernetes' own that hold parts of their specs.
_PARTS = {"ServingRuntime": (_pod,), "InferenceService": (_deployment,)}


@cache
def own_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) of what Kubernetes itself does not know -> a schema of what we use."""
    found = {}
    for path in sorted(_SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        properties = schema["properties"]
        found[properties["apiVersion"]["const"], properties["kind"]["const"]] = schema
    return found


def complaints(document: Document, *, oldest: str = OLDEST) -> list[str]:
    """What is wrong with a document; empty if nothing is.

    A kind that nobody knows, or that a release has removed, is wrong: kubernetes-validate itself
    would only warn of it, and exit with 0.

    Args:
        document: one object.
        oldest: the oldest release of Kubernetes that must take it; the newest must too.
    """
    name = f"{document['kind']} {document['metadata']['name']}"
    schema = own_schemas().get((document["apiVersion"], document["kind"]))
    if schema is not None:
        errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
        found = [f"{name}: {_path(error)}: {error.message}" for error in errors]
        # What is Kubernetes' own in it.
        parts = [make(document["spec"]) for make in _PARTS.get(document["kind"], ())]
        return found + [wrong for part in parts for wrong in complaints(part, oldest=oldest)]
    found = []
    for version in (oldest, NEWEST):
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except ValidationError as error:
            found.append(f"{name}, in {version}: {_path(error)}: {error.message}")
        except SchemaNotFoundError:
            found.append(f"{name}: {document['apiVersion']} is not known in {version}")
    return found or list(_volumes(document))


def _volumes(document: Document) -> Iterator[str]:
    """No schema says that a volume has one source; components may add another."""
    for pod in Manifest([document]).pods:
        for volume in pod.spec.get("volumes", ()):
            sources = sorted(field for field in volume if field != "name")
            if len(sources) > 1:
                yield f"{pod.owner}: volume {volume['name']} is both {' and '.join(sources)}"


def _path(error: Any) -> str:
    return ".".join(map(str, error.absolute_path))
