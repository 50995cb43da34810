"""A Keras model as it should be exported: in float32, and with whole numbers where ids are fed."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

_HALF = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
_CONFIG = "config.json"


def for_inference(model: Any, package: Any = keras) -> tuple[Any, tuple[str, ...]]:
    """The same model, rebuilt where that is needed; what was done, in a sentence each.

    Mixed precision is a way to train: exported as it is, the "fp32" graph holds fp16 convolutions,
    and bfloat16 has no kernels. Inputs of ids are float32 by Keras' default, and as fp16 lose every
    id above 2048. A subclassed model cannot be rebuilt from its configuration; it is left alone.

    Args:
        model: built.
        package: ``keras``, or ``tf_keras`` for a model of Keras 2.
    """
    halves = [layer.name for layer in _layers(model) if layer.dtype_policy.name in _HALF]
    ids = set(_float_inputs_of_embeddings(model, package.layers))
    if not halves and not ids:
        return model, ()
    functional = hasattr(model, "_inputs_struct") or getattr(model, "_is_graph_network", False)
    if not functional and not isinstance(model, package.Sequential):
        return model, (
            f"'{halves[0]}' computes in half precision, and a subclassed model cannot be rebuilt "
            "in float32: the export is what was trained",
        )
    notes = []
    if halves:
        notes.append("trained in mixed precision, and rebuilt in float32 for the export")
    if ids:
        notes.append(f"{', '.join(sorted(ids))}: ids, so int32 instead of float32")
    return _rebuilt(model, ids, package), tuple(notes)


def _rebuilt(model: Any, ids: set[str], package: Any) -> Any:
    """Through a file: weights alone leave out vocabularies, and what ``adapt`` has learned."""
    with tempfile.TemporaryDirectory() as directory:
        was, becomes = Path(directory, "was.keras"), Path(directory, "becomes.keras")
        model.save(was)
        with zipfile.ZipFile(was) as old, zipfile.ZipFile(becomes, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name == _CONFIG:
                    content = json.dumps(_edited(json.loads(content), ids)).encode()
                new.writestr(name, content)
        # Its code, if any, was trusted when the model itself was loaded.
        return package.models.load_model(becomes, compile=False, safe_mode=False)


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())


def _float_inputs_of_embeddings(model: Any, layers: Any) -> Iterator[str]:
    """Names of input layers that hand floats straight to an Embedding."""
    for layer in getattr(model, "layers", ()):
        if not isinstance(layer, layers.Embedding):
            continue
        for node in layer._inbound_nodes:
            for tensor in getattr(node, "keras_inputs", None) or node.input_tensors:
                source = tensor._keras_history[0]
                if isinstance(source, layers.InputLayer) and "float" in str(source.dtype):
                    yield source.name


def _edited(config: Any, ids: set[str]) -> Any:
    """The configuration with float32 for half precision, and int32 for the inputs in ids."""
    if isinstance(config, list | tuple):
        return type(config)(_edited(item, ids) for item in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "InputLayer" and config["config"]["name"] in ids:
        return {**config, "config": {**config["config"], "dtype": "int32"}}
    edited = {key: _edited(value, ids) for key, value in config.items()}
    policy = config.get("class_name") in ("DTypePolicy", "Policy")
    if policy and config["config"]["name"] in _HALF:
        return {**edited, "config": {**config["config"], "name": "float32"}}
    for key in ("dtype", "dtype_policy"):
        if config.get(key) in _HALF:
            edited[key] = "float32"
    return edited
