"""Wire to numpy and back, with every shape, size and dtype checked and no copy that can be avoided.

The rules are the v2 protocol's: raw contents are little-endian, row-major and unpadded; a BYTES
element is a 4-byte little-endian length and its data; raw and typed contents may not be mixed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.datatypes import BY_NAME
from service.errors import InvalidInput, Unsupported
from service.manifest import TensorSpec
from service.proto import inference_pb2 as pb

_Tensor = pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor

_LENGTH = struct.Struct("<I")
_QUOTED = 64
_DIMENSIONS = 32  # numpy's arrays have not many more
_EMPTY_ELEMENTS = 2**24


@dataclass(frozen=True)
class Rows:
    """What one request asks to run.

    Attributes:
        feeds: input name -> array, shape as the model's, the first dimension of length ``rows``
            where the model is batched.
        rows: rows of the batch; 1 for a model without a batch dimension.
    """

    feeds: dict[str, np.ndarray[Any, Any]]
    rows: int


def decode(
    request: pb.ModelInferRequest,
    inputs: Sequence[TensorSpec],
    *,
    batched: bool,
    max_rows: int | None = None,
) -> Rows:
    """The request's tensors as arrays that match the model's inputs.

    Numeric raw tensors are views of the request's bytes, not copies. What can be refused by its
    name or shape is refused before any contents are looked at.

    Args:
        request: as it came.
        inputs: what the model takes.
        batched: whether the first dimension counts rows.
        max_rows: the batch limit; None for no limit.

    Raises:
        InvalidInput: a tensor is missing, unknown, given twice, or does not fit in name, datatype,
            shape or size.
        Unsupported: a tensor asks for an extension that is not there.
    """
    specs = {spec.name: spec for spec in inputs}
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"the request has {len(request.inputs)} inputs but {len(raw)} raw contents; "
            "send one for each input"
        )
    shapes: dict[str, list[int]] = {}
    for tensor in request.inputs:
        if tensor.name not in specs:
            raise InvalidInput(
                f"the model has no input {_quoted(tensor.name)}; it takes {_names(specs)}"
            )
        if tensor.name in shapes:
            raise InvalidInput(f"input '{tensor.name}' is given twice")
        _refuse_extensions(tensor)
        shapes[tensor.name] = _checked_shape(tensor, specs[tensor.name])
        if raw and tensor.HasField("contents"):
            raise InvalidInput(f"input '{tensor.name}' has raw and typed contents; send one")
    missing = [name for name in specs if name not in shapes]
    if missing:
        raise InvalidInput(f"input {_names(missing)} is missing")
    rows = _row_count(shapes, max_rows) if batched else 1
    feeds = {
        tensor.name: _from_raw(raw[index], specs[tensor.name], shapes[tensor.name])
        if raw
        else _from_typed(tensor, specs[tensor.name], shapes[tensor.name])
        for index, tensor in enumerate(request.inputs)
    }
    return Rows(feeds, rows)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _quoted(text: str) -> str:
    """What a caller sent, at a length that can be sent back."""
    return f"'{text}'" if len(text) <= _QUOTED else f"'{text[:_QUOTED]}...'"


def _refuse_extensions(tensor: _Tensor) -> None:
    """Silently doing without would have the caller read memory that nobody wrote."""
    for name in ("shared_memory_region", "classification"):
        if name in tensor.parameters:
            raise Unsupported(f"this server does not implement the tensor parameter '{name}'")


def _row_count(shapes: dict[str, list[int]], max_rows: int | None) -> int:
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) != 1:
        raise InvalidInput(f"the inputs have different numbers of rows: {sorted(counts)}")
    rows = counts.pop()
    if rows == 0:
        raise InvalidInput("the request has no rows")
    if max_rows is not None and rows > max_rows:
        raise InvalidInput(
            f"the request has {rows} rows; the model runs at most {max_rows} at a time"
        )
    return rows


def _checked_shape(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> list[int]:
    if tensor.datatype != spec.datatype:
        raise InvalidInput(
            f"input '{spec.name}' is {_quoted(tensor.datatype)}; the model takes {spec.datatype}"
        )
    shape = list(tensor.shape[:_DIMENSIONS])
    fits = len(shape) == len(spec.shape) and all(
        given >= 0 and wanted in (-1, given)
        for given, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input '{spec.name}' has shape {shape}; the model takes {list(spec.shape)}, "
            "where -1 is free"
        )
    # Without elements no bytes speak against the other dimensions, and the outputs may be as large.
    if 0 in shape and math.prod(max(size, 1) for size in shape) > _EMPTY_ELEMENTS:
        raise InvalidInput(f"input '{spec.name}' has shape {shape}, which is too large")
    return shape


def _from_raw(data: bytes, spec: TensorSpec, shape: list[int]) -> np.ndarray[Any, Any]:
    elements = math.prod(shape)
    if spec.datatype == "BYTES":
        return _objects(_split_bytes(data, elements, spec.name), shape, spec.name)
    dtype = BY_NAME[spec.datatype].dtype
    if len(data) != elements * dtype.itemsize:
        raise InvalidInput(
            f"input '{spec.name}' has {len(data)} bytes; shape {shape} of {spec.datatype} takes "
            f"{elements * dtype.itemsize}"
        )
    return _reshaped(np.frombuffer(data, dtype=dtype), shape, spec.name)


def _split_bytes(data: bytes, elements: int, name: str) -> list[bytes]:
    parts: list[bytes] = []
    offset = 0
    # One element too many tells it; the rest need not be split.
    while offset + _LENGTH.size <= len(data) and len(parts) <= elements:
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if length > len(data) - offset:
            raise InvalidInput(f"input '{name}': a BYTES element is longer than the data")
        parts.append(data[offset : offset + length])
        offset += length
    if offset != len(data) or len(parts) != elements:
        raise InvalidInput(
            f"input '{name}' holds {len(parts)} whole BYTES elements; its shape takes {elements}"
        )
    return parts


def _from_typed(
    tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, shape: list[int]
) -> np.ndarray[Any, Any]:
    datatype = BY_NAME[spec.datatype]
    if not datatype.contents:
        raise InvalidInput(f"input '{spec.name}' is {spec.datatype}, which is sent as raw contents")
    for field, _ in tensor.contents.ListFields():
        if field.name != datatype.contents:
            raise InvalidInput(
                f"input '{spec.name}' is {spec.datatype}, sent in {field.name}; "
                f"use {datatype.contents}"
            )
    values = getattr(tensor.contents, datatype.contents)
    if len(values) != math.prod(shape):
        raise InvalidInput(
            f"input '{spec.name}' has {len(values)} elements; shape {shape} takes "
            f"{math.prod(shape)}"
        )
    if spec.datatype == "BYTES":
        return _objects(values, shape, spec.name)
    try:
        return _reshaped(np.array(values, dtype=datatype.dtype), shape, spec.name)
    except OverflowError:
        raise InvalidInput(
            f"input '{spec.name}' holds a number that {spec.datatype} cannot"
        ) from None


def _reshaped(array: np.ndarray[Any, Any], shape: list[int], name: str) -> np.ndarray[Any, Any]:
    try:
        return array.reshape(shape)
    except ValueError:  # no elements, but dimensions that numpy cannot count
        raise InvalidInput(f"input '{name}' has shape {shape}, which is too large") from None


def _objects(values: Iterable[bytes], shape: list[int], name: str) -> np.ndarray[Any, Any]:
    # ONNX Runtime's strings are str; undecodable bytes could not come back unchanged.
    try:
        decoded = [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"input '{name}' has a BYTES element that is not UTF-8, as the model's strings are"
        ) from None
    return _reshaped(np.array(decoded, dtype=np.object_), shape, name)


def requested_outputs(
    request: pb.ModelInferRequest, outputs: Sequence[TensorSpec]
) -> list[TensorSpec]:
    """The outputs this request wants, in its order; all of them if it names none.

    Raises:
        InvalidInput: it names an output twice, or one the model does not have.
    """
    if not request.outputs:
        return list(outputs)
    specs = {spec.name: spec for spec in outputs}
    wanted: dict[str, TensorSpec] = {}
    for output in request.outputs:
        _refuse_extensions(output)
        if output.name not in specs:
            raise InvalidInput(
                f"the model has no output {_quoted(output.name)}; it gives {_names(specs)}"
            )
        if output.name in wanted:
            raise InvalidInput(f"output '{output.name}' is asked for twice")
        wanted[output.name] = specs[output.name]
    return list(wanted.values())


def encode(
    response: pb.ModelInferResponse,
    outputs: dict[str, np.ndarray[Any, Any]],
    wanted: Sequence[TensorSpec],
) -> None:
    """Append the wanted arrays to the response, as raw contents."""
    for spec in wanted:
        array = outputs[spec.name]
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        response.raw_output_contents.append(to_raw(array, spec))


def to_raw(array: np.ndarray[Any, Any], spec: TensorSpec) -> bytes:
    """An array as raw contents: little-endian, row-major; strings and bytes as BYTES."""
    if spec.datatype != "BYTES":
        return array.astype(BY_NAME[spec.datatype].dtype, copy=False).tobytes()
    encoded = (v if isinstance(v, bytes) else str(v).encode() for v in array.reshape(-1))
    return b"".join(_LENGTH.pack(len(value)) + value for value in encoded)
