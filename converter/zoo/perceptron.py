"""The classic first net: 784 pixels, 128 hidden units, dropout, 10 digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.zoo import digits
from converter.zoo.lesson import SEED, Array, Lesson

_BATCH_ROWS = 64


def build() -> Any:
    """The net, compiled: rows ``x`` of shape [28, 28] -> ten probabilities."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((28, 28), name="x"),
            layers.Flatten(),
            # L2 keeps the weights small, dropout keeps any one unit from mattering: a thousand
            # scans are few for a hundred thousand weights.
            layers.Dense(128, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-4)),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="perceptron",
    )
    model.compile(
        keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def train(lesson: Lesson) -> dict[str, float]:
    """Train the net, and write it with its rows."""
    import keras

    keras.utils.set_random_seed(SEED)
    return teach(build(), lesson)


def teach(model: Any, lesson: Lesson) -> dict[str, float]:
    """Train a net that ``build`` made, wherever its variables lie, and write it with its rows."""
    split = digits.load()
    (x, y), (calibration, _), (held_x, held_y) = (
        (_resized(images), labels)
        for images, labels in (split.train, split.calibration, split.held_out)
    )
    epochs = 15 if lesson.quick else 30
    callbacks = lesson.keras_callbacks(epochs * -(-len(x) // _BATCH_ROWS))
    model.fit(x, y, epochs=epochs, batch_size=_BATCH_ROWS, verbose=0, callbacks=callbacks)
    answers = model.predict(held_x, verbose=0).argmax(axis=1)
    model.save(lesson.directory / "model.keras", include_optimizer=False)
    lesson.save_rows({"x": calibration}, {"x": held_x}, held_y)
    return {
        "held_out_accuracy": float(np.mean(answers == held_y)),
        "parameters": int(model.count_params()),
    }


def _resized(images: Array) -> Array:
    """From [rows, 32, 32, 1] to [rows, 28, 28]."""
    import keras

    resized = keras.ops.image.resize(images, (28, 28), antialias=True)
    return np.asarray(keras.ops.convert_to_numpy(resized))[..., 0]
