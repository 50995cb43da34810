"""What kustomize makes of k8s/: each overlay, and each component on the base."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

Document = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
BASE = K8S / "base"
# What users write beside ours, as the pages tell them to, and git ignores: such names.
OWN = ("user", "mine")
OVERLAYS = sorted(
    path.parent.name
    for path in K8S.glob("overlays/*/kustomization.yaml")
    if not path.parent.name.startswith(OWN)
)
COMPONENTS = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
_OLDEST = (1, 27)
_NEEDED = "kubectl 1.27 or later is needed on PATH to render k8s/"
_LONGEST_S = 60.0


class CannotRender(Exception):
    """One sentence that says what to mend."""


@cache
def kubectl() -> str:
    """Where it is.

    Raises:
        CannotRender: it is missing, too old, or no program.
    """
    found = shutil.which("kubectl")
    if not found:
        raise CannotRender(f"{_NEEDED}, and there is none")
    done = _answer([found, "version", "--client", "-o", "json"])
    try:
        client = json.loads(done.stdout)["clientVersion"]
        version = int(client["major"]), int(client["minor"].rstrip("+"))
    except (ValueError, LookupError, TypeError):
        raise CannotRender(f"{_NEEDED}; {found} does not tell its version") from None
    if version < _OLDEST:
        raise CannotRender(f"{_NEEDED}; {found} is {'.'.join(map(str, version))}")
    return found


def _answer(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False,
            timeout=_LONGEST_S,
        )  # fmt: skip
    except OSError as error:
        raise CannotRender(f"{_NEEDED}; {command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CannotRender(f"{' '.join(command)} is not done after {_LONGEST_S:g} s") from None


def render(directory: Path) -> list[Document]:
    """The documents of a kustomization.

    Raises:
        CannotRender: kubectl is missing, or refuses it.
    """
    done = _answer([kubectl(), "kustomize", str(directory)])
    # What is deprecated is rendered all the same, with a warning.
    if done.returncode or done.stderr:
        raise CannotRender(f"kubectl kustomize {directory}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@cache
def _overlay(name: str) -> str:
    return yaml.safe_dump_all(render(K8S / "overlays" / name))


def overlay(name: str) -> list[Document]:
    """The documents of an overlay; the caller's own, to change as it likes."""
    return list(yaml.safe_load_all(_overlay(name)))


@cache
def _together(components: tuple[str, ...]) -> str:
    with TemporaryDirectory() as scratch:
        # A copy, since kustomize takes relative paths only, and resolves links in them.
        theirs = shutil.ignore_patterns(*(f"{name}*" for name in OWN))
        shutil.copytree(K8S, Path(scratch) / "k8s", ignore=theirs)
        user = Path(scratch) / "k8s" / "overlays" / "user"
        user.mkdir()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../../base"],
            "components": [f"../../components/{name}" for name in components],
        }
        (user / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return yaml.safe_dump_all(render(user))


def on_base(components: Sequence[str]) -> list[Document]:
    """The documents of the base with these components, in an overlay as a user writes it."""
    return list(yaml.safe_load_all(_together(tuple(components))))


@cache
def _parsed(text: str) -> list[Document]:
    return list(yaml.safe_load_all(text))


def unrendered(directory: Path) -> list[Document]:
    """The documents of a kustomization's own files and generators, without kubectl.

    Without what kustomize does to them: generated names have no hashes, images no tags.
    """
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text(encoding="utf-8"))
    documents = [
        document
        for name in kustomization.get("resources", ())
        if (directory / name).is_file()
        for document in deepcopy(_parsed((directory / name).read_text(encoding="utf-8")))
    ]
    for generated in kustomization.get("configMapGenerator", ()):
        data = dict(literal.split("=", 1) for literal in generated.get("literals", ()))
        for name in generated.get("files", ()):
            data[name] = (directory / name).read_text(encoding="utf-8")
        metadata: Document = {"name": generated["name"]}
        if "labels" in generated.get("options", {}):
            metadata["labels"] = generated["options"]["labels"]
        documents.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        )
    return documents
