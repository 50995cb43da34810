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
from loadtests.plans.scaling import Autoscaler
from loadtests.plans.simulation import Simulated
from service import arguments
from service.bill import Bill
from service.errors import InvalidSetting
from service.pins import pinned
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


def written(
    option: Option, directory: Path, *, base: Path = BASE, autoscaler: Autoscaler = Autoscaler.HPA
) -> dict[str, Any]:
    made = Plan(Asked(demand.steady(300.0), SLO, headroom=0.5), (option,))
    files = overlay.write(made, option, base, directory, autoscaler=autoscaler)
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
    assert "env" not in container
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
        overlay.check(tmp_path)


def told(documents: dict[str, Any]) -> dict[str, str]:
    """What the overlay's ConfigMap says."""
    (generated,) = documents["kustomization.yaml"]["configMapGenerator"]
    assert (generated["name"], generated["behavior"]) == ("farthing", "merge")
    return dict(literal.split("=", 1) for literal in generated["literals"])


def test_the_server_is_told_what_was_planned(tmp_path: Path) -> None:
    environment = told(written(FIXED, tmp_path))
    assert environment == {
        "FARTHING_VARIANT": "net=int8-static",
        "FARTHING_LATENCY_TARGET_MS": "100",
        "FARTHING_PRICE_USD_PER_HOUR": "0.1",
        "FARTHING_PRICE_ID": "2 of 4 CPUs of cloud-small, 2026-11-01",
    }
    settings = arguments.read(["models"], environment)
    assert (settings.latency_target_ms, settings.price_usd_per_hour) == (100, 0.1)
    assert pinned(settings.variant, "net") == "int8-static"
    assert pinned(settings.variant, "other") == "auto"


@pytest.mark.parametrize("late", [0, 1, 2])
def test_what_the_slo_lets_be_late_is_not_refused_where_too_few_would_be_answered(
    tmp_path: Path, late: int
) -> None:
    seen = Observed(1.0, limit_s=SLO.limit_s, offered=1000)
    for number in range(1000):
        seen.sent(0.0)
        seen.answered(0.2 if number < late else 0.01)
    done = Simulated(seen, Bill(), 0.0)
    # Of 1000, 999 must be answered, and ten may be late.
    target = told(written(Option(FIXED.profile, 100.0, 5, done), tmp_path)).get(
        "FARTHING_LATENCY_TARGET_MS"
    )
    assert target == (None if late > 1 else "100")
    said = (tmp_path / "kustomization.yaml").read_text()
    assert ("# Not said: FARTHING_LATENCY_TARGET_MS" in said) == (late > 1)


def own_base(directory: Path) -> Path:
    """A base whose server is told by no generated ConfigMap."""
    (directory / "base").mkdir()
    (directory / "base" / "kustomization.yaml").write_text("resources: [deployment.yaml]\n")
    shutil.copy(BASE / "deployment.yaml", directory / "base")
    return directory / "base"


def test_a_base_without_settings_to_add_to_is_told_in_the_container(tmp_path: Path) -> None:
    documents = written(FIXED, tmp_path / "overlay", base=own_base(tmp_path))
    assert "configMapGenerator" not in documents["kustomization.yaml"]
    (container,) = documents["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "FARTHING_VARIANT", "value": "net=int8-static"} in container["env"]


def test_keda_takes_the_component_beside_the_base(tmp_path: Path) -> None:
    documents = written(followed(FIXED), tmp_path, autoscaler=Autoscaler.KEDA)
    (component,) = documents["kustomization.yaml"]["components"]
    assert (tmp_path / component).resolve() == BASE.parent / "components" / "keda"
    patch = {
        one["path"].removeprefix("/spec/"): one["value"] for one in documents["autoscaler.yaml"]
    }
    assert patch == {
        "minReplicaCount": 2, "maxReplicaCount": 6, "fallback/replicas": 5,
        "triggers/0/metadata/threshold": "0.6",
    }  # fmt: skip


def test_keda_without_its_component_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="no component with a ScaledObject"):
        overlay.check(own_base(tmp_path), Autoscaler.KEDA)


