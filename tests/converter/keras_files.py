"""Writes trained models of every form into a directory, with what their framework answers.

``python -m tests.converter.keras_files DIRECTORY``: one process, since TensorFlow takes seconds to
start. Beside each model NAME lies ``NAME.npz``: rows as ``in:INPUT``, answers as ``out:OUTPUT``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from converter import live
from tests.converter import keras_refused

CUSTOM = """
import keras

@keras.saving.register_keras_serializable("mine")
class Gain(keras.layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="uniform", name="gain")

    def call(self, x):
        return x * self.gain

@keras.saving.register_keras_serializable("mine")
class Net(keras.Model):
    def __init__(self, **named):
        super().__init__(**named)
        self.gain = Gain()
        self.dense = keras.layers.Dense(3, activation="softmax")
        self.dropout = keras.layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.dense(self.dropout(self.gain(x), training=training))
"""
ROWS = 5
random = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return random.random((ROWS, *shape), np.float32)


def ids(length: int, vocabulary: int) -> np.ndarray[Any, Any]:
    return random.integers(1, vocabulary, (ROWS, length)).astype(np.int32)


def recorded(path: Path, feeds: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    arrays: dict[str, Any] = {f"in:{name}": array for name, array in feeds.items()}
    arrays |= {f"out:{name}": np.asarray(array, np.float32) for name, array in answers.items()}
    np.savez(path, **arrays)


def kept(directory: Path, name: str, model: Any, feeds: Mapping[str, Any], given: Any) -> None:
    """Save a model, and what it answers, by its outputs' own names."""
    model.save(directory / f"{name}.keras")
    answered = model(given, training=False)
    if not isinstance(answered, Mapping):
        flat = tf.nest.flatten(answered)
        answered = dict(zip(output_names(model, len(flat)), flat, strict=True))
    recorded(directory / f"{name}.npz", feeds, answered)


def output_names(model: Any, count: int) -> list[str]:
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    names = list(getattr(model, "output_names", ()))
    if len(set(names)) == count:
        return names
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def plain_nets(directory: Path) -> None:
    x = floats(8)
    mlp = keras.Sequential(
        [
            keras.Input((8,), name="x"),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", name="scores"),
        ]
    )
    kept(directory, "mlp", mlp, {"x": x}, x)
    mlp.save(directory / "mlp.h5")
    many = random.random((400, 8), np.float32)
    np.savez(directory / "mlp-rows.npz", x=many, y=np.argmax(mlp(many), axis=1))
    recorded(directory / "live.npz", {"x": x}, {"scores": mlp(x)})
    written = live.on_disk(mlp, directory / "memory", None).path
    assert written is not None
    written.rename(directory / "live")

    called = keras.Sequential([layers.Dense(16), layers.Dense(3, name="scores")])
    called(np.ones((400, 8), np.float32))  # it remembers this batch
    called.save(directory / "called.keras")
    (name,) = keras.models.load_model(directory / "called.keras").inputs
    recorded(directory / "called.npz", {name.name: x}, {"scores": called(x)})

    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    both = layers.Concatenate()([layers.Dense(8)(left), layers.Dense(8)(right)])
    zeta, alpha = layers.Dense(3)(both), layers.Dense(2)(both)
    many = keras.Model({"right": right, "left": left}, {"zeta": zeta, "alpha": alpha})
    feeds = {"left": floats(4), "right": floats(6)}
    kept(directory, "dicts", many, feeds, feeds)

    sys.path.insert(0, str(directory))
    (directory / "mine.py").write_text(CUSTOM)
    net = importlib.import_module("mine").Net()
    net(x)
    kept(directory, "subclassed", net, {"inputs": x}, x)


def recurrent_nets(directory: Path) -> None:
    x = floats(12, 4)
    steps = keras.Input((12, 4), name="steps")
    both = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(steps)
    both = layers.Bidirectional(layers.LSTM(6))(both)
    kept(directory, "bilstm", keras.Model(steps, layers.Dense(2)(both)), {"steps": x}, x)

    gru = keras.Model(steps, layers.Dense(2)(layers.Bidirectional(layers.GRU(6))(steps)))
    kept(directory, "gru", gru, {"steps": x}, x)

    states = keras.Model(steps, layers.LSTM(6, return_sequences=True, return_state=True)(steps))
    kept(directory, "states", states, {"steps": x}, x)

    tokens = keras.Input((12,), name="tokens", dtype="int32")
    masked = layers.LSTM(6)(layers.Embedding(50, 8, mask_zero=True)(tokens))
    rows = ids(12, 50)
    rows[:, 7:] = 0
    model = keras.Model(tokens, layers.Dense(2)(masked))
    kept(directory, "masked", model, {"tokens": rows}, rows)


