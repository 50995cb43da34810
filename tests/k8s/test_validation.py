"""What no schema refuses, and an API server does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.k8s import agreement, validation
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import Document, on_base

# Components of which a user takes one, and what the others make of it.
ALTERNATIVES = [
    (("models-s3", "models-image"), "volume models is both emptyDir and image"),
    (("hpa", "keda"), "two autoscalers have the same target"),
]


def pod(*volumes: dict[str, Any]) -> Document:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "x"}], "volumes": list(volumes)}}  # fmt: skip


def test_a_volume_of_two_sources_is_found() -> None:
    one, other = {"emptyDir": {}}, {"secret": {"secretName": "x"}}
    assert validation.complaints(pod({"name": "a", **one}, {"name": "b", **other})) == []
    assert validation.complaints(pod({"name": "a", **one, **other})) == [
        "Pod x: volume a is both emptyDir and secret"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "found"), ALTERNATIVES, ids=["+".join(n) for n, _ in ALTERNATIVES]
)
def test_components_of_which_one_is_to_be_taken_are_refused_together(
    names: tuple[str, ...], found: str
) -> None:
    rendered = on_base(names)
    wrong = [w for one in rendered for w in validation.complaints(one, oldest=validation.NEWEST)]
    wrong += agreement.scaling(Manifest(rendered))
    assert len(wrong) == 1
    assert found in wrong[0]
