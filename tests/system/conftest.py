"""One trained and converted digits net for all tests of this folder that need a real one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.system.servers import farthing

KERAS_LABELS = (
    "import sys, numpy, keras\n"
    "rows = numpy.load(sys.argv[2])['x']\n"
    "model = keras.models.load_model(sys.argv[1])\n"
    "numpy.save(sys.argv[3], model.predict(rows, verbose=0).argmax(axis=1))\n"
)


@dataclass(frozen=True)
class Digits:
    """Where the net, its rows and its repository lie, and what Keras answers."""

    data: Path
    repository: Path
    keras_labels: np.ndarray


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    root = tmp_path_factory.mktemp("digits")
    data, repository = root / "data", root / "models"
    run = [sys.executable, "-m", "converter.zoo.digits", str(data), "--quick"]
    subprocess.run(run, check=True, capture_output=True, timeout=240)
    # A quick net is small, and what int8 gains on it varies: speed is not what is tested here.
    done = farthing(
        "convert", str(data / "model.keras"), "--name", "digits", "--out", str(repository),
        "--calibration", str(data / "calibration.npz"), "--evaluate", str(data / "heldout.npz"),
        "--min-speedup", "0.01",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    paths = [str(data / "model.keras"), str(data / "heldout.npz"), str(root / "labels.npy")]
    subprocess.run(
        [sys.executable, "-c", KERAS_LABELS, *paths], check=True, capture_output=True, timeout=120
    )
    return Digits(data, repository, np.load(root / "labels.npy"))
