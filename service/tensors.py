"""Wire to numpy, with every shape, size and dtype checked and no copy that can be avoided.

The rules are the v2 protocol's: raw contents are little-endian, row-major and unpadded; a BYTES
element is a 4-byte little-endian length and its data; raw and typed contents may not be mixed; an
input in shared memory has neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service import strings
from service.datatypes import BY_NAME
from service.errors import InvalidInput
from service.manifest import TensorSpec
from service.parameters import DEFAULT, Limits, listed, quoted, slot
from service.proto import inference_pb2 as pb
from service.slots import Slot, Slots

Array = np.ndarray[Any, Any]

_DIMENSIONS = 32  # numpy's arrays have not many more
_EMPTY_ELEMENTS = 2**24
# Elements that become objects of Python, one by one while all others wait: less than a second's.
_MOST_STRINGS, _MOST_TYPED = 2**20, 2**23
_STRING_BYTES = 57  # of a str of Python beside its characters, with the pointer to it


@dataclass(slots=True)  # not frozen: that takes three times as long, for every request
class Rows:
    """What one request asks to run.

    Attributes:
        feeds: input name -> array, shape as the model's, the first dimension of length ``rows``
            where the model is batched.
        rows: rows of the batch; 1 for a model without a batch dimension.
        nbytes: what the arrays hold, roughly for strings.
    """

    feeds: dict[str, Array]
    rows: int
    nbytes: int


@dataclass(slots=True)
class _Input:
    """One input whose name, datatype and shape fit the model."""

    tensor: pb.ModelInferRequest.InferInputTensor
    spec: TensorSpec
    shape: list[int]
    slot: Slot | None


def decode(
    request: pb.ModelInferRequest,
    inputs: Sequence[TensorSpec],
    *,
    batched: bool,
    max_rows: int | None = None,
    limits: Limits = DEFAULT,
    regions: Slots | None = None,
) -> Rows:
    """The request's tensors as arrays that match the model's inputs.

    Numeric raw tensors are views of the request's bytes, not copies. What can be refused by its
    name or shape is refused before any contents are looked at.

    Args:
        request: as it came.
        inputs: what the model takes.
        batched: whether the first dimension counts rows.
        max_rows: of one request; None for no limit.
        limits: how much the request may hold.
        regions: the shared memory that tensors may lie in; None where it is switched off.

    Raises:
        InvalidInput: a tensor is missing, unknown, given twice, or does not fit in name, datatype,
            shape or size.
        Unsupported: a tensor lies in shared memory, which is switched off.
    """
    given = _checked(request, inputs, limits, regions)
    rows = _row_count([item.shape for item in given], max_rows) if batched else 1
    contents = iter(request.raw_input_contents)  # of each access protobuf makes a copy
    raw = bool(request.raw_input_contents)
    feeds: dict[str, Array] = {}
    nbytes = 0
    for item in given:
        if item.slot is not None:
            array, size = _from_raw(item.slot.read(), item.spec, item.shape)
        elif raw:
            array, size = _from_raw(next(contents), item.spec, item.shape)
        else:
            array, size = _from_typed(item.tensor, item.spec, item.shape)
        feeds[item.spec.name] = array
        nbytes += size
    return Rows(feeds, rows, nbytes)


def _checked(
    request: pb.ModelInferRequest,
    inputs: Sequence[TensorSpec],
    limits: Limits,
    regions: Slots | None,
) -> list[_Input]:
    """The inputs in the request's order, with all that their contents do not tell."""
    limits.check_count(len(request.inputs), "inputs")
    specs = {spec.name: spec for spec in inputs}
    raw = len(request.raw_input_contents)
    given: dict[str, _Input] = {}
    for tensor in request.inputs:
        item = _checked_input(tensor, specs, limits, regions)
        if item.spec.name in given:
            raise InvalidInput(f"input '{item.spec.name}' is given twice")
        if (raw or item.slot) and tensor.HasField("contents"):
            other = "shared memory" if item.slot else "raw"
            raise InvalidInput(f"input '{item.spec.name}' has {other} and typed contents; send one")
        given[item.spec.name] = item
    missing = [spec.name for spec in inputs if spec.name not in given and not spec.optional]
    if missing:
        raise InvalidInput(f"input {listed(missing)} is missing")
    items = list(given.values())
    _check_elements(items, raw)
    slots = [item.slot.byte_size for item in items if item.slot is not None]
    if raw and raw != len(given) - len(slots):
        raise InvalidInput(
            f"the request has {len(given) - len(slots)} inputs outside of shared memory but {raw} "
            "raw contents; send one for each"
            if slots
            else f"the request has {len(given)} inputs but {raw} raw contents; send one for each"
        )
    if slots and sum(slots) > limits.max_bytes:
        raise InvalidInput(
            f"the inputs in shared memory have {sum(slots)} bytes; this server takes at most "
            f"{limits.max_bytes}"
        )
    return items


