"""Two towers: who likes what, from embeddings of a user and of an item that meet in one product.

The likes are made up: users and items have a few hidden traits each, an item pleases whoever shares
its traits, and now and then chance decides. The net sees ids only and has to find the traits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.zoo.lesson import SEED, Array, Lesson

HELD_OUT_ROWS = 2000
CALIBRATION_ROWS = 400
USERS, ITEMS = 600, 400
_TRAITS = 4
_BATCH_ROWS = 128

Likes = tuple[dict[str, Array], Array]


def likes() -> tuple[Likes, Likes]:
    """Who was asked about what, and whether they liked it; no pair of the two occurs twice.

    Returns:
        The held-out and all the other pairs, each as ``user`` and ``item`` of shape [rows, 1], and
        labels 0 or 1 of shape [rows].
    """
    random = np.random.default_rng(SEED)
    users = random.normal(size=(USERS, _TRAITS))
    items = random.normal(size=(ITEMS, _TRAITS))
    # A third of all pairs; the others are what such a net is asked about later.
    pairs = random.choice(USERS * ITEMS, size=USERS * ITEMS // 3, replace=False)
    user, item = pairs // ITEMS, pairs % ITEMS
    score = 4 * np.sum(users[user] * items[item], axis=1)
    liked = (random.random(len(pairs)) < 1 / (1 + np.exp(-score))).astype(np.int64)
    rows = {"user": user, "item": item}
    feeds = {name: ids.astype(np.int32)[:, np.newaxis] for name, ids in rows.items()}
    return _cut(feeds, liked, slice(HELD_OUT_ROWS)), _cut(feeds, liked, slice(HELD_OUT_ROWS, None))


def _cut(feeds: dict[str, Array], labels: Array, rows: slice) -> Likes:
    return {name: array[rows] for name, array in feeds.items()}, labels[rows]


def build() -> Any:
    """The net: ``user`` and ``item``, int32 of shape [1] -> the probability of a like."""
    import keras
    from keras import layers

    def tower(name: str, ids: int) -> tuple[Any, Any]:
        given = keras.Input((1,), dtype="int32", name=name)
        # L2 draws towards zero what few rows speak for; it counts the whole table in every batch,
        # and so has to be small.
        embedding = layers.Embedding(
            ids,
            16,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.3),
            embeddings_regularizer=keras.regularizers.L2(1e-6),
        )
        tensor = layers.Flatten()(embedding(given))
        tensor = layers.Dense(32, activation="relu", name=f"{name}_hidden")(tensor)
        return given, layers.Dense(16, name=f"{name}_vector")(tensor)

    user, user_vector = tower("user", USERS)
    item, item_vector = tower("item", ITEMS)
    score = layers.Dot(axes=1)([user_vector, item_vector])
    return keras.Model([user, item], layers.Activation("sigmoid", name="liked")(score))


def train(lesson: Lesson) -> dict[str, float]:
    """Train the net, and write it with its rows."""
    import keras

    keras.utils.set_random_seed(SEED)
    (held_x, held_y), (x, y) = likes()
    model = build()
    # Adagrad keeps a rate for each weight, which stays large for ids that are seldom seen. It
    # divides by the root of the gradients' sum of squares; its usual start at 0.1 is larger than
    # what an embedding's gradients ever sum up to, and nothing would be learned.
    optimizer = keras.optimizers.Adagrad(0.1, initial_accumulator_value=1e-5)
    model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    epochs = 4 if lesson.quick else 15
    model.fit(
        x, y, epochs=epochs, batch_size=_BATCH_ROWS, verbose=0,
        callbacks=lesson.keras_callbacks(epochs * -(-len(y) // _BATCH_ROWS)),
    )  # fmt: skip
    answers = model.predict(held_x, verbose=0)[:, 0] > 0.5
    model.save(lesson.directory / "model.keras", include_optimizer=False)
    calibration, _ = _cut(x, y, slice(CALIBRATION_ROWS))
    lesson.save_rows(calibration, held_x, held_y)
    return {
        "held_out_accuracy": float(np.mean(answers == held_y)),
        "most_frequent_answer": float(max(np.mean(held_y), 1 - np.mean(held_y))),
        "parameters": int(model.count_params()),
    }
