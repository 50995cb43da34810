"""A text CNN that says whether a review is good or bad.

The reviews are made up from templates. Single words decide little: praise is negated ("nothing
about it is great"), blame is denied ("it never stalled"), and others' opinions are quoted only to
be contradicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.zoo.lesson import SEED, Array, Lesson

HELD_OUT_ROWS = 1000
CALIBRATION_ROWS = 200
LENGTH = 64
VOCABULARY = 1500
_BATCH_ROWS = 64

_THINGS = [
    "kettle", "lamp", "drill", "tent", "printer", "speaker", "blender", "backpack", "heater",
    "keyboard", "chair", "mower", "camera", "toaster", "router", "bicycle", "mattress",
    "jacket", "monitor", "vacuum", "grill", "clock", "scooter", "radio",
]  # fmt: skip
_PARTS = [
    "handle", "battery", "lid", "finish", "sound", "screen", "strap", "motor", "manual",
    "hinge", "button", "cable", "zip", "packaging", "switch", "fabric", "display", "charger",
    "wheel", "delivery", "smell", "colour", "weight", "price",
]  # fmt: skip
_PRAISE = [
    "great", "excellent", "sturdy", "lovely", "reliable", "superb", "handy", "flawless",
    "quiet", "comfortable", "precise", "elegant", "delightful", "solid", "brilliant", "smooth",
]  # fmt: skip
_BLAME = [
    "awful", "flimsy", "useless", "noisy", "broken", "terrible", "shabby", "unreliable",
    "dreadful", "clumsy", "crooked", "rough", "disappointing", "leaky", "sticky", "poor",
]  # fmt: skip
_SAY = (
    "the {part} is {a}",
    "i find the {part} really {a}",
    "it turned out {a} and {b}",
    "what a {a} {thing}",
    "everyone here calls it {a}",
    "after {number} weeks it is still {a}",
    "the {part} feels {a} and the {part2} {b}",
)
_DENY = (
    "the {part} is not {a} at all",
    "nothing about the {part} is {a}",
    "i would never call it {a}",
    "it is hardly {a}",
    "my friends said it is {a} but they are wrong",
    "the advert promised something {a} and that is simply not true",
    "nobody could say that the {part} looks {a}",
)
_FILLER = (
    "i bought this {thing} in {town}",
    "it came from {town} after {number} days",
    "my cousin in {town} has the same {thing}",
    "the model is called {town} {number}",
    "we use it in the garden and on trips to {town}",
    "it replaced an old {thing} by {town}",
)
_SYLLABLES = [
    "ba", "den", "fro", "gil", "har", "ka", "lun", "mor", "ne", "pil", "ros", "sta", "tor",
    "ul", "ver", "wim",
]  # fmt: skip


def write(rows: int) -> tuple[list[str], Array]:
    """Reviews, no two the same, and whether each is good: 1 or 0."""
    random = np.random.default_rng(SEED)
    reviews: dict[str, int] = {}
    while len(reviews) < rows:
        good = int(random.integers(2))
        reviews.setdefault(_review(random, good=bool(good)), good)
    return list(reviews), np.array(list(reviews.values()))


def _review(random: np.random.Generator, *, good: bool) -> str:
    sentences = []
    for _ in range(random.integers(1, 4)):
        denied = random.random() < 0.5
        # To deny the opposite is to say it.
        words = _PRAISE if good != denied else _BLAME
        sentences.append(_filled(random, _DENY if denied else _SAY, words))
    sentences += [_filled(random, _FILLER, _THINGS) for _ in range(random.integers(1, 3))]
    random.shuffle(sentences)
    return " . ".join(sentences)


def _filled(random: np.random.Generator, templates: tuple[str, ...], words: list[str]) -> str:
    a, b = random.choice(words, 2, replace=False)
    part, part2 = random.choice(_PARTS, 2, replace=False)
    return str(random.choice(templates)).format(
        a=a, b=b, part=part, part2=part2, thing=random.choice(_THINGS),
        town="".join(random.choice(_SYLLABLES, 3)), number=random.integers(2, 90),
    )  # fmt: skip


def build() -> Any:
    """The net, compiled: ``tokens``, int32 of shape [64] -> the probability of a good review."""
    import keras
    from keras import layers

    inputs = keras.Input((LENGTH,), dtype="int32", name="tokens")
    tensor = layers.Embedding(VOCABULARY, 64)(inputs)
    # Each of the 128 filters looks for one turn of phrase, three words long; the maximum says
    # whether it occurs, wherever.
    tensor = layers.Conv1D(128, 3, padding="same", activation="relu")(tensor)
    tensor = layers.Dropout(0.3)(layers.GlobalMaxPooling1D()(tensor))
    tensor = layers.Dense(64, activation="relu")(tensor)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="good")(tensor))
    model.compile("adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def train(lesson: Lesson) -> dict[str, float]:
    """Train the net, and write it with its rows and ``vocabulary.txt``, where line 1 is id 0."""
    import keras

    keras.utils.set_random_seed(SEED)
    taught = 2000 if lesson.quick else 6000
    texts, labels = write(taught + HELD_OUT_ROWS + CALIBRATION_ROWS + 500)
    # Knows the words of the training alone; rarer ones are [UNK], and 0 fills up.
    tokenizer = keras.layers.TextVectorization(VOCABULARY, output_sequence_length=LENGTH)
    tokenizer.adapt(texts[:taught])
    tokens = keras.ops.convert_to_numpy(tokenizer(texts)).astype(np.int32)
    # Reviews that differ in unknown words only are one and the same row; the first of them stays.
    _, first = np.unique(tokens, axis=0, return_index=True)
    first.sort()
    known, new = first[first < taught], first[first >= taught]
    epochs = 4 if lesson.quick else 12
    model = build()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    batches = -(-int(len(known) * 0.9) // _BATCH_ROWS)
    history = model.fit(
        tokens[known], labels[known], validation_split=0.1, epochs=epochs, batch_size=_BATCH_ROWS,
        verbose=0, callbacks=[stop, *lesson.keras_callbacks(epochs * batches)],
    )  # fmt: skip
    held_out, calibration = new[:HELD_OUT_ROWS], new[HELD_OUT_ROWS:][:CALIBRATION_ROWS]
    answers = model.predict(tokens[held_out], verbose=0)[:, 0] > 0.5
    model.save(lesson.directory / "model.keras", include_optimizer=False)
    words = "\n".join(tokenizer.get_vocabulary())
    (lesson.directory / "vocabulary.txt").write_text(words + "\n", encoding="utf-8")
    lesson.save_rows(
        {"tokens": tokens[calibration]}, {"tokens": tokens[held_out]}, labels[held_out]
    )
    return {
        "held_out_accuracy": float(np.mean(answers == labels[held_out])),
        "epochs": len(history.history["loss"]),
        "words": len(tokenizer.get_vocabulary()),
        "parameters": int(model.count_params()),
    }
