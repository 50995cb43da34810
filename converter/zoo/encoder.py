"""A BERT-style encoder in Keras that says which topic a text is about.

4 layers, 256 wide, 4 heads, feed-forward 1,024 with exact GELU, normalized after each residual sum
as in BERT (Devlin et al. 2018). Built-in layers and ``keras.ops`` only, so that the file loads
where this module is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.zoo import texts
from converter.zoo.lesson import SEED, Lesson

HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200


@dataclass(frozen=True)
class Size:
    """How large an encoder, and how much it reads."""

    layers: int
    width: int
    heads: int
    rows: int
    epochs: int
    rate: float


FULL = Size(layers=4, width=256, heads=4, rows=1280, epochs=1, rate=5e-4)
QUICK = Size(layers=2, width=64, heads=2, rows=900, epochs=2, rate=2e-3)


def build(size: Size) -> Any:
    """The net: ``ids`` int32 [batch, 128], padded with 0 -> probabilities [batch, topics]."""
    import keras
    from keras import layers, ops

    ids = keras.Input((texts.LENGTH,), dtype="int32", name="ids")
    real = ops.not_equal(ids, texts.PADDING)
    # Counting words numbers them, without a constant that a saved graph cannot hold.
    positions = ops.cumsum(ops.cast(real, "int32"), axis=1)
    tensor = layers.Embedding(texts.VOCABULARY, size.width)(ids)
    tensor += layers.Embedding(texts.LENGTH + 1, size.width)(positions)
    tensor = layers.Dropout(0.1)(layers.LayerNormalization(epsilon=1e-6)(tensor))
    for _ in range(size.layers):
        tensor = _layer(tensor, ops.expand_dims(real, 1), size)
    tensor = layers.GlobalAveragePooling1D()(tensor, mask=real)
    outputs = layers.Dense(texts.TOPICS, activation="softmax", name="topic")(tensor)
    return keras.Model(ids, outputs, name="encoder")


def _layer(tensor: Any, mask: Any, size: Size) -> Any:
    from keras import layers

    attention = layers.MultiHeadAttention(size.heads, size.width // size.heads)
    seen = layers.Dropout(0.1)(attention(tensor, tensor, attention_mask=mask))
    tensor = layers.LayerNormalization(epsilon=1e-6)(tensor + seen)
    # Keras' "gelu" is the exact one, by the error function.
    thought = layers.Dense(4 * size.width, activation="gelu")(tensor)
    thought = layers.Dropout(0.1)(layers.Dense(size.width)(thought))
    return layers.LayerNormalization(epsilon=1e-6)(tensor + thought)


def train(lesson: Lesson) -> dict[str, float]:
    """Train the encoder; it writes ``model.keras`` and its rows, and returns the facts."""
    import keras

    keras.utils.set_random_seed(SEED)
    size = QUICK if lesson.quick else FULL
    kept = HELD_OUT_ROWS + CALIBRATION_ROWS
    ids, topics = texts.write(kept + size.rows, SEED)
    ids = ids.astype(np.int32)
    model = build(size)
    batch_rows = 8
    batches = size.epochs * -(-size.rows // batch_rows)
    # Attention diverges at full rate from the start: a straight way up, then down along a cosine.
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, batches - batches // 10, warmup_target=size.rate, warmup_steps=batches // 10
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01), loss="sparse_categorical_crossentropy"
    )
    model.fit(
        ids[kept:],
        topics[kept:],
        epochs=size.epochs,
        batch_size=batch_rows,
        verbose=0,
        callbacks=lesson.keras_callbacks(batches),
    )
    held_ids, held_topics = ids[:HELD_OUT_ROWS], topics[:HELD_OUT_ROWS]
    answers = model.predict(held_ids, verbose=0).argmax(axis=1)
    lesson.save_rows({"ids": ids[HELD_OUT_ROWS:kept]}, {"ids": held_ids}, held_topics)
    # Without the optimizer, whose state is twice the weights (include_optimizer=False keeps it).
    keras.Model(model.inputs, model.outputs, name=model.name).save(lesson.directory / "model.keras")
    return {
        "held_out_accuracy": float(np.mean(answers == held_topics)),
        "parameters": float(model.count_params()),
    }
