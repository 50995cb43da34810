"""Rendering where something is odd: a kubectl that is none, and overlays of a user's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s import rendering
from tests.k8s.rendering import K8S, ROOT, CannotRender


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of this name, the only one on PATH, which may be executed."""
    fake = tmp_path / "kubectl"
    fake.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    rendering.kubectl.cache_clear()
    yield fake
    rendering.kubectl.cache_clear()


def test_a_kubectl_that_is_no_program_is_one_sentence(kubectl: Path) -> None:
    kubectl.write_bytes(b"\x00 no program \xff")
    with pytest.raises(CannotRender, match=r"\.27 or later.* cannot be run: Exec format error$"):
        rendering.kubectl()


def test_a_kubectl_that_says_no_text_is_one_sentence(kubectl: Path) -> None:
    kubectl.write_text("#!/bin/sh\nprintf '\\377\\376'\n")
    with pytest.raises(CannotRender, match=r"does not tell its version$"):
        rendering.kubectl()


def test_a_kubectl_that_hangs_is_one_sentence(
    kubectl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl.write_text(f"#!{sys.executable}\nimport threading\nthreading.Event().wait(60)\n")
    monkeypatch.setattr(rendering, "_LONGEST_S", 0.2)
    with pytest.raises(CannotRender, match=r"^\S+kubectl version .* is not done after 0\.2 s$"):
        rendering.kubectl()


@pytest.mark.slow
def test_make_k8s_check_is_of_our_overlays_where_users_have_their_own(tmp_path: Path) -> None:
    for name in ("tests", "service", "loadtests"):
        (tmp_path / name).symlink_to(ROOT / name)
    theirs = shutil.ignore_patterns(*(f"{name}*" for name in rendering.OWN))
    shutil.copytree(K8S, tmp_path / "k8s", ignore=theirs)
    for name in ("user", "mine", "user-loadtest"):
        own = tmp_path / "k8s" / "overlays" / name
        own.mkdir()
        (own / "kustomization.yaml").write_text("resources: [../nowhere]\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.k8s"], cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "overlay cpu" in done.stdout
    assert "user" not in done.stdout
