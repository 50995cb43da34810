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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200
_UPSCALE = 4

Array = np.ndarray[Any, Any]


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


def train(split: Split, size: Size, batch_end: Callable[[int, int], None]) -> tuple[Any, float]:
    """Train a net.

    Args:
        split: the data.
        size: how large, how long.
        batch_end: called with batches done and batches in all.

    Returns:
        The model, and its accuracy on the held-out rows.
    """
    import keras

    keras.utils.set_random_seed(SEED)
    model = build(size)
    x, y = split.train
    batch_rows = 16
    batches = size.epochs * -(-len(x) // batch_rows)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, batches)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    done = iter(range(1, batches + 1))
    progress = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs=None: batch_end(next(done), batches)
    )
    model.fit(x, y, epochs=size.epochs, batch_size=batch_rows, verbose=0, callbacks=[progress])
    held_x, held_y = split.held_out
    answers = model.predict(held_x, verbose=0).argmax(axis=1)
    # Without the optimizer, whose state is twice the weights and not part of what is served.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    return bare, float(np.mean(answers == held_y))


def main(argv: list[str] | None = None) -> int:
    """Train, and write the model and its data into a directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--quick", action="store_true", help="a small net, for a first look")
    options = parser.parse_args(argv)

    from rich.progress import Progress

    started = time.perf_counter()
    split = load()
    options.directory.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        task = progress.add_task("training a Keras CNN on real digits", total=None)
        model, accuracy = train(
            split,
            QUICK if options.quick else FULL,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    model.save(options.directory / "model.keras")
    np.savez(options.directory / "calibration.npz", x=split.calibration[0])
    np.savez(options.directory / "heldout.npz", x=split.held_out[0], y=split.held_out[1])
    facts = {
        "held_out_accuracy": accuracy,
        "parameters": int(model.count_params()),
        "seconds": time.perf_counter() - started,
        "rows": {name: len(getattr(split, name)[0]) for name in _PARTS},
        "sha256": {name: _digest(*getattr(split, name)) for name in _PARTS},
    }
    (options.directory / "split.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return 0


_PARTS = ("train", "calibration", "held_out")


def _digest(x: Array, y: Array) -> str:
    return hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
