"""What a page shows: commands, code, and kustomizations that its readers write."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.rendering import ROOT

README = ROOT / "README.md"
HANDBOOK = ROOT / "k8s" / "README.md"


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The commands of blocks of `sh`, without comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def kustomizations(page: Path) -> dict[str, str]:
    """Where a reader writes a kustomization -> what; its first line says where."""
    heads = (re.match(r"# (k8s/\S+)\n", block) for block in blocks(page, "yaml"))
    return {head[1]: head.string for head in heads if head}


def cells(page: Path) -> list[str]:
    """Code in the second cells of tables with two."""
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]+\| (`.*) \|$", text, re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def into(page: Path) -> list[dict[str, Any]]:
    """What a reader may put into a kustomization: patches one by one, and cells of tables."""
    patches = [
        {"patches": [patch]}
        for block in blocks(page, "yaml")
        if block.startswith("# into ")
        for patch in yaml.safe_load(block)["patches"]
    ]
    said = [cell for cell in cells(page) if re.match(r"[a-zA-Z]+: ", cell)]
    return [yaml.safe_load(cell) for cell in said] + patches
