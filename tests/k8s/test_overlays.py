"""What kubectl renders: every overlay, every component on the base, and many of them together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s import agreement, serving, validation
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import BASE, COMPONENTS, OVERLAYS, ROOT, Document, on_base, overlay, render
from tests.k8s.restricted import breaches

pytestmark = pytest.mark.slow

TOGETHER = [
    ("gpu", "hpa", "models-s3", "secured", "gateway", "monitoring"),
    ("gateway", "secured", "models-image", "keda", "monitoring", "tracing"),
]
CASES = [
    *(pytest.param("overlay", (name,), id=name) for name in OVERLAYS),
    *(pytest.param("components", (name,), id=f"base+{name}") for name in COMPONENTS),
    *(pytest.param("components", names, id="+".join(names)) for names in TOGETHER),
]


def documents(kind: str, names: tuple[str, ...]) -> list[Document]:
    return overlay(*names) if kind == "overlay" else on_base(names)


def manifest(kind: str, names: tuple[str, ...]) -> Manifest:
    """With the base already there, where an overlay stands beside it."""
    rendered = documents(kind, names)
    alone = not any(one["kind"] in ("Deployment", "ServingRuntime")
                    and one["metadata"]["name"] == "farthing" for one in rendered)  # fmt: skip
    return Manifest(rendered, render(BASE) if alone else ())


@pytest.mark.parametrize(("kind", "names"), CASES)
def test_an_api_server_would_take_all_of_it(kind: str, names: tuple[str, ...]) -> None:
    oldest = validation.IMAGE_VOLUMES if "models-image" in names else validation.OLDEST
    found = [
        wrong
        for document in documents(kind, names)
        for wrong in validation.complaints(document, oldest=oldest)
    ]
    assert found == []


@pytest.mark.parametrize(("kind", "names"), CASES)
def test_it_agrees_with_itself_and_with_our_programs(kind: str, names: tuple[str, ...]) -> None:
    asked = manifest(kind, names)
    assert [w for check in (*agreement.CHECKS, *serving.CHECKS) for w in check(asked)] == []


@pytest.mark.parametrize(("kind", "names"), CASES)
def test_its_pods_hold_to_the_restricted_standard(kind: str, names: tuple[str, ...]) -> None:
    assert [w for pod in manifest(kind, names).pods for w in breaches(pod.spec)] == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_changes_the_base(component: str) -> None:
    assert on_base([component]) != on_base([])


def test_each_schema_of_ours_is_of_something_that_is_rendered() -> None:
    kinds = {(one["apiVersion"], one["kind"]) for name in OVERLAYS for one in overlay(name)}
    assert set(validation.own_schemas()) <= kinds


def checked(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.k8s"], cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_make_k8s_check_shows_what_was_rendered() -> None:
    done = checked()
    assert (done.returncode, done.stderr) == (0, "")
    for name in (*OVERLAYS, *COMPONENTS):
        assert re.search(rf" {name} +[0-9]+ +[0-9]+ +[0-9]+$", done.stdout, re.MULTILINE), name
    assert done.stdout.endswith("; 0 complaints\n")


def test_make_k8s_check_without_kubectl_is_one_sentence(tmp_path: Path) -> None:
    done = checked(PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("k8s-check: kubectl 1.27 or later is needed")


def test_what_nobody_knows_is_refused() -> None:
    assert validation.complaints(
        {"apiVersion": "autoscaling/v2beta2", "kind": "HorizontalPodAutoscaler",
         "metadata": {"name": "gone"}, "spec": {}}
    ) != []  # fmt: skip


def test_a_pod_that_may_build_engines_has_half_an_hour_to_start() -> None:
    (pod,) = (one for one in on_base(("gpu",))
              if (one["kind"], one["metadata"]["name"]) == ("Deployment", "farthing"))  # fmt: skip
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 1800 and "grpc" in probe