def test_no_autoscaler_is_a_fixed_number(tmp_path: Path) -> None:
    documents = written(followed(FIXED), tmp_path, autoscaler=Autoscaler.NONE)
    assert set(documents) == {"kustomization.yaml", "deployment.yaml"}
    assert documents["deployment.yaml"]["spec"]["replicas"] == 5


@pytest.mark.parametrize(
    ("id", "kind"),
    [("aws-c7i.xlarge", "c7i.xlarge"), ("azure-F4s_v2", "Standard_F4s_v2"),
     ("gcp-n2-standard-4", "n2-standard-4"), ("cloud-small", "")],
)  # fmt: skip
def test_the_machine_that_was_priced_is_a_comment(tmp_path: Path, id: str, kind: str) -> None:
    option = Option(profile(price=price(id)), 100.0, 5, None)
    documents = written(option, tmp_path)
    text = (tmp_path / "deployment.yaml").read_text()
    assert "nodeSelector" not in documents["deployment.yaml"]["spec"]["template"]["spec"]
    assert ("#   nodeSelector:\n#     node.kubernetes.io/instance-type: " in text) == bool(kind)
    assert f"instance-type: {kind}\n" in text or not kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "autoscaler", "kind"),
    [
        (FIXED, Autoscaler.HPA, ""),
        (followed(FIXED), Autoscaler.HPA, "HorizontalPodAutoscaler"),
        (followed(FIXED), Autoscaler.KEDA, "ScaledObject"),
        (followed(FIXED), Autoscaler.NONE, ""),
    ],
    ids=["fixed", "hpa", "keda", "none"],
)
def test_kubectl_renders_it(
    tmp_path: Path, option: Option, autoscaler: Autoscaler, kind: str
) -> None:
    # Copies: kustomize resolves links, and /tmp may be one.
    shutil.copytree(BASE.parent, tmp_path / "k8s")
    made = Plan(Asked(demand.steady(300.0), SLO), (option,))
    base = tmp_path / "k8s" / "base"
    overlay.write(made, option, base, tmp_path / "overlay", autoscaler=autoscaler)
    documents = render(tmp_path / "overlay")
    assert [wrong for one in documents for wrong in complaints(one)] == []
    checks = (*agreement.CHECKS, *serving.CHECKS)
    manifest = Manifest(documents)
    assert [wrong for check in checks for wrong in check(manifest)] == []
    rendered = {one["kind"]: one for one in documents}
    spec = rendered["Deployment"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec.get("replicas") == (None if kind else 5)
    assert {"HorizontalPodAutoscaler", "ScaledObject"} & set(rendered) == (
        {kind} if kind else set()
    )
    if kind == "ScaledObject":
        scaled = rendered[kind]["spec"]
        assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 5)
        assert {one["name"]: one["metadata"]["threshold"] for one in scaled["triggers"]} == {
            "used": "0.6", "wait": "0.25",
        }  # fmt: skip
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert manifest.environment(container)["FARTHING_VARIANT"] == "net=int8-static"
    assert container["args"] == ["serve", "/models"]


@pytest.mark.slow
def test_what_a_user_sets_in_an_overlay_of_his_own_wins(tmp_path: Path) -> None:
    shutil.copytree(BASE.parent, tmp_path / "k8s")
    written(FIXED, tmp_path / "k8s" / "mine", base=tmp_path / "k8s" / "base")
    (tmp_path / "k8s" / "user").mkdir()
    own = {"name": "farthing", "behavior": "merge", "literals": ["FARTHING_VARIANT=auto"]}
    (tmp_path / "k8s" / "user" / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["../mine"], "configMapGenerator": [own]})
    )
    manifest = Manifest(render(tmp_path / "k8s" / "user"))
    ((_, container, settings),) = serving.servers(manifest)
    assert settings.variant == "auto"
    assert settings.latency_target_ms == 100
    assert "env" not in container


def test_a_name_with_control_characters_stays_in_its_comment(tmp_path: Path) -> None:
    named = profile("n\x00\x07\x1b[31mred\n- evil: 1\u2028- more: 2")
    documents = written(Option(named, 100.0, 5, None), tmp_path / "overlay")
    assert documents == written(Option(profile(), 100.0, 5, None), tmp_path / "plain")
    assert "n [31mred - evil: 1 - more: 2" in (tmp_path / "overlay/deployment.yaml").read_text()
