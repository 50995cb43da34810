"""The overlay of a plan changes what the base has, and kubectl renders it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtests.observed import Observed
from loadtests.plans import demand, overlay
from loadtests.plans.autoscaling import Following
from loadtests.plans.capacity import Scaled
from loadtests.plans.plan import Asked, Option, Plan
from loadtests.plans.simulation import Simulated
from service.bill import Bill
from service.errors import InvalidSetting
from tests.k8s import agreement, serving
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import render
from tests.k8s.validation import complaints
from tests.loadtests.profiles import SLO, price, profile

BASE = Path(__file__).parents[2] / "k8s" / "base"
FIXED = Option(profile("net int8", variant="int8-static", cpus=2.0), 100.0, 5, None)


def followed(option: Option) -> Option:
    """The same, with an autoscaler that is cheaper."""
    fleet = Following(((0.0, 2.0), (50.0, 4.0)), 100.0)
    done = Simulated(Observed(100.0), Bill(), 0.0)
    scaled = (Scaled(0.6, 60.0, fleet, done, ""), Scaled(0.7, 70.0, fleet, done, "late"))
    return Option(option.profile, option.rate, option.number, None, scaled=scaled)


def written(option: Option, directory: Path) -> dict[str, Any]:
    made = Plan(Asked(demand.steady(300.0), SLO, headroom=0.5), (option,))
    files = overlay.write(made, option, BASE, directory)
    return {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}


def base_deployment() -> Any:
    return yaml.safe_load((BASE / "deployment.yaml").read_text(encoding="utf-8"))


def test_a_fixed_number_patches_the_deployment_of_the_base(tmp_path: Path) -> None:
    documents = written(FIXED, tmp_path / "overlay")
    assert set(documents) == {"kustomization.yaml", "deployment.yaml"}
    patch, base = documents["deployment.yaml"], base_deployment()
    assert patch["metadata"]["name"] == base["metadata"]["name"]
    assert patch["spec"]["replicas"] == 5
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    (known,) = base["spec"]["template"]["spec"]["containers"]
    assert container["name"] == known["name"]
    assert container["env"] == [{"name": "FARTHING_VARIANT", "value": "int8-static"}]
    assert container["resources"] == {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}


def test_the_overlay_finds_its_base(tmp_path: Path) -> None:
    kustomization = written(FIXED, tmp_path / "overlay")["kustomization.yaml"]
    (base,) = kustomization["resources"]
    assert (tmp_path / "overlay" / base).resolve() == BASE
    assert kustomization["patches"] == [{"path": "deployment.yaml"}]


def test_an_autoscaler_is_written_where_it_is_cheaper_and_replicas_are_left_to_it(
    tmp_path: Path,
) -> None:
    documents = written(followed(FIXED), tmp_path)
    assert documents["deployment.yaml"]["spec"]["replicas"] is None
    assert "autoscaler.yaml" in documents["kustomization.yaml"]["resources"]
    spec = documents["autoscaler.yaml"]["spec"]
    assert spec["scaleTargetRef"]["name"] == base_deployment()["metadata"]["name"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 60


def test_writing_again_leaves_nothing_of_before(tmp_path: Path) -> None:
    written(followed(FIXED), tmp_path)
    written(FIXED, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "deployment.yaml", "kustomization.yaml",
    ]  # fmt: skip


def test_an_accelerator_is_asked_for(tmp_path: Path) -> None:
    gpu = profile(price=price("cloud-gpu", accelerator="T4", accelerators=1))
    patch = written(Option(gpu, 900.0, 1, None), tmp_path)["deployment.yaml"]
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "nvidia.com/gpu": "1"}


def test_somebody_elses_overlay_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\n")
    with pytest.raises(InvalidSetting, match="was not written by"):
        written(FIXED, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kustomization.yaml"]


@pytest.mark.parametrize("text", ["", "resources: [none.yaml]\n", "resources: 5\n", "a: [\n"])
def test_what_is_no_base_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(text)
    with pytest.raises(InvalidSetting, match="no kustomize base with one Deployment"):
        overlay.deployed(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("option", [FIXED, followed(FIXED)], ids=["fixed", "autoscaled"])
def test_kubectl_renders_it(tmp_path: Path, option: Option) -> None:
    shutil.copytree(BASE, tmp_path / "base")  # kustomize resolves links, and /tmp may be one
    made = Plan(Asked(demand.steady(300.0), SLO), (option,))
    overlay.write(made, option, tmp_path / "base", tmp_path / "overlay")
    documents = render(tmp_path / "overlay")
    assert [wrong for one in documents for wrong in complaints(one)] == []
    checks = (*agreement.CHECKS, *serving.CHECKS)
    assert [wrong for check in checks for wrong in check(Manifest(documents))] == []
    rendered = {one["kind"]: one for one in documents}
    spec = rendered["Deployment"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec.get("replicas") == (None if option.scaled else 5)
    assert ("HorizontalPodAutoscaler" in rendered) == bool(option.scaled)
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert {"name": "FARTHING_VARIANT", "value": "int8-static"} in container["env"]
    assert container["args"] == ["serve", "/models"]


def test_a_name_with_control_characters_stays_in_its_comment(tmp_path: Path) -> None:
    named = profile("n\x00\x07\x1b[31mred\n- evil: 1\u2028- more: 2")
    documents = written(Option(named, 100.0, 5, None), tmp_path / "overlay")
    assert documents == written(Option(profile(), 100.0, 5, None), tmp_path / "plain")
    assert "n [31mred - evil: 1 - more: 2" in (tmp_path / "overlay/deployment.yaml").read_text()
