"""Keras models, end to end: from the file, or the object, to a published version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import farthing
from service import manifest
from service.session import Session, SessionOptions

# Minutes, where the machine has other work.
pytestmark = pytest.mark.timeout(900)


def test_a_classifier_is_published_as_keras_had_it(built: Path, tmp_path: Path) -> None:
    contract = farthing.convert(
        built / "mlp.keras",
        out=tmp_path,
        evaluate=built / "mlp-rows.npz",
        variants=("fp32", "int8-dynamic"),
    )
    assert contract.name == "mlp"
    fp32, int8 = contract.variants
    # The labels are what Keras answered: any mix-up of tensors shows.
    assert fp32.figures["accuracy"] == 1.0
    assert not int8.accepted  # nothing to gain in a net of this size
    assert contract.source["kind"] == "keras"
    assert [spec.name for spec in (*contract.inputs, *contract.outputs)] == ["x", "scores"]
    session = Session(tmp_path / "mlp" / "1" / "model.onnx", SessionOptions())
    assert session.batched
    assert len(session.run({"x": np.ones((5, 8), np.float32)})["scores"]) == 5


LIVE = """
import sys, keras, numpy as np, farthing
inputs = keras.Input((8,), name="x")
net = keras.Model(inputs, keras.layers.Dense(3, name="scores")(inputs), name="alive")
print(farthing.convert(net, out=sys.argv[1], variants=("fp32",)).name)
"""


@pytest.mark.slow
def test_a_model_in_memory_is_published(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIVE, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == "alive", done.stderr[-2000:]
    contract = manifest.load(tmp_path / "alive" / "1")
    assert contract.published == ("fp32",)
    assert [spec.name for spec in (*contract.inputs, *contract.outputs)] == ["x", "scores"]
