"""Transfer: a net that has learned the digits 0 to 4 learns 5 to 9 from eight scans of each.

First a new head on the frozen net, then all of it with a small rate. The same net learns the same
scans from scratch for as long, and what it reaches is what transfer has to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.zoo import digits
from converter.zoo.lesson import SEED, Array, Lesson

HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200
_ROWS_PER_DIGIT = 8
_DIGITS = 5
_TURNS = range(4)


@dataclass(frozen=True)
class Scans:
    """Rows of shape [32, 32, 1], and their labels.

    Attributes:
        pretraining: digits 0 to 4, each turned four ways, with labels from 0 to 19: five classes
            alone would teach the net no more than what tells these five apart.
        few: digits 5 to 9, eight of each; label 0 is a five.
        calibration: some more of these, without labels.
        held_out: others, with labels.
    """

    pretraining: tuple[Array, Array]
    few: tuple[Array, Array]
    calibration: Array
    held_out: tuple[Array, Array]


def load() -> Scans:
    """All scans, divided by their digit and then from a seed; disjoint and distinct."""
    split = digits.load()
    parts = (split.train, split.calibration, split.held_out)
    x, y = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    low = y < _DIGITS
    others, labels = x[~low], y[~low] - _DIGITS
    rest = slice(HELD_OUT_ROWS + CALIBRATION_ROWS, None)
    first = [np.flatnonzero(labels[rest] == digit)[:_ROWS_PER_DIGIT] for digit in range(_DIGITS)]
    few = np.concatenate(first)
    turned = [(np.rot90(x[low], turns, axes=(1, 2)), y[low] + _DIGITS * turns) for turns in _TURNS]
    return Scans(
        pretraining=(
            np.concatenate([x for x, _ in turned]),
            np.concatenate([y for _, y in turned]),
        ),
        few=(others[rest][few], labels[rest][few]),
        calibration=others[HELD_OUT_ROWS : rest.start],
        held_out=(others[:HELD_OUT_ROWS], labels[:HELD_OUT_ROWS]),
    )


def build_trunk() -> Any:
    """Three blocks of convolutions: scans of shape [32, 32, 1] -> 1,024 features."""
    import keras
    from keras import layers

    inputs = keras.Input((32, 32, 1))
    tensor = inputs
    for channels in (32, 48, 64):
        tensor = layers.Conv2D(channels, 3, padding="same", use_bias=False)(tensor)
        # A short training needs running statistics that forget fast.
        tensor = layers.BatchNormalization(momentum=0.8)(tensor)
        tensor = layers.MaxPooling2D()(layers.ReLU()(tensor))
    # Flattened, not averaged: where a stroke is matters, to digits it has not seen most of all.
    return keras.Model(inputs, layers.Flatten()(tensor), name="trunk")


def with_head(trunk: Any, classes: int = _DIGITS) -> Any:
    """The trunk behind augmentation and in front of a new head."""
    import keras
    from keras import layers

    inputs = keras.Input((32, 32, 1), name="x")
    # Both move a scan a little in training and do nothing at inference, nor in the export.
    tensor = layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=SEED)(inputs)
    tensor = layers.RandomRotation(0.03, fill_mode="constant", seed=SEED)(tensor)
    tensor = layers.Dropout(0.2)(trunk(tensor))
    outputs = layers.Dense(classes, activation="softmax", name="digit")(tensor)
    return keras.Model(inputs, outputs, name="finetuned")


def train(lesson: Lesson) -> dict[str, float]:
    """Pretrain, fine-tune, compare with training from scratch, and write the fine-tuned net."""
    import keras
    from keras.optimizers import SGD, Adam

    keras.utils.set_random_seed(SEED)
    scans = load()
    pretrain, head, all_of_it = (1, 8, 8) if lesson.quick else (4, 15, 15)
    steps = pretrain * _batches(scans.pretraining) + 2 * (head + all_of_it) * _batches(scans.few)
    callbacks = lesson.keras_callbacks(steps)

    trunk = build_trunk()
    pretrained = with_head(trunk, _DIGITS * len(_TURNS))
    _fit(pretrained, scans.pretraining, Adam(1e-3), pretrain, callbacks)
    # Frozen, batch normalization also keeps the statistics it has.
    trunk.trainable = False
    model = with_head(trunk)
    _fit(model, scans.few, Adam(3e-3), head, callbacks)
    head_only = _accuracy(model, scans)
    # What may change is settled when it is compiled, and `_fit` compiles again. The rate is small,
    # for forty scans must not undo what thousands taught.
    unfreeze(trunk)
    _fit(model, scans.few, SGD(2e-3, momentum=0.9), all_of_it, callbacks)

    scratch = with_head(build_trunk())
    _fit(scratch, scans.few, Adam(1e-3), head + all_of_it, callbacks)

    model.save(lesson.directory / "model.keras", include_optimizer=False)
    held_x, held_y = scans.held_out
    lesson.save_rows({"x": scans.calibration}, {"x": held_x}, held_y)
    return {
        "held_out_accuracy": _accuracy(model, scans),
        "head_only_accuracy": head_only,
        "from_scratch_accuracy": _accuracy(scratch, scans),
        "labelled_rows": len(scans.few[1]),
        "parameters": int(model.count_params()),
    }


def unfreeze(trunk: Any) -> None:
    """Let all of it learn but batch normalization: forty scans are too few for its statistics."""
    from keras.layers import BatchNormalization

    trunk.trainable = True
    for layer in trunk.layers:
        layer.trainable = not isinstance(layer, BatchNormalization)


def _batches(rows: tuple[Array, Array]) -> int:
    return -(-len(rows[1]) // _batch_rows(rows))


def _batch_rows(rows: tuple[Array, Array]) -> int:
    """Few rows in small batches, or there would be hardly a step in an epoch."""
    return 32 if len(rows[1]) > 1000 else 8


def _fit(
    model: Any, rows: tuple[Array, Array], optimizer: Any, epochs: int, callbacks: list[Any]
) -> None:
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*rows, epochs=epochs, batch_size=_batch_rows(rows), verbose=0, callbacks=callbacks)


def _accuracy(model: Any, scans: Scans) -> float:
    x, y = scans.held_out
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))
