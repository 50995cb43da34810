"""Keras 3 files and models -> an explicit inference signature -> ONNX.

The route: ``keras.export.ExportArchive`` with a ``training=False`` signature, then tf2onnx. The
shorter ones bake in the batch size (``tf.saved_model.save``), fail on every Sequential
(``from_keras``) or add inputs without a word (Keras' own ONNX export); the record of what was tried
is in CONTRIBUTING.md.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from converter.exporters import keras_rebuild, tf_graph
from converter.exporters.keras_version import is_keras_2
from converter.exporters.trained import Arrays, NotExportable, Request, Trained, first_line
from service import rows
from service.manifest import TensorSpec

ENDPOINT = "serve"
# What TensorFlow keeps as it is in a signature.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# How Keras says that it does not know a custom class or function.
_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown layer:) '(\w+)'")
_CANNOT = {
    "IntegerLookup": "look the numbers up before the model, and export the layers after it",
    "TextVectorization": "split the text into token ids before the model (its vocabulary is "
    "layer.get_vocabulary()), and export the layers after it",
    "StringLookup": "",  # a string table is what tf2onnx can do
}


def load(request: Request) -> Trained:
    """A ``.keras`` or ``.h5`` file.

    Raises:
        NotExportable: Keras cannot load it, or it holds what no route can export.
    """
    model = _loaded(request)
    _check_weights(model, str(request.source))
    _check_layers(model, str(request.source))
    return trained(model, request.route, str(request.source), request.example)


def trained(model: Any, route: str, what: str, example: Path | None = None) -> Trained:
    """A Keras model in memory.

    Args:
        model: any built Keras 3 model.
        route: a route of the kind ``keras``.
        what: how to call it in refusals.
        example: rows whose dtypes tell those of a subclassed model's inputs, or None.

    Raises:
        NotExportable: its inputs are unknown, or have names or dtypes that cannot be kept.
    """
    model, notes = keras_rebuild.for_inference(model)
    signature = Signature.of(model, what, example)

    def write(target: Path) -> None:
        if route == "ExportArchive":
            with tempfile.TemporaryDirectory(dir=target.parent) as directory:
                write_saved_model(model, signature, Path(directory))
                tf_graph.write_saved_model(Path(directory), ENDPOINT, target)
        else:
            tf_graph.write_function(signature.call, target)

    return Trained(
        inputs=signature.inputs,
        outputs=signature.outputs,
        answer=signature.answer,
        write=write,
        tools={"keras": keras.__version__, **tf_graph.tools()},
        notes=(*notes, *_remarks(model)),
    )


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, by name.

    Attributes:
        inputs: batch dimension first and free.
        outputs: names.
        call: ``tf.function`` of the inputs in their order, that answers a dictionary.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    call: Any

    @classmethod
    def of(cls, model: Any, what: str, example: Path | None = None) -> Signature:
        """Read it off a built model.

        Raises:
            NotExportable: see ``trained``.
        """
        packing = _packing(model, what, example)
        inputs = tuple(_input(tensor, what) for tensor in tf.nest.flatten(packing))
        call, outputs = _call(model, inputs, packing)
        return cls(inputs, outputs, call)

    def answer(self, feeds: Arrays) -> dict[str, Any]:
        """What the model answers."""
        given = (tf.constant(feeds[spec.name]) for spec in self.inputs)
        return {name: value.numpy() for name, value in self.call(*given).items()}


def write_saved_model(model: Any, signature: Signature, directory: Path) -> None:
    """Write a SavedModel with the one endpoint ``serve``."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(ENDPOINT, signature.call)
    archive.write_out(directory, verbose=False)


def save(model: Any, directory: Path) -> None:
    """Write a live model as a SavedModel, for a process of its own to convert.

    Raises:
        NotExportable: see ``trained``.
    """
    what = f"the model '{model.name}'"
    _check_weights(model, what)
    _check_layers(model, what)
    model, _ = keras_rebuild.for_inference(model)
    write_saved_model(model, Signature.of(model, what), directory)


def _loaded(request: Request) -> Any:
    try:
        return keras.models.load_model(request.source, compile=False, safe_mode=not request.trust)
    except Exception as error:  # a corrupt file raises nearly anything
        said = first_line(error)
        text = str(error)
    if not zipfile.is_zipfile(request.source) and not h5py.is_hdf5(request.source):
        raise NotExportable(f"{request.source} is not a file of Keras, or is cut off")
    if is_keras_2(request.source):
        raise NotExportable(
            f"{request.source} was written by Keras 2, and Keras 3 cannot load it ({said}); "
            "convert it in an environment of its own: pip install 'farthing[cpu,keras2]'"
        )
    if "Lambda" in text and "safe_mode" in text:
        raise NotExportable(
            f"{request.source} holds a Lambda layer, which is code; if you trust the file, add "
            "--trust"
        )
    unknown = _UNKNOWN.search(text)
    if unknown:
        raise NotExportable(
            f"{request.source} needs '{unknown[1]}', which is not registered; decorate it with "
            "@keras.saving.register_keras_serializable(), and name its module with --import"
        )
    raise NotExportable(f"Keras cannot load {request.source}: {said}")


