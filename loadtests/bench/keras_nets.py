"""``python -m loadtests.bench.keras_nets NAME DIRECTORY``: large Keras nets with random weights.

Their decisions mean nothing, so they are for timing; ``calibration.npz`` and ``heldout.npz`` hold
random rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SIDE = 224


def main(name: str, directory: str) -> None:
    """Write ``NAME.keras`` and rows for it."""
    import keras

    keras.utils.set_random_seed(0)
    net = {"resnet50": keras.applications.ResNet50, "mobilenetv2": keras.applications.MobileNetV2}
    model = net[name](weights=None, input_shape=(SIDE, SIDE, 3))
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    model.save(target / f"{name}.keras")
    random = np.random.default_rng(0)
    for part, rows in (("calibration", 32), ("heldout", 32)):
        x = random.random((rows, SIDE, SIDE, 3), np.float32)
        np.savez(target / f"{part}.npz", x=x)


if __name__ == "__main__":
    main(*sys.argv[1:])