def _checked_input(
    tensor: pb.ModelInferRequest.InferInputTensor,
    specs: Mapping[str, TensorSpec],
    limits: Limits,
    regions: Slots | None,
) -> _Input:
    name = tensor.name
    spec = specs.get(name)
    if spec is None:
        limits.check_name(name, "an input")
        raise InvalidInput(f"the model has no input {quoted(name)}; it takes {listed(specs)}")
    shape = _checked_shape(tensor, spec)
    if not tensor.parameters:
        return _Input(tensor, spec, shape, None)
    place = slot(tensor.parameters, f"input '{name}'", limits=limits, regions=regions)
    if place is not None:
        _check_size(place.byte_size, spec, shape)
    return _Input(tensor, spec, shape, place)


def _check_elements(given: Sequence[_Input], raw: int) -> None:
    """Refuse what would keep the event loop for seconds."""
    texts = sum(math.prod(i.shape) for i in given if i.spec.datatype == "BYTES")
    if texts > _MOST_STRINGS:
        raise InvalidInput(
            f"the request has {texts} BYTES elements; this server takes at most {_MOST_STRINGS}"
        )
    if raw:  # and then nothing is typed
        return
    typed = sum(math.prod(i.shape) for i in given if i.tensor.HasField("contents"))
    if typed > _MOST_TYPED:
        raise InvalidInput(
            f"the request has {typed} elements in typed contents; send more than {_MOST_TYPED} as "
            "raw contents"
        )


def _row_count(shapes: Sequence[list[int]], max_rows: int | None) -> int:
    counts = {shape[0] for shape in shapes}
    if len(counts) != 1:
        raise InvalidInput(
            f"the inputs have different numbers of rows: {sorted(counts)}"
            if counts
            else "the request has no inputs to count rows by; send one"
        )
    rows = counts.pop()
    if rows == 0:
        raise InvalidInput("the request has no rows")
    if max_rows is not None and rows > max_rows:
        told = f"the request has {rows} rows; this server takes at most {max_rows} of this model"
        raise InvalidInput(f"{told} at a time: send fewer, or have its --max-queue-rows raised")
    return rows


def _checked_shape(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> list[int]:
    if tensor.datatype != spec.datatype:
        raise InvalidInput(
            f"input '{spec.name}' is {quoted(tensor.datatype)}; the model takes {spec.datatype}"
        )
    shape = tensor.shape[:_DIMENSIONS]
    fits = len(shape) == len(spec.shape)
    for given, wanted in zip(shape, spec.shape, strict=False):
        if given < 0 or wanted not in (-1, given):
            fits = False
    if not fits:
        raise InvalidInput(
            f"input '{spec.name}' has shape {shape}; the model takes {list(spec.shape)}, "
            "where -1 is free"
        )
    # Without elements no bytes speak against the other dimensions, and the outputs may be as large.
    if 0 in shape and math.prod(max(size, 1) for size in shape) > _EMPTY_ELEMENTS:
        raise InvalidInput(f"input '{spec.name}' has shape {shape}, which is too large")
    return shape


def _check_size(nbytes: int, spec: TensorSpec, shape: list[int]) -> None:
    """Of strings only their lengths tell it."""
    wanted = math.prod(shape) * BY_NAME[spec.datatype].dtype.itemsize
    if spec.datatype != "BYTES" and nbytes != wanted:
        raise InvalidInput(
            f"input '{spec.name}' has {nbytes} bytes; shape {shape} of {spec.datatype} takes "
            f"{wanted}"
        )


def _from_raw(data: bytes, spec: TensorSpec, shape: list[int]) -> tuple[Array, int]:
    """The array, and the bytes it holds."""
    _check_size(len(data), spec, shape)
    if spec.datatype == "BYTES":
        elements = math.prod(shape)
        array = _objects(strings.split(data, elements, spec.name), shape, spec.name)
        return array, len(data) + elements * _STRING_BYTES
    if spec.datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise InvalidInput(f"input '{spec.name}' is BOOL and has a byte that is neither 0 nor 1")
    array = np.frombuffer(data, dtype=BY_NAME[spec.datatype].dtype)
    return _reshaped(array, shape, spec.name), len(data)


def _from_typed(
    tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, shape: list[int]
) -> tuple[Array, int]:
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
        size = sum(map(len, values)) + len(values) * _STRING_BYTES
        return _objects(values, shape, spec.name), size
    try:
        array = _reshaped(np.array(values, dtype=datatype.dtype), shape, spec.name)
    except OverflowError:
        raise InvalidInput(
            f"input '{spec.name}' holds a number that {spec.datatype} cannot"
        ) from None
    return array, array.nbytes


def _reshaped(array: Array, shape: list[int], name: str) -> Array:
    try:
        return array.reshape(shape)
    except ValueError:  # no elements, but dimensions that numpy cannot count
        raise InvalidInput(f"input '{name}' has shape {shape}, which is too large") from None


def _objects(values: Iterable[bytes], shape: list[int], name: str) -> Array:
    # ONNX Runtime's strings are str; undecodable bytes could not come back unchanged.
    try:
        decoded = [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"input '{name}' has a BYTES element that is not UTF-8, as the model's strings are"
        ) from None
    return _reshaped(np.array(decoded, dtype=np.object_), shape, name)


def to_raw(array: Array, spec: TensorSpec) -> bytes:
    """An array as raw contents: little-endian, row-major; strings and bytes as BYTES."""
    if spec.datatype != "BYTES":
        return array.astype(BY_NAME[spec.datatype].dtype, copy=False).tobytes()
    return strings.packed(array)
