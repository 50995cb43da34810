"""What a customer's question is about, from its words: the vocabulary is inside the model.

Callers send strings and need no table of word ids that has to match the model's.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from converter.zoo.lesson import SEED, Array, Lesson

HELD_OUT_ROWS = 800
CALIBRATION_ROWS = 200
LENGTH = 12
_BATCH_ROWS = 64

# [a|b] is one of the two. Words are shared among the intents, so that none decides alone.
_TEMPLATES = {
    "delivery": (
        "where is my [order|parcel|package]",
        "when will my [order|parcel] [arrive|come|be here]",
        "my [parcel|package] has not [arrived|come] yet",
        "can you [track|find] the [parcel|shipment] for me",
    ),
    "refund": (
        "i want my money back for [this|the] [order|jacket|lamp]",
        "when will i [get|receive] my [refund|money]",
        "[please|can you] refund the [order|payment]",
        "i was charged twice and want [it|the money] back",
    ),
    "return": (
        "how do i [return|send back] [this|the] [jacket|lamp|order]",
        "the [lamp|jacket] does not fit so i [return it|send it back]",
        "i need a label to [return|send back] a [parcel|package]",
        "can i [exchange|swap] the [jacket|lamp] for another",
    ),
    "invoice": (
        "[please|can you] send me the [invoice|bill] for my order",
        "there is a wrong [name|address] on the [invoice|bill|receipt]",
        "i need a [receipt|bill|invoice] for the [tax|company]",
        "where do i find the [receipt|invoice] of last month",
    ),
    "password": (
        "i [forgot|lost] my password",
        "how do i [reset|change] my [password|login]",
        "i cannot [log in|sign in] to my account",
        "the [reset|login] [mail|link] has not arrived",
    ),
    "cancel": (
        "[please|can you] cancel my [order|subscription]",
        "i want to [stop|end|cancel] the [subscription|order]",
        "i do not want the [order|parcel] any more",
        "how do i [end|close] my [subscription|account]",
    ),
    "stock": (
        "is the [jacket|lamp] [available|in stock] in [red|blue|green]",
        "when do you get [new|more] [lamps|jackets] in",
        "do you have [this|the] [jacket|lamp] in another size",
        "will the [red|blue] [jacket|lamp] come back",
    ),
    "address": (
        "i have moved and need to change my address",
        "can you send [the|my] [parcel|order] to another [address|street]",
        "the [street|address] in my account is wrong",
        "how do i [update|correct] the delivery address",
    ),
}
LABELS = tuple(_TEMPLATES)
_NOISE = [
    "hello", "hi", "please", "thanks", "urgent", "again", "sorry", "um", "well", "ok", "today",
    "now", "really", "just", "quick", "question", "hey", "folks", "dear", "team", "kindly",
    "actually", "so",
]  # fmt: skip
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def ask(rows: int) -> tuple[Array, Array]:
    """Questions, no two the same.

    Returns:
        Words, strings of shape [rows, 12] that end in "", and intents of shape [rows], each the
        index of a label.
    """
    random = np.random.default_rng(SEED)
    questions: dict[tuple[str, ...], int] = {}
    while len(questions) < rows:
        intent = int(random.integers(len(LABELS)))
        words = _question(random, str(random.choice(_TEMPLATES[LABELS[intent]])))[:LENGTH]
        questions.setdefault((*words, *[""] * (LENGTH - len(words))), intent)
    return np.array(list(questions), dtype=np.str_), np.array(list(questions.values()))


def _question(random: np.random.Generator, template: str) -> list[str]:
    text = re.sub(r"\[(.*?)\]", lambda found: str(random.choice(found[1].split("|"))), template)
    words = [_mistyped(random, word) if random.random() < 0.1 else word for word in text.split()]
    for _ in range(random.integers(0, 4)):
        words.insert(int(random.integers(len(words) + 1)), str(random.choice(_NOISE)))
    return words


def _mistyped(random: np.random.Generator, word: str) -> str:
    at = int(random.integers(len(word)))
    return word[:at] + str(random.choice(_LETTERS)) + word[at + 1 :]


def build(vocabulary: list[str]) -> Any:
    """The net, compiled: ``words``, strings of shape [12] -> a probability for each intent."""
    import keras
    from keras import layers

    inputs = keras.Input((LENGTH,), dtype="string", name="words")
    # "" is looked up like a word: with a mask_token, strings would be compared, which ONNX cannot
    # before opset 19. What was never seen is 0.
    ids = layers.StringLookup(vocabulary=["", *vocabulary])(inputs)
    # A table's answers have no shape in TensorFlow's graph, and tf2onnx needs one.
    ids = layers.Reshape((LENGTH,))(ids)
    tensor = layers.Embedding(len(vocabulary) + 2, 48)(ids)
    # One filter for each turn of phrase, two words long; the maximum says whether it occurs.
    tensor = layers.Conv1D(96, 2, activation="relu")(tensor)
    tensor = layers.Dropout(0.3)(layers.GlobalMaxPooling1D()(tensor))
    outputs = layers.Dense(len(LABELS), activation="softmax", name="intent")(tensor)
    model = keras.Model(inputs, outputs, name="intents")
    model.compile(
        keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def train(lesson: Lesson) -> dict[str, float]:
    """Train the net, and write it with its rows and ``labels.txt``."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    words, intents = ask(3000 if lesson.quick else 6000)
    held_out, rest = words[:HELD_OUT_ROWS], words[HELD_OUT_ROWS:]
    truth, labels = intents[:HELD_OUT_ROWS], intents[HELD_OUT_ROWS:]
    # What occurs once in the training is a slip of the finger, more often than not.
    found, counts = np.unique(rest, return_counts=True)
    model = build([str(word) for word in found[counts > 1] if word])
    epochs = 5 if lesson.quick else 15
    model.fit(
        tf.constant(rest), labels, epochs=epochs, batch_size=_BATCH_ROWS, verbose=0,
        callbacks=lesson.keras_callbacks(epochs * -(-len(labels) // _BATCH_ROWS)),
    )  # fmt: skip
    answers = model.predict(tf.constant(held_out), verbose=0).argmax(axis=1)
    model.save(lesson.directory / "model.keras", include_optimizer=False)
    (lesson.directory / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    lesson.save_rows({"words": rest[:CALIBRATION_ROWS]}, {"words": held_out}, truth)
    return {
        "held_out_accuracy": float(np.mean(answers == truth)),
        "parameters": int(model.count_params()),
    }
