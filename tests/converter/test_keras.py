"""Keras models of several forms, exported in a real child and compared with Keras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converter import pipeline
from service.session import Session, SessionOptions

BUILD = """
import sys, keras, numpy as np
from keras import layers
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)

alone = keras.Sequential()
alone.add(layers.Dense(16, activation="relu"))
alone.add(layers.Dense(3, activation="softmax"))
x = random.random((400, 8), np.float32)
answers = alone(x)
alone.save("sequential.keras")
np.savez("sequential.npz", x=x, y=np.argmax(answers, axis=1))

left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
both = layers.Concatenate()([layers.Dense(8)(left), layers.Dense(8)(right)])
zeta = layers.Dense(3, activation="softmax", name="zeta")(both)
alpha = layers.Dense(2, activation="softmax", name="alpha")(both)
many = keras.Model([right, left], [zeta, alpha])
many.save("many.keras")
plain = keras.Sequential([keras.Input((8,)), layers.Dense(1)])
plain.save("regression.keras")
np.savez("regression.npz", x=x, y=np.asarray(plain(x))[:, 0])

feeds = {"left": random.random((400, 4), np.float32), "right": random.random((400, 6), np.float32)}
zeta, alpha = many([feeds["right"], feeds["left"]])
np.savez("many.npz", y=np.argmax(zeta, axis=1), **feeds)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keras")
    subprocess.run(
        [sys.executable, "-c", BUILD], cwd=directory, check=True, capture_output=True, timeout=120
    )
    return directory


def test_of_a_model_that_decides_nothing_only_fp32_is_published(
    built: Path, tmp_path: Path
) -> None:
    manifest = pipeline.convert(
        built / "regression.keras", name="r", out=tmp_path, evaluate=built / "regression.npz"
    )
    assert manifest.published == ("fp32",)
    reasons = [variant.reason for variant in manifest.variants if not variant.accepted]
    assert any("so far only classifiers are" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [("sequential", 1, 1), ("many", ["left", "right"], ["alpha", "zeta"])],
)
def test_a_model_answers_as_keras_did_under_its_own_names(
    built: Path, tmp_path: Path, name: str, inputs: list[str] | int, outputs: list[str] | int
) -> None:
    manifest = pipeline.convert(
        built / f"{name}.keras", name=name, out=tmp_path, evaluate=built / f"{name}.npz",
        variants=("fp32",),
    )  # fmt: skip
    (fp32,) = manifest.variants
    # The labels are what Keras answered with its first output: any mix-up of tensors shows.
    assert fp32.figures["accuracy"] == 1.0
    found = [[spec.name for spec in specs] for specs in (manifest.inputs, manifest.outputs)]
    for names, wanted in zip(found, (inputs, outputs), strict=True):
        assert len(names) == wanted if isinstance(wanted, int) else sorted(names) == wanted
    session = Session(tmp_path / name / "1" / "model.onnx", SessionOptions())
    assert session.batched
    feeds = {spec.name: np.ones((5, spec.shape[1]), np.float32) for spec in session.inputs}
    assert {len(array) for array in session.run(feeds).values()} == {5}
