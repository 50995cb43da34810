"""A TensorFlow SavedModel, by one of its signatures -> ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from converter.exporters import tf_graph
from converter.exporters.trained import Arrays, NotExportable, Request, Trained, first_line

_DEFAULT = "serving_default"
_REACHING_OUT = {"WriteFile", "ReadFile", "PyFunc", "PyFuncStateless", "EagerPyFunc"}


def load(request: Request) -> Trained:
    """A directory with ``saved_model.pb``.

    Raises:
        NotExportable: it cannot be loaded, has no signature, or several and none was named.
    """
    if not request.trust:
        _check_operators(request.source)
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


def _check_operators(source: Path) -> None:
    """Refuse graphs that read or write files, or call Python, unless they are trusted.

    Raises:
        NotExportable: with the operator's name.
    """
    saved = SavedModel()
    try:
        saved.ParseFromString((source / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf raises classes of its own
        raise NotExportable(
            f"TensorFlow cannot load {source}: saved_model.pb is cut off, or none"
        ) from error
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        found = sorted({node.op for node in nodes} & _REACHING_OUT)
        if found:
            raise NotExportable(
                f"{source} has the operator {found[0]}, which reaches outside the graph; if you "
                "trust the model, add --trust"
            )


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
