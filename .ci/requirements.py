"""Prints what farthing and these extras of it need, one requirement a line.

The Dockerfile installs this list before it copies our code, so that a change of ours downloads
nothing. Runs on a bare Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

_OURS = re.compile(r"farthing\[(.+)\]")


def requirements(project: dict[str, list[str] | dict[str, list[str]]], extra: str) -> Iterator[str]:
    """What an extra asks for, where it names other extras of ours with what those ask for."""
    for need in project["optional-dependencies"][extra]:
        ours = _OURS.fullmatch(need)
        if ours is None:
            yield need
        else:
            for other in ours[1].split(","):
                yield from requirements(project, other)


if __name__ == "__main__":
    told = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [need for extra in sys.argv[1:] for need in requirements(told, extra)]
    print(*sorted({*told["dependencies"], *wanted}), sep="\n")
