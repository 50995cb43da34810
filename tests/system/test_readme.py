"""What README shows is run: its commands in their order, its Python as it stands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.plans import overlay
from loadtests.plans.demand import steady
from loadtests.plans.plan import Asked, Option, Plan
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.k8s import agreement
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import BASE, K8S, render, unrendered
from tests.k8s.validation import complaints
from tests.loadtests.profiles import SLO, profile
from tests.system.conftest import Digits
from tests.system.servers import farthing, serving

# What measures is run shortly here.
MEASURING = {
    "slo": ["--budget-s", "15"],
    "load": ["--seconds", "1"],
    "report": [],
    "compare": [],
    "plan": [],
}
ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_every_command_is_a_make_verb_or_a_verb_of_farthing() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands():
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE), command
        elif command[0] == ".venv/bin/python":
            assert command[1:3] == ["-m", "loadtests.swarm"], command
        elif command[0] == "kubectl":
            assert kubectl(command[1:]) == "", command
        else:
            assert command[0] == ".venv/bin/farthing", command
            assert f"\n  {command[1]} " in farthing("--help").stdout, command


def planned() -> Path:
    """The directory that README's plan writes."""
    (directory,) = [command[-1] for command in commands() if command[-2] == "--write-patch"]
    return Path(directory)


def kubectl(arguments: list[str]) -> str:
    """Why one of README's kubectl commands can't be right; empty if it may be."""
    words = [word for word in arguments if not word.startswith("--")]
    pods = [pod for path in K8S.glob("overlays/*") for pod in Manifest(unrendered(path)).pods]
    owners = {pod.owner for pod in pods} | {pod.owner for pod in Manifest(unrendered(BASE)).pods}
    match words:
        case ["apply" | "delete", "-k", directory]:
            known = (ROOT / directory / "kustomization.yaml").exists()
            return "" if known or Path(directory) == planned() else f"{directory} is nowhere"
        case ["rollout", "undo" | "status" | "restart", name] | ["logs", name]:
            kind, _, name = name.partition("/")
            return "" if f"{kind.capitalize()} {name}" in owners else f"{kind} {name} is nowhere"
        case ["cp", source, target]:
            pod, _, path = target.partition(":")
            mounts = [m["mountPath"] for p in pods if p.owner == f"Pod {pod}"
                      for c in p.containers for m in c["volumeMounts"]]  # fmt: skip
            return "" if path in mounts and source == "models/." else f"{target} is nowhere"
    return "no test knows what this does"


@pytest.mark.parametrize(
    "wrong",
    [
        "apply -k k8s/overlays/none", "apply -f k8s/base", "rollout undo deployment/other",
        "logs job/other", "cp models/. farthing-models:/other", "get pods",
    ],
)  # fmt: skip
def test_a_kubectl_command_that_names_nothing_is_seen(wrong: str) -> None:
    assert kubectl(wrong.split())


