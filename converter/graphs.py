"""ONNX files: read without following them elsewhere, checked, named, written whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from service.errors import FarthingError

BATCH = "batch"
_LARGEST_BYTES = 2**31 - 2**20  # of one protobuf message


class BadGraph(FarthingError):
    """An ONNX file that cannot be used, with the reason."""


def read(path: Path) -> onnx.ModelProto:
    """Read a graph with all its weights.

    Raises:
        BadGraph: it is no ONNX file, or its weights lie outside its own directory, or are missing.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise BadGraph(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf raises classes of its own
        raise BadGraph(f"{path} is not an ONNX file, or is cut off") from error
    home = path.resolve().parent
    for tensor in _tensors(model.graph):
        if external_data_helper.uses_external_data(tensor):
            _check_location(tensor, home, path)
    try:
        external_data_helper.load_external_data_for_model(model, str(home))
    except Exception as error:  # as above
        raise BadGraph(f"{path}: its external weights cannot be read") from error
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph into one file.

    Raises:
        BadGraph: it is larger than one ONNX file can be, 2 GB.
    """
    if model.ByteSize() > _LARGEST_BYTES:
        raise BadGraph(
            f"the graph has {model.ByteSize() / 1e9:.1f} GB, and one ONNX file holds 2; models of "
            "that size are not supported"
        )
    onnx.save(model, path)


def check(path: Path, what: str) -> None:
    """Make sure that a graph is valid, and its weights are numbers.

    Raises:
        BadGraph: with the checker's first line, or the weight's name.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # checker and protobuf raise classes of their own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise BadGraph(f"{what} is not a valid ONNX graph: {first}") from error
    for tensor in onnx.load(path).graph.initializer:
        values = numpy_helper.to_array(tensor)
        # Minus infinity is what attention masks are made of.
        if values.dtype.kind == "f" and not (np.isfinite(values) | (values == -np.inf)).all():
            raise BadGraph(f"weight '{tensor.name}' of {what} holds NaN or infinity")


def name_dimensions(model: onnx.ModelProto, names: Mapping[str, Sequence[str]]) -> None:
    """Call every free first dimension ``batch``, and the later ones of inputs as given.

    Exporters give each dimension a name of its own, such as ``unk__871``. Only where every input
    and output has a free first dimension: else it counts something else.

    Args:
        model: changed in place.
        names: input name -> names of its free dimensions after the first.
    """
    values = (*model.graph.input, *model.graph.output)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    if all(shape and not shape[0].HasField("dim_value") for shape in shapes.values()):
        for shape in shapes.values():
            shape[0].dim_param = BATCH
    for value in model.graph.input:
        free = [dim for dim in shapes[value.name][1:] if not dim.HasField("dim_value")]
        for dim, name in zip(free, names.get(value.name, ()), strict=False):
            dim.dim_param = name
    # What was inferred with the old names would contradict the new ones.
    del model.graph.value_info[:]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors in a graph: initializers, attributes, those of subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _check_location(tensor: onnx.TensorProto, home: Path, path: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    target = (home / location).resolve()  # through links as well
    if not location or not target.is_relative_to(home):
        raise BadGraph(
            f"{path} keeps weight '{tensor.name}' in '{location}', outside its own directory, "
            "which is not followed; move the file beside it"
        )
    if not target.is_file():
        raise BadGraph(f"{path} keeps weight '{tensor.name}' in '{location}', which is not there")
