"""Spoken keywords: convolutions and a GRU on log-mel frames, trained in mixed precision.

The audio is made up. A word is a sequence of sounds, each two formants that a speaker's voice makes
audible; speakers differ in pitch, in the size of their throat and in tempo, and the room is noisy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.zoo.lesson import SEED, Array, Lesson

HELD_OUT_ROWS = 600
CALIBRATION_ROWS = 200
_RATE = 8000
_SAMPLES = 8000
_WINDOW, _HOP = 256, 128
_BANDS = 40
# First and second formant in Hz, roughly those of English vowels (Peterson and Barney 1952).
_SOUNDS = {
    "i": (270, 2290), "e": (530, 1840), "a": (730, 1090), "o": (570, 840), "u": (300, 870),
    "r": (490, 1350),
}  # fmt: skip
WORDS = ("iau", "uai", "oe", "eo", "ara", "ari", "uru", "iei", "oau", "eri")


def speak(word: str, random: np.random.Generator) -> Array:
    """One second of audio, float32 [8000], in which a made-up speaker says the word."""
    pitch, throat = random.uniform(90, 240), random.uniform(0.9, 1.1)
    length = random.uniform(0.10, 0.17)
    sounds = []
    for sound in word:
        seconds = np.arange(int(length * random.uniform(0.8, 1.2) * _RATE)) / _RATE
        harmonics = pitch * np.arange(1, int(3500 / pitch))[:, np.newaxis]
        formants = throat * np.array(_SOUNDS[sound])
        loud = (1 / (1 + ((harmonics - formants) / 120) ** 2)).sum(axis=1, keepdims=True)
        sounds.append((loud * np.sin(2 * np.pi * harmonics * seconds)).sum(axis=0))
    spoken = np.concatenate(sounds)
    audio = random.normal(0, random.uniform(0.1, 0.7), _SAMPLES)
    start = int(random.integers(0, _SAMPLES - len(spoken)))
    audio[start : start + len(spoken)] += spoken
    return audio.astype(np.float32)


def log_mel(audio: Array) -> Array:
    """Frames of a recording: float32 [61, 40], the logarithm of the energy in each mel band."""
    windows = np.lib.stride_tricks.sliding_window_view(audio, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW))) ** 2
    highest = 2595 * np.log10(1 + _RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, _BANDS + 2) / 2595) - 1)
    low, middle, high = edges[:-2, np.newaxis], edges[1:-1, np.newaxis], edges[2:, np.newaxis]
    hertz = np.fft.rfftfreq(_WINDOW, 1 / _RATE)
    bands = np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clip(0)
    frames: Array = np.log(power @ bands.T + 1e-3).astype(np.float32)
    return frames


def record(rows: int, seed: int) -> tuple[Array, Array]:
    """So many recordings, as frames [rows, 61, 40], and which of ``WORDS`` each one is."""
    random = np.random.default_rng(seed)
    said = random.integers(0, len(WORDS), rows)
    return np.stack([log_mel(speak(WORDS[word], random)) for word in said]), said


def build(width: int, seen: Array) -> Any:
    """The net, in float16 with weights in float32; the probabilities are float32 throughout."""
    import keras
    from keras import layers

    # Given to each layer, so that the process keeps its own policy for every other model.
    mixed = keras.DTypePolicy("mixed_float16")
    scale = layers.Normalization(dtype="float32")
    scale.adapt(seen)
    frames = keras.Input(seen.shape[1:], name="frames")
    tensor = scale(frames)
    # Both are at work in training only: a noisier room, and one that swallows whole bands.
    tensor = layers.GaussianNoise(0.3, dtype=mixed)(tensor)
    tensor = layers.SpatialDropout1D(0.1, dtype=mixed)(tensor)
    for stride in (1, 2):
        tensor = layers.Conv1D(
            width, 5, stride, padding="same", activation="relu", dtype=mixed
        )(tensor)  # fmt: skip
    tensor = layers.GRU(width, dtype=mixed)(layers.Dropout(0.2, dtype=mixed)(tensor))
    outputs = layers.Dense(len(WORDS), activation="softmax", dtype="float32", name="word")(tensor)
    return keras.Model(frames, outputs, name="keywords")


def train(lesson: Lesson) -> dict[str, float]:
    """Train the net; it writes ``model.keras`` and its rows, and returns the facts."""
    import keras

    keras.utils.set_random_seed(SEED)
    rows, epochs, width = (1000, 6, 48) if lesson.quick else (2000, 10, 96)
    kept = HELD_OUT_ROWS + CALIBRATION_ROWS
    frames, said = record(kept + rows, SEED)
    model = build(width, frames[kept:])
    batch_rows = 32
    batches = epochs * -(-rows // batch_rows)
    # float16 has no room for small gradients: the loss is scaled up, and the gradients down again.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, batches))
    )
    model.compile(optimizer, loss="sparse_categorical_crossentropy")
    model.fit(
        frames[kept:],
        said[kept:],
        epochs=epochs,
        batch_size=batch_rows,
        verbose=0,
        callbacks=lesson.keras_callbacks(batches),
    )
    held = frames[:HELD_OUT_ROWS]
    answers = model.predict(held, verbose=0).argmax(axis=1)
    lesson.save_rows({"frames": frames[HELD_OUT_ROWS:kept]}, {"frames": held}, said[:HELD_OUT_ROWS])
    # Without the optimizer, whose state is twice the weights (include_optimizer=False keeps it).
    keras.Model(model.inputs, model.outputs, name=model.name).save(lesson.directory / "model.keras")
    return {
        "held_out_accuracy": float(np.mean(answers == said[:HELD_OUT_ROWS])),
        "parameters": float(model.count_params()),
    }
