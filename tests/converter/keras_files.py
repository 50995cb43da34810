"""Writes trained models of every form into a directory, with what their framework answers.

``python -m tests.converter.keras_files DIRECTORY``: one process, since TensorFlow takes seconds to
start. Beside each model NAME lies ``NAME.npz``: rows as ``in:INPUT``, answers as ``out:OUTPUT``.
Then the exporters themselves refuse what they must: the sentences lie in ``refused.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from converter import child, live
from converter.exporters import __main__ as exporters
from converter.exporters.trained import Request

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
ROWS, ROUTE = 5, "ExportArchive"
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
    recorded(directory / "live.npz", {"x": x}, {"scores": mlp(x)})
    live.on_disk(mlp, directory / "live", None)

    called = keras.Sequential([layers.Dense(16), layers.Dense(3, name="scores")])
    called(np.ones((400, 8), np.float32))  # it remembers this batch
    kept(directory, "called", called, {"keras_tensor": x}, x)
    (name,) = (tensor.name for tensor in called.inputs)
    recorded(directory / "called.npz", {name: x}, {"scores": called(x)})

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


def tensorflow_files(directory: Path) -> None:
    two = Two()
    both = {"double": two.double, "shifted": two.shifted}
    tf.saved_model.save(two, str(directory / "two"), signatures=both)
    tf.saved_model.save(two, str(directory / "none"))
    tf.saved_model.save(two, str(directory / "anything"), signatures={"a": two.anything})
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
    recorded(directory / "float.npz", {"image": x}, {"scores": net(x)})
    recorded(directory / "dynamic.npz", {"image": x}, {"scores": net(x)})


def bad_files(directory: Path) -> None:
    numbers = keras.Input((1,), name="number", dtype="int64")
    keras.Model(numbers, layers.IntegerLookup(vocabulary=[7, 9])(numbers)).save(
        directory / "numbers.keras"
    )
    text = keras.Input((1,), name="text", dtype="string")
    keras.Model(text, layers.TextVectorization(vocabulary=["a", "b"])(text)).save(
        directory / "text.keras"
    )
    x = keras.Input((3,), name="x")
    keras.Model(x, layers.Lambda(lambda t: t * 2)(x)).save(directory / "code.keras")

    class Unregistered(layers.Layer):
        def call(self, t: Any) -> Any:
            return t * 2

    for name in ("unregistered.keras", "unregistered.h5"):
        keras.Model(x, Unregistered()(x)).save(directory / name)
    keras.Sequential([layers.Dense(2)]).save(directory / "unbuilt.keras")
    odd = keras.Input((3,), name="my input-1")
    keras.Model(odd, layers.Dense(2)(odd)).save(directory / "odd.keras")
    broken = keras.Model(x, layers.Dense(2, name="broken")(x))
    broken.get_layer("broken").kernel.assign(np.full((3, 2), np.nan))
    broken.save(directory / "nan.keras")

    (directory / "prose.keras").write_text("not a model")
    (directory / "prose.h5").write_text("not a model")
    whole = (directory / "mlp.keras").read_bytes()
    (directory / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with h5py.File(directory / "old.h5", "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}})
    with zipfile.ZipFile(directory / "old.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", json.dumps({"class_name": "Gone", "config": {}}))
    (directory / "prose.tflite").write_text("not a model")
    (directory / "rotten").mkdir()
    (directory / "rotten" / "saved_model.pb").write_text("not a model")
    (directory / "faulty.py").write_text("1 / 0\n")
    np.savez(directory / "wrong_rows.npz", q=np.zeros((3, 8), np.float32), r=np.zeros(3))
    np.savez(directory / "too_large_ids.npz", ids=np.full((3, 20), 9999))


REFUSED: dict[str, dict[str, Any]] = {
    "numbers.keras": {},
    "text.keras": {},
    "code.keras": {},
    "code.keras trusted": {"trust": True},
    "unregistered.keras": {},
    "unregistered.h5": {},
    "unbuilt.keras": {},
    "odd.keras": {},
    "nan.keras": {},
    "prose.keras": {},
    "prose.h5": {},
    "cut.keras": {},
    "old.h5": {},
    "old.keras": {},
    "mlp.keras with no such import": {"imports": ("no_such_module",)},
    "mlp.keras with a faulty import": {"imports": ("faulty",)},
    "mlp.keras with wrong rows": {"evaluate": "wrong_rows.npz"},
    "ids.keras with ids out of range": {"evaluate": "too_large_ids.npz"},
    "two": {"kind": "saved-model"},
    "two with no such signature": {"kind": "saved-model", "signature": "third"},
    "none": {"kind": "saved-model"},
    "anything": {"kind": "saved-model"},
    "rotten": {"kind": "saved-model"},
    "prose.tflite": {"kind": "tflite"},
}


def refused(directory: Path) -> None:
    """Ask the exporters for each, in this one process; their exit codes and sentences."""
    said = {}
    for case, options in REFUSED.items():
        shelf = directory / "refused" / case
        shelf.mkdir(parents=True)
        source = directory / case.split()[0]
        request = Request(**{"kind": "keras", "source": source, "route": ROUTE, **options})
        if request.evaluate:
            request = replace(request, evaluate=directory / request.evaluate)
        request.write(shelf)
        try:
            code = exporters.main([str(shelf)])
            said[case] = (code, (shelf / child.ERROR_FILE).read_text() if code else "")
        except Exception as error:
            said[case] = (1, f"{type(error).__name__}: {error}")
    (directory / "refused.json").write_text(json.dumps(said))


def main(directory: Path) -> None:
    keras.utils.set_random_seed(0)
    plain_nets(directory)
    recurrent_nets(directory)
    nets_that_prepare(directory)
    text_nets(directory)
    tensorflow_files(directory)
    bad_files(directory)
    refused(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
