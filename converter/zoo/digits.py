"""A convolutional net on scikit-learn's 1,797 scanned digits, trained with Keras in a minute.

``python -m converter.zoo.digits DIRECTORY`` writes ``model.keras``, ``calibration.npz`` (rows under
``x``), ``heldout.npz`` (rows under ``x``, labels under ``y``) and ``split.json``. The scans are
upscaled to 32 x 32, so that a row costs the net milliseconds: with a smaller one the network's cost
would hide what a variant saves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.zoo.lesson import SEED, Array, Lesson

HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200
_UPSCALE = 4
_BATCH_ROWS = 16


@dataclass(frozen=True)
class Size:
    """How large a net, and how long it learns."""

    channels: int
    epochs: int


FULL = Size(channels=144, epochs=4)
QUICK = Size(channels=24, epochs=6)


@dataclass(frozen=True)
class Split:
    """Disjoint rows: ``x`` of shape [rows, 32, 32, 1] from 0 to 1, ``y`` of shape [rows]."""

    train: tuple[Array, Array]
    calibration: tuple[Array, Array]
    held_out: tuple[Array, Array]


def load() -> Split:
    """The scans, shuffled from a seed and split; a scan that occurs twice is taken once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    _, first = np.unique(digits.data, axis=0, return_index=True)
    order = np.random.default_rng(SEED).permutation(np.sort(first))
    images = (digits.images[order] / 16.0).astype(np.float32)
    x = images.repeat(_UPSCALE, axis=1).repeat(_UPSCALE, axis=2)[..., np.newaxis]
    y = digits.target[order].astype(np.int64)
    ends = (HELD_OUT_ROWS, HELD_OUT_ROWS + CALIBRATION_ROWS, len(x))
    held_out, calibration, train = (
        (x[start:stop], y[start:stop]) for start, stop in zip((0, *ends), ends, strict=False)
    )
    return Split(train, calibration, held_out)


def build(size: Size) -> Any:
    """The net, compiled for no particular length of training."""
    import keras
    from keras import layers

    def block(tensor: Any, channels: int) -> Any:
        tensor = layers.Conv2D(channels, 3, padding="same", use_bias=False)(tensor)
        # A short training needs running statistics that forget fast.
        tensor = layers.BatchNormalization(momentum=0.8)(tensor)
        return layers.ReLU()(tensor)

    inputs = keras.Input((32, 32, 1), name="x")
    tensor = layers.MaxPooling2D()(block(inputs, 32))
    for _ in range(4):
        tensor = block(tensor, size.channels)
    tensor = layers.MaxPooling2D()(tensor)
    for _ in range(2):
        tensor = block(tensor, size.channels)
    tensor = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(tensor))
    outputs = layers.Dense(10, activation="softmax", name="digit")(tensor)
    return keras.Model(inputs, outputs, name="digits")


def train(lesson: Lesson) -> dict[str, float]:
    """Train the net, and write it with its rows."""
    import keras

    keras.utils.set_random_seed(SEED)
    split, size = load(), QUICK if lesson.quick else FULL
    model = build(size)
    x, y = split.train
    batches = size.epochs * -(-len(x) // _BATCH_ROWS)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, batches)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        x, y, epochs=size.epochs, batch_size=_BATCH_ROWS, verbose=0,
        callbacks=lesson.keras_callbacks(batches),
    )  # fmt: skip
    held_x, held_y = split.held_out
    answers = model.predict(held_x, verbose=0).argmax(axis=1)
    # Without the optimizer, whose state is twice the weights and not part of what is served.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    bare.save(lesson.directory / "model.keras")
    lesson.save_rows({"x": split.calibration[0]}, {"x": held_x}, held_y)
    return {
        "held_out_accuracy": float(np.mean(answers == held_y)),
        "parameters": int(model.count_params()),
    }


def main(argv: list[str] | None = None) -> int:
    """Train, and write the model, its data and what was split how into a directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--quick", action="store_true", help="a small net, for a first look")
    options = parser.parse_args(argv)

    from rich.progress import Progress

    started = time.perf_counter()
    options.directory.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        task = progress.add_task("training a Keras CNN on real digits", total=None)
        lesson = Lesson(
            options.directory,
            quick=options.quick,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
        facts = train(lesson)
    split = load()
    written = facts | {
        "seconds": time.perf_counter() - started,
        "rows": {name: len(getattr(split, name)[0]) for name in _PARTS},
        "sha256": {name: _digest(*getattr(split, name)) for name in _PARTS},
    }
    (options.directory / "split.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    return 0


_PARTS = ("train", "calibration", "held_out")


def _digest(x: Array, y: Array) -> str:
    return hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