def _check_weights(model: Any, what: str) -> None:
    for weight in model.weights:
        values = np.asarray(weight.value)
        if values.dtype.kind == "f" and not np.isfinite(values.astype(np.float64)).all():
            raise NotExportable(f"weight '{weight.path}' of {what} holds NaN or infinity")


def _check_layers(model: Any, what: str) -> None:
    for layer in layers_of(model):
        cure = _CANNOT.get(type(layer).__name__)
        if cure:
            raise NotExportable(
                f"layer '{layer.name}' of {what} is one of {type(layer).__name__}, which has no "
                f"ONNX form: {cure}"
            )


def layers_of(model: Any) -> Iterator[Any]:
    """All layers, those inside nested models too."""
    yield from model._flatten_layers(include_self=False)


def _remarks(model: Any) -> Iterator[str]:
    masked = any(
        getattr(layer, "mask_zero", False) or type(layer).__name__ == "Masking"
        for layer in layers_of(model)
    )
    recurrent = [
        layer for layer in layers_of(model) if type(layer).__name__ in ("LSTM", "GRU", "SimpleRNN")
    ]
    if masked and recurrent:
        yield (
            f"'{recurrent[0].name}' gets a mask, so it becomes a Loop, which no kernel fuses and "
            "int8 does not reach; trained with mask_zero=False it is one LSTM operator"
        )
    elif any(type(layer).__name__ in ("GRU", "SimpleRNN") for layer in recurrent):
        yield (
            f"'{recurrent[0].name}' becomes a Loop, which no kernel fuses and int8 does not reach; "
            "an LSTM without mask is one operator"
        )


def _packing(model: Any, what: str, example: Path | None) -> Any:
    """How the model wants its inputs: a tensor, a list, a dictionary, of symbolic tensors."""
    if getattr(model, "_inputs_struct", None) is not None:
        return model._inputs_struct
    if getattr(model, "inputs", None):
        return model.inputs[0] if len(model.inputs) == 1 else list(model.inputs)
    # A subclassed model remembers the shapes that it was built with, and no dtypes.
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise NotExportable(
            f"{what} was saved before it was built, so its inputs are unknown; call it once on "
            "data, then save it again"
        )
    whole = _integers(example)
    return _symbolic(shapes["input_shape"] if len(shapes) == 1 else shapes, "inputs", whole)


def _symbolic(shapes: Any, name: str, whole: frozenset[str]) -> Any:
    if isinstance(shapes, Mapping):
        return {key: _symbolic(shape, key, whole) for key, shape in shapes.items()}
    if shapes and isinstance(shapes[0], tuple | list):
        return [_symbolic(shape, f"input_{i}", whole) for i, shape in enumerate(shapes)]
    dtype = "int32" if whole & {name, rows.ONLY_INPUT} else "float32"
    return keras.KerasTensor((None, *shapes[1:]), dtype=dtype, name=name)


def _integers(example: Path | None) -> frozenset[str]:
    """Names of the arrays of whole numbers in a file of rows."""
    if example is None:
        return frozenset()
    with np.load(example, allow_pickle=False) as archive:
        return frozenset(name for name in archive.files if archive[name].dtype.kind in "iu")


def _input(tensor: Any, what: str) -> TensorSpec:
    name = tensor.name
    if not _NAME.fullmatch(name):
        raise NotExportable(
            f"input '{name}' of {what} cannot be exported under that name; rename it with "
            "letters, digits and '_' only"
        )
    # A net that was built by calling it remembers that call's batch; what is exported is checked at
    # several.
    rest = (-1 if size is None else int(size) for size in tensor.shape[1:])
    return TensorSpec(name, tf_graph.datatype(name, str(tensor.dtype)), (-1, *rest))


def _call(model: Any, inputs: tuple[TensorSpec, ...], packing: Any) -> tuple[Any, tuple[str, ...]]:
    """The traced call, and the names of its outputs."""
    dtypes = [tensor.dtype for tensor in tf.nest.flatten(packing)]
    specs = [
        tf.TensorSpec([None if n == -1 else n for n in spec.shape], dtype, name=spec.name)
        for spec, dtype in zip(inputs, dtypes, strict=True)
    ]
    names: list[str] = []

    def answer(*tensors: Any) -> dict[str, Any]:
        given = tf.nest.pack_sequence_as(packing, list(tensors))
        answered = model(given, training=False)
        names[:] = _output_names(model, answered)
        return dict(zip(names, tf.nest.flatten(answered), strict=True))

    # autograph would read source files again while tracing.
    function = tf.function(answer, input_signature=specs, autograph=False)
    function.get_concrete_function()  # which learns the names
    return function, tuple(names)


def _output_names(model: Any, answered: Any) -> list[str]:
    if isinstance(answered, Mapping):
        return sorted(answered)  # tf.nest sorts dictionaries
    names = list(getattr(model, "output_names", None) or [])
    flat = tf.nest.flatten(answered)
    if len(set(names)) == len(flat):  # an LSTM's outputs and states all bear its name
        return names
    layers = getattr(model, "layers", None)
    if len(flat) == 1 and layers and isinstance(model, keras.Sequential):
        return [layers[-1].name]  # a Sequential has no names of outputs
    return ["output"] if len(flat) == 1 else [f"output_{i}" for i in range(len(flat))]
