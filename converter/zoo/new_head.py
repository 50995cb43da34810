"""A network of ``keras.applications``, kept as it is, behind a new head for scanned digits.

The costly part, the network, runs over every picture once; the head is then fitted to what came
out of it, which takes seconds. Without pretrained weights the network is random, and a random one
is good enough for digits once it is set up as ``_settle`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converter.zoo import digits
from converter.zoo.lesson import SEED, Array, Lesson

# 0 to 4: with all ten, features nobody trained decide too narrowly to bear an int8 variant.
DIGITS = 5
_BATCH_ROWS = 16
_SETTLING_BATCHES = 6


@dataclass(frozen=True)
class Size:
    """How large the pictures are, and how many of them there are."""

    side: int
    train: int
    calibration: int
    held_out: int


FULL = Size(side=224, train=288, calibration=64, held_out=128)
QUICK = Size(side=96, train=192, calibration=32, held_out=64)


@dataclass(frozen=True)
class Pictures:
    """Float32 [rows, side, side, 3], as the network wants them, and labels [rows]."""

    x: Array
    y: Array


def train(
    lesson: Lesson, network: Callable[..., Any], preprocess: Callable[[Array], Array]
) -> dict[str, float]:
    """Fit a new head; it writes ``model.keras`` and its rows, and returns the facts.

    Args:
        lesson: its ``weights``, where given, are the network's own, without their head.
        network: such as ``keras.applications.ResNet50``.
        preprocess: what the network wants done to pixels from 0 to 255.
    """
    import keras

    keras.utils.set_random_seed(SEED)
    size, split = QUICK if lesson.quick else FULL, digits.load()
    seen, calibration, held_out = (
        _pictures(scans, rows, size.side, preprocess)
        for scans, rows in (
            (split.train, size.train),
            (split.calibration, size.calibration),
            (split.held_out, size.held_out),
        )
    )
    inputs = keras.Input((size.side, size.side, 3), name="x")
    weights = None if lesson.weights is None else str(lesson.weights)
    base = network(include_top=False, weights=weights, input_tensor=inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    body = keras.Model(inputs, pooled)
    if weights is None:
        _settle(body, seen.x)
    base.trainable = False

    head = _head()
    _fit(head, body, seen, lesson)
    answers = head.predict(body.predict(held_out.x, _BATCH_ROWS, verbose=0), verbose=0)
    outputs = pooled
    for layer in head.layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs, name=base.name)
    model.save(lesson.directory / "model.keras")
    lesson.save_rows({"x": calibration.x}, {"x": held_out.x}, held_out.y)
    return {
        "held_out_accuracy": float(np.mean(answers.argmax(axis=1) == held_out.y)),
        "parameters": int(model.count_params()),
        "trained_parameters": int(head.count_params()),
    }


def _pictures(
    scans: tuple[Array, Array], rows: int, side: int, preprocess: Callable[[Array], Array]
) -> Pictures:
    from keras import ops

    x, y = scans
    kept = np.flatnonzero(y < DIGITS)[:rows]
    # Of the 8 x 8 pixels there are: interpolating those already enlarged leaves steps.
    pixels = x[kept, ::4, ::4] * 255
    smooth = ops.convert_to_numpy(ops.image.resize(pixels, (side, side)))
    return Pictures(preprocess(np.repeat(smooth, 3, axis=-1)), y[kept])


def _settle(body: Any, x: Array) -> None:
    """Make a random network one whose answers depend on the picture in a way that can be learned.

    Its batch normalizations still believe in a mean of 0 and a variance of 1, which no layer has:
    run as for inference, the network would give the same answer to everything. So they measure both
    on some batches, of which they keep the plain average.

    They also start without an offset, so that each ReLU cuts off half of what it gets. Fifty such
    layers are chaos: two scans of one digit come out as unlike as any two. An offset of 1.5
    standard deviations lets most of it through; on ten digits it took the head from 40 % right to
    96 %.
    """
    from keras import layers

    norms = [layer for layer in body.layers if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        norm.beta.assign(np.full(norm.beta.shape, 1.5, dtype=np.float32))
    for batch in range(_SETTLING_BATCHES):
        for norm in norms:
            norm.momentum = batch / (batch + 1)
        body(x[batch * _BATCH_ROWS :][:_BATCH_ROWS], training=True)


def _head() -> Any:
    import keras
    from keras import layers

    return keras.Sequential([
        # What a network gives has scales of its own; few rows, so it must forget fast.
        layers.BatchNormalization(momentum=0.8),
        layers.Dropout(0.3),
        layers.Dense(
            DIGITS, "softmax", kernel_regularizer=keras.regularizers.L2(1e-3), name="digit"
        ),
    ])  # fmt: skip


def _fit(head: Any, body: Any, seen: Pictures, lesson: Lesson) -> None:
    import keras

    starts = range(0, len(seen.x), _BATCH_ROWS)
    epochs, before = 20, len(starts)
    batches = epochs * len(starts)
    parts = []
    for done, start in enumerate(starts, 1):
        parts.append(body.predict_on_batch(seen.x[start : start + _BATCH_ROWS]))
        lesson.progress(done, before + batches)
    rest = replace(
        lesson, progress=lambda done, _: lesson.progress(before + done, before + batches)
    )
    rate = keras.optimizers.schedules.CosineDecay(2e-3, batches)
    head.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    head.fit(
        np.concatenate(parts), seen.y, epochs=epochs, batch_size=_BATCH_ROWS, verbose=0,
        callbacks=rest.keras_callbacks(batches),
    )  # fmt: skip
