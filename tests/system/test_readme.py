"""What README shows is run: its commands in their order, its Python as it stands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.k8s.commands import wrong
from tests.k8s.pages import README, blocks, commands
from tests.k8s.rendering import K8S, ROOT
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


def test_every_command_is_a_make_verb_or_a_verb_of_farthing() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(README):
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE), command
        elif command[0] == ".venv/bin/python":
            assert command[1:3] == ["-m", "loadtests.swarm"], command
        elif command[0] == "kubectl":
            assert wrong(command[1:]) == "", command
        else:
            assert command[0] == ".venv/bin/farthing", command
            assert f"\n  {command[1]} " in farthing("--help").stdout, command


def planned() -> Path:
    """The directory that README's plan writes."""
    (directory,) = [command[-1] for command in commands(README) if command[-2] == "--write-patch"]
    return Path(directory)


def test_ten_commands_lead_from_a_model_to_a_deployment() -> None:
    (ten,) = [block for block in blocks(README, "sh") if "--write-patch" in block]
    assert len(ten.splitlines()) == 10
    assert [line.split()[1] for line in ten.splitlines()][-4:] == ["apply", "wait", "cp", "apply"]


def test_the_commands_work_in_their_order(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.keras", "calibration.npz", "heldout.npz"):
        shutil.copyfile(digits.data / name, tmp_path / name)
    shutil.copytree(K8S, tmp_path / "k8s")
    monkeypatch.chdir(tmp_path)
    # What stands there twice, for whoever reads only a part, is run once.
    ours = (
        tuple(command[1:]) for command in commands(README) if command[0] == ".venv/bin/farthing"
    )
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
        (swarm,) = [command for command in commands(README) if command[0] == ".venv/bin/python"]
        done = subprocess.run(
            [sys.executable, *(there.get(word, word) for word in swarm[1:])],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert json.loads(Path(swarm[-1]).read_text())["observed"]["offered"] > 400


def test_serve_takes_the_options_that_are_shown(tmp_path: Path) -> None:
    for verb in (command[1:] for command in commands(README) if command[1] == "serve"):
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
    samples, convert, call = blocks(README, "python")
    exec(samples, dict(names))
    exec(convert, {})
    with serving(Path("models")) as server:
        exec(call.replace("127.0.0.1:8001", server.grpc), {})