def nets_that_prepare(directory: Path) -> None:
    x = 100 + 7 * floats(8)
    normalization = layers.Normalization()
    normalization.adapt(np.concatenate([x, x + 30]))
    net = keras.Sequential([keras.Input((8,), name="x"), normalization, layers.Dense(3, name="z")])
    kept(directory, "normalization", net, {"x": x}, x)

    pixels = random.integers(0, 256, (ROWS, 8, 8, 3)).astype(np.uint8)
    image = keras.Input((8, 8, 3), name="image", dtype="uint8")
    seen = layers.RandomFlip()(layers.Rescaling(1 / 255)(image))
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(seen))
    net = keras.Model(image, layers.Dense(2)(seen))
    kept(directory, "pixels", net, {"image": pixels}, pixels)

    word = keras.Input((1,), name="word", dtype="string")
    found = layers.StringLookup(vocabulary=["a", "b", "c"])(word)
    net = keras.Model(word, layers.Flatten()(layers.Embedding(4, 3)(found)))
    words = np.array([["a"], ["b"], ["c"], ["zzz"], ["é"]])
    kept(directory, "words", net, {"word": words}, tf.constant(words))

    for policy in ("mixed_float16", "mixed_bfloat16"):
        keras.mixed_precision.set_global_policy(policy)
        half = layers.Normalization(axis=-1)
        image = keras.Input((8, 8, 1), name="image")
        half.adapt(3 + floats(8, 8, 1))
        seen = layers.Conv2D(4, 3, activation="relu")(half(image))
        seen = layers.Dense(2, dtype="float32")(layers.GlobalAveragePooling2D()(seen))
        x = 3 + floats(8, 8, 1)
        kept(directory, policy, keras.Model(image, seen), {"image": x}, x)
    keras.mixed_precision.set_global_policy("float32")


def text_nets(directory: Path) -> None:
    tokens = keras.Input((None,), name="tokens", dtype="int32")
    x = layers.Embedding(100, 16)(tokens)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    x = layers.Dense(16, activation="gelu")(x)
    scores = layers.Dense(3)(layers.GlobalAveragePooling1D()(x))
    rows = ids(9, 100)
    kept(directory, "encoder", keras.Model(tokens, scores), {"tokens": rows}, rows)

    net = keras.Sequential(
        [
            keras.Input((20,), name="ids"),
            layers.Embedding(5000, 8),
            layers.Conv1D(8, 3, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(2, name="scores"),
        ]
    )
    rows = ids(20, 5000)
    kept(directory, "ids", net, {"ids": rows}, rows.astype(np.float32))


class Two(tf.Module):
    """Two signatures, over captured weights and a table of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable([2.0, 3.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def double(self, x: Any) -> Any:
        return {"scaled": x * self.factor}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def shifted(self, x: Any) -> Any:
        return {"sum": x + self.factor}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def anything(self, x: Any) -> Any:
        return {"same": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def mean(self, x: Any) -> Any:
        return {"mean": tf.reduce_mean(x)}


def tensorflow_files(directory: Path) -> None:
    two = Two()
    both = {"double": two.double, "shifted": two.shifted}
    tf.saved_model.save(two, str(directory / "two"), signatures=both)
    tf.saved_model.save(two, str(directory / "none"))
    tf.saved_model.save(two, str(directory / "anything"), signatures={"a": two.anything})
    tf.saved_model.save(two, str(directory / "mean"), signatures={"a": two.mean})
    x = floats(2)
    recorded(directory / "two.npz", {"x": x}, {"sum": two.shifted(x)["sum"]})

    image = keras.Input((8, 8, 1), name="image")
    seen = layers.DepthwiseConv2D(3)(layers.BatchNormalization()(layers.Conv2D(32, 3)(image)))
    seen = layers.Dense(64)(layers.GlobalAveragePooling2D()(seen))
    net = keras.Model(image, layers.Dense(3, name="scores")(seen))
    made = tf.lite.TFLiteConverter.from_keras_model(net)
    for name in ("float", "dynamic"):
        made.optimizations = [tf.lite.Optimize.DEFAULT] if name == "dynamic" else []
        (directory / f"{name}.tflite").write_bytes(made.convert())
    x = floats(8, 8, 1)
    for name in ("float", "dynamic"):
        recorded(directory / f"{name}.npz", {"image": x}, {"output_0": net(x)})


def main(directory: Path) -> None:
    keras.utils.set_random_seed(0)
    plain_nets(directory)
    recurrent_nets(directory)
    nets_that_prepare(directory)
    text_nets(directory)
    tensorflow_files(directory)
    keras_refused.write(directory)
    keras_refused.ask(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
