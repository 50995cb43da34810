"""``zoo:NAME``: a model of the zoo, trained in a process of its own, with its rows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from converter.zoo import ZOO
from service.errors import FarthingError, InvalidSetting

PREFIX = "zoo:"
SHELF = Path("build") / "zoo"


@dataclass(frozen=True)
class Material:
    """What a trainer has left behind.

    Attributes:
        name: of the zoo's entry.
        model: the trained model's file.
        calibration: rows that set ranges.
        held_out: rows that judge, with labels where there are any.
    """

    name: str
    model: Path
    calibration: Path
    held_out: Path


def train(source: str, *, weights: Path | None = None, quick: bool = False) -> Material:
    """Train ``zoo:NAME`` into ``build/zoo/NAME``; its progress goes to standard error.

    Raises:
        InvalidSetting: there is no such model.
        FarthingError: the training failed; it has said why.
    """
    name = source.removeprefix(PREFIX)
    if name not in ZOO:
        raise InvalidSetting(f"the zoo has no '{name}'; it has {', '.join(ZOO)}")
    directory = SHELF / name
    command = [sys.executable, "-m", "converter.zoo", name, str(directory)]
    command += ["--quick"] if quick else []
    command += ["--weights", str(weights)] if weights else []
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise FarthingError(f"training {source} failed; `{' '.join(command)}` shows it")
    return Material(
        name,
        directory / ZOO[name].file,
        directory / "calibration.npz",
        directory / "heldout.npz",
    )