@pytest.mark.slow
def test_what_kubectl_applies_is_rendered(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    option = Option(profile("net int8", variant="int8-static", cpus=2.0), 100.0, 5, None)
    made = Plan(Asked(steady(300.0), SLO), (option,))
    overlay.write(made, option, tmp_path / "k8s" / "base", tmp_path / planned())
    (own,) = blocks("yaml")
    (user,) = re.findall(r"`(k8s/overlays/user)/kustomization.yaml`", README)
    (tmp_path / user).mkdir()
    (tmp_path / user / "kustomization.yaml").write_text(own)
    applied = [command[-1] for command in commands() if command[:3] == ["kubectl", "apply", "-k"]]
    assert len(applied) >= 3
    for directory in [*applied, user]:
        documents = render(tmp_path / directory)
        assert [wrong for one in documents for wrong in complaints(one)] == []
    manifest = Manifest(documents)
    assert [wrong for wrong in agreement.references(manifest) if "ConfigMap" in wrong] == []
    (server,) = manifest.all("Deployment")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("team/farthing:")
    assert server["spec"]["replicas"] == 5
    assert manifest.environment(container)["FARTHING_LATENCY_TARGET_MS"] == "100"
    (models,) = server["spec"]["template"]["spec"]["initContainers"]
    assert manifest.environment(models)["MODELS_URI"] == "s3://bucket/models"


def test_the_commands_work_in_their_order(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.keras", "calibration.npz", "heldout.npz"):
        shutil.copyfile(digits.data / name, tmp_path / name)
    shutil.copytree(K8S, tmp_path / "k8s")
    monkeypatch.chdir(tmp_path)
    # What stands there twice, for whoever reads only a part, is run once.
    ours = (tuple(command[1:]) for command in commands() if command[0] == ".venv/bin/farthing")
    verbs = [list(verb) for verb in dict.fromkeys(ours)]
    (convert,) = [verb for verb in verbs if verb[0] == "convert" and "--help" not in verb]
    assert farthing(*convert).returncode == 0
    for verb in (verb for verb in verbs if verb[0] in ("inspect", "doctor") or "--help" in verb):
        assert farthing(*verb).returncode == 0, verb
    for verb in (verb for verb in verbs if verb[0] == "tune" and "--help" not in verb):
        done = farthing(*verb, "--budget-s", "2")  # the last one counts
        assert done.returncode == 0, done.stderr
    # With ports of their own: the defaults may be taken where the tests run.
    with serving(Path("models"), log=tmp_path / "serve.log") as server:
        there = {
            "127.0.0.1:8001": server.grpc,
            "http://127.0.0.1:8002/metrics": server.metrics,
        }
        for verb in (verb for verb in verbs if verb[0] in MEASURING and "--help" not in verb):
            options = [there.get(word, word) for word in verb]
            options += MEASURING[verb[0]] if not set(MEASURING[verb[0]]) & set(verb) else []
            done = farthing(*options, timeout_s=120)
            # A machine that is busy with other tests may measure nothing that holds, or is void.
            allowed = (0, 1) if verb[0] in ("slo", "load") else (0, 1, 2)
            assert done.returncode in allowed, done.stderr
            assert "Traceback" not in done.stderr
            if verb[0] == "slo":
                assert Path(verb[-1]).exists()
            if verb[0] == "plan" and "--write-patch" in verb and done.returncode == 0:
                assert (planned() / "kustomization.yaml").exists()
        (swarm,) = [command for command in commands() if command[0] == ".venv/bin/python"]
        done = subprocess.run(
            [sys.executable, *(there.get(word, word) for word in swarm[1:])],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert json.loads(Path(swarm[-1]).read_text())["observed"]["offered"] > 400


def test_serve_takes_the_options_that_are_shown(tmp_path: Path) -> None:
    for verb in (command[1:] for command in commands() if command[1] == "serve"):
        done = subprocess.run(
            [sys.executable, "-m", "farthing", *verb],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.stderr.startswith(f"farthing: {verb[1]} does not exist") or "--help" in verb


def test_the_python_runs_as_it_stands(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(digits.data / "model.keras", tmp_path / "model.keras")
    with (
        np.load(digits.data / "heldout.npz") as held,
        np.load(digits.data / "calibration.npz") as calibration,
    ):
        names = {"train_x": calibration["x"], "test_x": held["x"], "test_y": held["y"]}
    shutil.copytree(K8S, tmp_path / "k8s")
    samples, convert, call, cluster = blocks("python")
    exec(samples, dict(names))
    exec(convert, {})
    with serving(Path("models")) as server:
        exec(call.replace("127.0.0.1:8001", server.grpc), {})
        found: dict[str, Any] = {}
        exec(cluster.replace("dns:///farthing-headless:8001", f"ipv4:{server.grpc}"), found)
        with found["channel"] as channel:
            metadata = GRPCInferenceServiceStub(channel).ServerMetadata(
                pb.ServerMetadataRequest(), timeout=20
            )
        assert metadata.name == "farthing"
