"""The Dockerfile as text: linted, and the promises that need no build to be seen."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service import devices

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = ("convert", "loadtest", "gpu", "cpu")
# What of our packages the images hold, by suffix.
CODE = {".py", ".pyi", ".proto", ".typed", ".yaml", ".html"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, in order; continued lines are one."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            found[arguments.split(" AS ")[1]] = []
        if found:
            found[list(found)[-1]].append((name, arguments))
    return found


def values(name: str) -> list[str]:
    return [arguments for each, arguments in instructions() if each == name]


def context() -> set[str]:
    """The files that .dockerignore lets through, of those that git keeps: the last rule wins."""
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert rules[0] == "*"
    through = set()
    for file in files:
        path = Path(file)
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            heads = [*map(str, path.parents), file] if "**/" not in rule else path.parts
            if any(fnmatch.fnmatchcase(head, pattern) for head in heads):
                (through.add if rule.startswith("!") else through.discard)(file)
    return through


def requirements(*extras: str) -> list[str]:
    command = [sys.executable, str(ROOT / ".ci" / "requirements.py"), *extras]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")[:-1]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-fail", "--format", "json", DOCKERFILE],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM debian:latest\nUSER root\nENTRYPOINT farthing\n")
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, wrong], capture_output=True, text=True, check=False)
    assert {"DL3002", "DL3007", "DL3025"} <= set(re.findall(r"DL\d+", done.stdout))


def test_every_stage_stands_on_one_slim_base_with_a_tag_or_on_another_stage() -> None:
    (base,) = [value for value in values("ARG") if value.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-[a-z]+", base)
    known = {"${BASE}"}
    for image in values("FROM"):
        parent, name = image.split(" AS ")
        assert parent in known
        known.add(name)
    assert not re.search(r":latest|syntax=|--mount|<<", DOCKERFILE.read_text(encoding="utf-8"))


def test_the_targets_are_there_and_the_last_one_serves_on_a_cpu() -> None:
    assert set(TARGETS) <= set(stages())
    assert list(stages())[-1] == "cpu"


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_runs_farthing_itself_as_a_numeric_user(target: str) -> None:
    found = stages()
    assert found[target][0] == ("FROM", f"runtime AS {target}")
    told = dict(found["runtime"] + found[target])
    assert told["USER"] == "10001:10001"
    assert json.loads(told["ENTRYPOINT"]) == ["/opt/farthing/bin/farthing"]
    assert json.loads(told["CMD"])[0] in ("serve", "convert", "load")
    assert told["STOPSIGNAL"] == "SIGTERM"
    assert "ORT_DISABLE_TELEMETRY=1" in dict(found["runtime"])["ENV"]
    assert {name for name, _ in found[target]} <= {
        "FROM", "ENV", "WORKDIR", "COPY", "EXPOSE", "CMD"
    }  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_packages_come_before_our_code(target: str) -> None:
    copied = [arguments.split()[0] for name, arguments in stages()[target] if name == "COPY"]
    assert copied == [f"--from={target}-packages", "--from=code"]
    for name, arguments in stages()[f"{target}-packages"]:
        assert name != "COPY" or "--from=requirements" in arguments


def test_the_version_is_ours() -> None:
    assert f"VERSION={PROJECT['version']}" in values("ARG")
    labels = " ".join(values("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision", "source"):
        assert f"org.opencontainers.image.{label}=" in labels


def test_the_context_is_what_the_images_hold_and_no_more() -> None:
    copied = set()
    for arguments in values("COPY"):
        if "--from" not in arguments:
            copied.update(arguments.split()[:-1])
    inside = context()
    for file in inside:
        covered = {file, *map(str, Path(file).parents)} & copied
        assert covered, f"{file} is sent to the builder, which does not want it"
        assert file in copied or Path(file).suffix in CODE, file
    for name in copied:
        assert any(file == name or file.startswith(f"{name}/") for file in inside), name


def test_what_is_installed_is_what_the_extras_ask_for() -> None:
    extras = PROJECT["optional-dependencies"]
    serving = requirements("cpu", "tracing")
    assert set(serving) == {*PROJECT["dependencies"], *extras["cpu"], *extras["tracing"]}
    assert {*extras["convert"], *extras["keras"][1:]} <= set(requirements("keras"))
    assert not [need for need in requirements(*extras) if need.startswith("farthing")]


def test_serving_images_install_no_framework() -> None:
    (run,) = [value for name, value in stages()["requirements"] if name == "RUN"]
    asked = dict(re.findall(r"requirements\.py ([a-z0-9 ]+) > (\w+)\.txt", run))
    by_target = {target: extras.split() for extras, target in asked.items()}
    assert set(by_target) == set(TARGETS)
    assert by_target["cpu"] == ["cpu", "tracing"]
    assert by_target["gpu"] == ["gpu", "tracing"]


def test_the_gpu_s_image_asks_for_a_gpu_and_leaves_that_to_the_settings_of_others() -> None:
    told = {
        target: dict(
            pair.split("=", 1) for name, value in lines if name == "ENV" for pair in value.split()
        )
        for target, lines in stages().items()
        if target in TARGETS
    }
    settings = {
        target: {n for n in env if n.startswith("FARTHING_")} for target, env in told.items()
    }
    assert settings == {
        "gpu": {"FARTHING_DEVICE"},
        "cpu": set(),
        "convert": set(),
        "loadtest": set(),
    }
    assert devices.asked(told["gpu"]["FARTHING_DEVICE"]).kind == devices.CUDA
    assert told["gpu"]["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def build(
    folder: Path, *, user: int = 0, engine: str = "", **programs: str
) -> subprocess.CompletedProcess[str]:
    """Run .ci/image where only these programs, of which scripts are given, are beside its own."""
    for name in ("bash", "dirname", "sed", "git", "awk", "grep", "head"):
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    for name, script in {"id": f"echo {user}", **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    chosen = {"ENGINE": engine} if engine else {}
    return subprocess.run(
        [ROOT / ".ci" / "image"], env={"PATH": str(folder)} | chosen,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def refusal(folder: Path, *, user: int = 0, engine: str = "", **programs: str) -> str:
    """The one sentence that nothing is built with."""
    done = build(folder, user=user, engine=engine, **programs)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


REFUSED = "echo 'permission denied while trying to connect' >&2; exit 1"
GONE = "echo 'Cannot connect to the Docker daemon.' >&2; exit 1"


@pytest.mark.parametrize("there", [(), ("buildah",), ("debootstrap",)])
def test_who_lacks_a_builder_is_told_in_one_sentence(
    there: tuple[str, ...], tmp_path: Path
) -> None:
    said = refusal(tmp_path, **dict.fromkeys(there, "exit 1"))
    assert said.startswith("neither docker nor podman answers: ")
    assert "`make debian`" in said


def test_who_is_not_root_and_refused_by_docker_is_told_of_its_group(tmp_path: Path) -> None:
    said = refusal(tmp_path, user=1000, docker=REFUSED, buildah="exit 1", debootstrap="exit 1")
    assert said.startswith("docker refuses you: ")
    assert "usermod -aG docker" in said


@pytest.mark.parametrize(
    ("engine", "programs", "sentence"),
    [
        ("docker", {"docker": GONE, "podman": "exit 0"},
         "ENGINE=docker does not answer: Cannot connect to the Docker daemon."),
        ("docker", {"docker": REFUSED},
         "ENGINE=docker does not answer: who builds must be in the group docker"),
        ("podman", {"podman": "exit 1"}, "ENGINE=podman does not answer: `podman info` fails"),
        ("podman", {}, "ENGINE=podman does not answer: it is not on PATH"),
        ("buildah", {"docker": "exit 0"}, "become root and let `make debian` install buildah"),
        ("foo", {}, "there is no engine 'foo': choose docker, podman or buildah"),
    ],
    ids=["gone", "refused", "wordless", "missing", "buildah", "unheard"],
)  # fmt: skip
def test_an_engine_that_was_chosen_and_does_not_answer_is_told_of_and_no_other_taken(
    engine: str, programs: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, engine=engine, **programs).startswith(sentence)


@pytest.mark.parametrize(
    ("environment", "warned"), [("PATH=/bin", True), ("PYTHON_VERSION=3.11.0", False)]
)
def test_a_build_on_a_stand_in_ends_with_what_it_is_good_for(
    environment: str, warned: bool, tmp_path: Path
) -> None:
    buildah = f"""case $1 in inspect) echo '"{environment}"' ;; run) echo 1000000 ;; esac"""
    done = build(tmp_path, engine="buildah", buildah=buildah, debootstrap="exit 1")
    assert (done.returncode, done.stdout) == (0, "farthing:cpu is 1 MB above its base\n")
    assert done.stderr.endswith("for tests, not production\n") == warned
