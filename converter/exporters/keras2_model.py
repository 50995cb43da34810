"""Files of Keras 2, through the package tf-keras -> ONNX.

In an environment of its own: tf-keras needs ``tensorflow``, which overwrites ``tensorflow-cpu``.
"""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from converter.exporters import keras_rebuild, tf_graph
from converter.exporters.keras_version import has_lambda
from converter.exporters.trained import Arrays, NotExportable, Request, Trained, first_line

_ENDPOINT = "serve"


def load(request: Request) -> Trained:
    """A ``.keras`` or ``.h5`` file that Keras 2 wrote.

    Raises:
        NotExportable: tf-keras cannot load it, it was never built, or holds NaN.
    """
    model, notes = keras_rebuild.for_inference(_loaded(request), tf_keras)
    names = [tensor.name.partition(":")[0] for tensor in model.inputs]
    specs = [
        tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]
    outputs = tuple(model.output_names)

    def called(*tensors: Any) -> dict[str, Any]:
        given = tf.nest.pack_sequence_as(model.input, list(tensors))
        return dict(zip(outputs, tf.nest.flatten(model(given, training=False)), strict=True))

    function = tf.function(called, input_signature=specs, autograph=False)

    def answer(feeds: Arrays) -> dict[str, Any]:
        values = function(*(tf.constant(feeds[name]) for name in names))
        return {name: value.numpy() for name, value in values.items()}

    def write(target: Path) -> None:
        holder = tf.Module()
        holder.model = model  # the weights must be tracked to be saved
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            tf.saved_model.save(holder, directory, signatures={_ENDPOINT: function})
            tf_graph.write_saved_model(Path(directory), _ENDPOINT, target)

    return Trained(
        inputs=tuple(tf_graph.spec(spec.name, spec) for spec in specs),
        outputs=outputs,
        answer=answer,
        write=write,
        tools={"tf-keras": metadata.version("tf-keras"), **tf_graph.tools()},
        notes=notes,
    )


def _loaded(request: Request) -> Any:
    if not request.trust and has_lambda(request.source):
        # safe_mode does not reach tf-keras' loader of .h5 files.
        raise NotExportable(
            f"{request.source} holds a Lambda layer, which is code; if you trust the file, add "
            "--trust"
        )
    try:
        model = tf_keras.models.load_model(
            request.source, compile=False, safe_mode=not request.trust
        )
    except Exception as error:  # a corrupt file raises nearly anything
        raise NotExportable(
            f"tf-keras cannot load {request.source}: {first_line(error)}"
        ) from error
    if not model.inputs:
        raise NotExportable(
            f"{request.source} was saved before it was built, so its inputs are unknown; call it "
            "once on data, then save it again"
        )
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight, dtype=np.float64)).all():
            raise NotExportable(f"weight '{weight.name}' of {request.source} holds NaN or infinity")
    return model
