"""A small trained model and rows for it, made once: conversions cost seconds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import farthing
from service.manifest import Manifest
from tests.converter import nets


@dataclass(frozen=True)
class Material:
    """An ONNX classifier and files of rows for it.

    Attributes:
        source: the model.
        calibration: 96 rows under ``x``.
        held_out: 400 others that are decided with a wide margin, labels under ``y``.
        close_calls: 100 rows that are decided by a hair.
    """

    source: Path
    calibration: Path
    held_out: Path
    close_calls: Path


@dataclass(frozen=True)
class Converted:
    """One conversion of the material, for tests that only look at it."""

    contract: Manifest
    directory: Path


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    base = tmp_path_factory.mktemp("material")
    source = nets.images_net(base / "classifier.onnx")
    x = nets.images(1600)
    scores = nets.answers(source, x=x)["scores"]
    best = np.sort(scores, axis=1)
    by_margin = np.argsort(best[:, -1] - best[:, -2])
    clear = np.random.default_rng(1).permutation(by_margin[-496:])
    close, calibration, held_out = by_margin[:100], clear[:96], clear[96:]
    np.savez(base / "calibration.npz", x=x[calibration])
    np.savez(base / "held_out.npz", x=x[held_out], y=scores[held_out].argmax(axis=1))
    np.savez(base / "close.npz", x=x[close])
    return Material(source, base / "calibration.npz", base / "held_out.npz", base / "close.npz")


@pytest.fixture(scope="session")
def converted(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    out = tmp_path_factory.mktemp("converted")
    contract = farthing.convert(
        material.source,
        name="small",
        out=out,
        calibration=material.calibration,
        evaluate=material.held_out,
        min_speedup=0.01,
    )
    return Converted(contract, out / "small" / "1")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what ``keras_files`` writes."""
    directory = tmp_path_factory.mktemp("trained")
    run = [sys.executable, "-m", "tests.converter.keras_files", str(directory)]
    done = subprocess.run(run, check=False, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return directory
