"""A TensorFlow SavedModel, by one of its signatures -> ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from converter.exporters import tf_graph
from converter.exporters.trained import Arrays, NotExportable, Request, Trained, first_line

_DEFAULT = "serving_default"


def load(request: Request) -> Trained:
    """A directory with ``saved_model.pb``.

    Raises:
        NotExportable: it cannot be loaded, has no signature, or several and none was named.
    """
    try:
        loaded = tf.saved_model.load(str(request.source))
    except Exception as error:  # a damaged directory raises nearly anything
        raise NotExportable(
            f"TensorFlow cannot load {request.source}: {first_line(error)}"
        ) from error
    name = _signature(dict(loaded.signatures), request)
    function = loaded.signatures[name]
    _, specs = function.structured_input_signature
    inputs = tuple(tf_graph.spec(key, spec) for key, spec in specs.items())
    outputs = tuple(function.structured_outputs)

    def answer(feeds: Arrays) -> dict[str, Any]:
        given = {key: tf.constant(array) for key, array in feeds.items()}
        return {key: value.numpy() for key, value in function(**given).items()}

    def write(target: Path) -> None:
        tf_graph.write_saved_model(request.source, name, target)
        tf_graph.rename(target, inputs, outputs)

    return Trained(inputs, outputs, answer, write, tf_graph.tools())


def _signature(signatures: dict[str, Any], request: Request) -> str:
    names = sorted(signatures)
    if not names:
        raise NotExportable(
            f"{request.source} has no signatures; save it with tf.saved_model.save(model, path, "
            "signatures=...)"
        )
    if request.signature:
        if request.signature not in signatures:
            raise NotExportable(
                f"{request.source} has no signature '{request.signature}'; it has "
                f"{', '.join(names)}"
            )
        return request.signature
    if _DEFAULT in signatures or len(names) == 1:
        return _DEFAULT if _DEFAULT in signatures else names[0]
    raise NotExportable(
        f"{request.source} has several signatures; choose one with --signature: {', '.join(names)}"
    )
