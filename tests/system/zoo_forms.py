"""The same trained models in the other files they come in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from converter.zoo.material import Material

_KERAS = """
import sys, keras, tensorflow as tf
model = keras.models.load_model(sys.argv[1], compile=False)
model.save(sys.argv[2] + "/model.h5")
archive = keras.export.ExportArchive()
archive.track(model)
spec = [tf.TensorSpec([None, *t.shape[1:]], t.dtype, name=t.name) for t in model.inputs]
archive.add_endpoint("serve", tf.function(lambda x: model(x, training=False), spec))
archive.write_out(sys.argv[2] + "/saved_model")
converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[2] + "/saved_model")
open(sys.argv[2] + "/model.tflite", "wb").write(converter.convert())
"""
_TORCH = """
import sys, torch
program = torch.export.load(sys.argv[1])
module = program.module()
rows = torch.zeros((3, *program.example_inputs[0][0].shape[1:]))
torch.jit.trace(module, rows).save(sys.argv[2] + "/model.pt")
"""


def other_forms(made: Material) -> list[Path]:
    """Write them beside the model; one Keras and one PyTorch net are enough."""
    code, names = {
        "perceptron": (_KERAS, ["model.h5", "saved_model", "model.tflite"]),
        "small-resnet": (_TORCH, ["model.pt"]),
    }.get(made.name, ("", []))
    if code:
        directory = made.model.parent
        command = [sys.executable, "-c", code, str(made.model), str(directory)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    return [made.model.parent / name for name in names]
