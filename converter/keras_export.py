"""A Keras file -> SavedModel -> ONNX, with Keras' own answers beside it; always a child process.

The route: ``keras.export.ExportArchive`` with an explicit ``training=False`` signature, then
tf2onnx. The shorter ones bake in the batch size (``tf.saved_model.save``), fail on every Sequential
(``from_keras``) or add inputs without a word (Keras' own ONNX export); the record of what was tried
is in CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from converter import samples
from converter.child import ERROR_FILE
from service.errors import FarthingError
from service.manifest import TensorSpec

OPSET = 17
MODEL, PROBE, EXPECTED, FACTS = "exported.onnx", "probe.npz", "expected.npz", "facts.json"
PROBE_BATCHES = (1, 2, 7)
# What TensorFlow keeps as it is in a signature.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DATATYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


class NotExportable(FarthingError):
    """A Keras file that cannot be turned into ONNX, with the reason."""


def main(argv: list[str] | None = None) -> int:
    """Export ``SOURCE`` into ``DIRECTORY``; 0, or 2 with a sentence in ``error.txt``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--evaluate", type=Path)
    options = parser.parse_args(argv)
    try:
        _export(options.source, options.directory, options.evaluate)
    except FarthingError as error:
        (options.directory / ERROR_FILE).write_text(str(error), encoding="utf-8")
        return 2
    return 0


def _export(source: Path, directory: Path, evaluate: Path | None) -> None:
    model = _load(source)
    inputs = [_input_spec(tensor) for tensor in model.inputs]
    # A Sequential has no such names; its output is its last layer's.
    outputs = list(getattr(model, "output_names", None) or [model.layers[-1].name])
    call = _signature(model, inputs, outputs)
    probe = _random_rows(inputs, sum(PROBE_BATCHES))
    _write_answers(call, probe, directory / PROBE)
    if evaluate is not None:
        rows = samples.read(evaluate, inputs)
        _write_answers(call, rows.feeds, directory / EXPECTED)
    _to_onnx(model, call, directory)
    facts = {
        "outputs": outputs,
        "tools": {name: metadata.version(name) for name in ("keras", "tf2onnx")}
        | {"tensorflow": _tensorflow_version()},
    }
    (directory / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _load(source: Path) -> Any:
    import keras

    try:
        model = keras.models.load_model(source, compile=False)
    except Exception as error:  # a corrupt file raises nearly anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise NotExportable(f"Keras cannot load {source}: {first}") from error
    if not getattr(model, "inputs", None):
        raise NotExportable(
            f"{source} was saved before it was built, so its inputs are unknown; call it once on "
            "data, then save it again"
        )
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight.value, dtype=np.float64)).all():
            raise NotExportable(f"weight '{weight.path}' of {source} holds NaN or infinity")
    return model


def _input_spec(tensor: Any) -> TensorSpec:
    if tensor.dtype not in _DATATYPES:
        raise NotExportable(
            f"input '{tensor.name}' is {tensor.dtype}, which the wire does not have"
        )
    if not _NAME.fullmatch(tensor.name):
        raise NotExportable(
            f"input '{tensor.name}' cannot be exported under that name; rename it with letters, "
            "digits and '_' only"
        )
    # A net that was built by calling it remembers that call's batch; what is exported is checked at
    # several.
    rest = (-1 if size is None else int(size) for size in tensor.shape[1:])
    return TensorSpec(tensor.name, _DATATYPES[tensor.dtype], (-1, *rest))


def _signature(model: Any, inputs: list[TensorSpec], outputs: list[str]) -> Any:
    import tensorflow as tf

    # How the model wants its inputs packed: a list, a dictionary; a Sequential has just one.
    packing = getattr(model, "_inputs_struct", None) or model.inputs[0]

    def answer(*tensors: Any) -> dict[str, Any]:
        given = tf.nest.pack_sequence_as(packing, list(tensors))
        return dict(zip(outputs, tf.nest.flatten(model(given, training=False)), strict=True))

    specs = [
        tf.TensorSpec([None, *(None if n == -1 else n for n in spec.shape[1:])], tensor.dtype,
                      name=spec.name)
        for spec, tensor in zip(inputs, model.inputs, strict=True)
    ]  # fmt: skip
    # autograph would read source files again while tracing.
    return tf.function(answer, input_signature=specs, autograph=False)


def _random_rows(inputs: list[TensorSpec], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for spec in inputs:
        shape = (rows, *(16 if size == -1 else size for size in spec.shape[1:]))
        if spec.datatype.startswith("FP"):
            feeds[spec.name] = random.random(shape).astype(f"f{int(spec.datatype[2:]) // 8}")
        elif spec.datatype == "BYTES":
            feeds[spec.name] = np.full(shape, "a", dtype=np.object_)
        else:
            # 0 and 1 are valid ids for every vocabulary, and valid booleans.
            feeds[spec.name] = random.integers(0, 2, shape).astype(spec.datatype.lower())
    return feeds


def _write_answers(call: Any, feeds: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    import tensorflow as tf

    total = len(next(iter(feeds.values())))
    parts: list[dict[str, Any]] = []
    for start in range(0, total, 64):
        chunk = [tf.constant(array[start : start + 64]) for array in feeds.values()]
        parts.append({name: value.numpy() for name, value in call(*chunk).items()})
    arrays: dict[str, Any] = {f"in:{name}": array for name, array in feeds.items()}
    for name in parts[0]:
        arrays[f"out:{name}"] = np.concatenate([part[name] for part in parts])
    np.savez(path, **arrays)


def _to_onnx(model: Any, call: Callable[..., Any], directory: Path) -> None:
    import keras
    import tf2onnx.convert

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", call)
    saved = directory / "saved_model"
    archive.write_out(saved, verbose=False)
    sys.argv = [
        "tf2onnx", "--saved-model", str(saved), "--signature_def", "serve", "--opset", str(OPSET),
        "--output", str(directory / MODEL),
    ]  # fmt: skip
    # Its exit code means nothing (an unsupported operator is logged, and an invalid file written):
    # the parent checks the file.
    tf2onnx.convert.main()


def _tensorflow_version() -> str:
    import tensorflow as tf

    return str(tf.__version__)


if __name__ == "__main__":
    sys.exit(main())
