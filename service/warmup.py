"""Samples of ``model_warmup``: what a model runs before callers come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from service.configfields import DATATYPE_NAMES, unusable
from service.datatypes import BY_NAME
from service.errors import ModelUnusable
from service.manifest import Manifest, TensorSpec
from service.proto import inference_pb2 as pb

DIRECTORY = "warmup"
ZERO, RANDOM, FILE = "zero_data", "random_data", "input_data_file"

_MAX_RUNS = 10_000
_MAX_BYTES = 2**30
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Tensor:
    """One input of a sample.

    Attributes:
        datatype: the v2 protocol's name.
        dims: of one row, without the batch dimension.
        source: ``zero_data``, ``random_data`` or ``input_data_file``.
        file: its name in the model's directory ``warmup``; empty for the others.
    """

    datatype: str
    dims: tuple[int, ...]
    source: str
    file: str = ""


@dataclass(frozen=True)
class Warmup:
    """One sample.

    Attributes:
        name: of the sample.
        rows: the batch; the row is repeated that often.
        runs: how often it is run.
        tensors: input -> what it is fed.
    """

    name: str
    rows: int
    runs: int
    tensors: Mapping[str, Tensor]


def read(samples: Sequence[pb.ModelWarmup]) -> tuple[Warmup, ...]:
    """The samples of a configuration.

    Raises:
        ModelUnusable: one lacks data, has impossible dimensions or runs too often.
    """
    return tuple(_sample(sample) for sample in samples)


def _sample(sample: pb.ModelWarmup) -> Warmup:
    where = f"model_warmup '{sample.name}'"
    if sample.count > _MAX_RUNS:
        raise unusable(f"{where} has count {sample.count}; it takes at most {_MAX_RUNS}")
    tensors = {
        name: _tensor(f"{where}, input '{name}'", tensor) for name, tensor in sample.inputs.items()
    }
    return Warmup(sample.name, max(sample.batch_size, 1), max(sample.count, 1), tensors)


def _tensor(where: str, tensor: pb.ModelWarmup.Input) -> Tensor:
    source = tensor.WhichOneof("input_data_type")
    if source is None:
        raise unusable(f"{where} has none of {ZERO}, {RANDOM} and {FILE}")
    if tensor.data_type not in DATATYPE_NAMES:
        raise unusable(f"{where} has no data_type that this server knows")
    if any(size < 1 for size in tensor.dims):
        raise unusable(f"{where} has dims {list(tensor.dims)}; each takes 1 or more")
    file = tensor.input_data_file
    if source == FILE and (
        not file or file.startswith(".") or any(sign in file for sign in "/\\\0")
    ):
        raise unusable(
            f"{where} has {FILE} {file!r}; give the name of a file in the directory {DIRECTORY}"
        )
    return Tensor(DATATYPE_NAMES[tensor.data_type], tuple(tensor.dims), source, file)


def zeros(contract: Manifest, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Zeros (empty texts) for each input that must be there; free dimensions are 1."""
    made = {}
    for spec in contract.inputs:
        if spec.optional:
            continue
        shape = [1 if size == -1 else size for size in spec.shape]
        if contract.batched:
            shape[0] = rows
        empty = spec.datatype == "BYTES"
        dtype = BY_NAME[spec.datatype].dtype
        made[spec.name] = np.full(shape, "", np.object_) if empty else np.zeros(shape, dtype)
    return made


def feeds(
    sample: Warmup, contract: Manifest, directory: Path
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """The feeds of each run of a sample, with the shapes that callers send.

    Random data is between 0 and 1; random texts are empty, as in Triton. A file holds one row,
    little-endian; texts each have their length before them, in four bytes.

    Args:
        sample: of the model's configuration.
        contract: the model's, as callers see it.
        directory: the model's.

    Raises:
        ModelUnusable: the sample is not one that the model takes, or its file cannot be read.
    """
    _check(sample, contract)
    rows = (sample.rows,) if contract.batched else ()
    arrays = {
        name: _array(tensor, rows, directory / DIRECTORY, f"model_warmup '{sample.name}'")
        for name, tensor in sample.tensors.items()
    }
    for _ in range(sample.runs):
        yield arrays


def _check(sample: Warmup, contract: Manifest) -> None:
    where = f"model_warmup '{sample.name}'"
    if sample.rows > 1 and not contract.batched:
        raise unusable(f"{where} has batch_size {sample.rows}; the model has no batch dimension")
    known = {spec.name: spec for spec in contract.inputs}
    for name, tensor in sample.tensors.items():
        if name not in known:
            raise unusable(f"{where} has an input '{name}'; the model has {', '.join(known)}")
        _check_tensor(f"{where}, input '{name}'", tensor, known[name], batched=contract.batched)
        if sample.rows * prod(tensor.dims) * BY_NAME[tensor.datatype].dtype.itemsize > _MAX_BYTES:
            raise unusable(f"{where}, input '{name}' is larger than {_MAX_BYTES} bytes")
    for name, spec in known.items():
        if name not in sample.tensors and not spec.optional:
            raise unusable(f"{where} lacks the input '{name}'")


def _check_tensor(where: str, tensor: Tensor, spec: TensorSpec, *, batched: bool) -> None:
    if tensor.datatype != spec.datatype:
        raise unusable(f"{where} is {tensor.datatype}; the model's is {spec.datatype}")
    shape = spec.shape[1:] if batched else spec.shape
    if len(shape) != len(tensor.dims) or any(
        own not in (-1, size) for own, size in zip(shape, tensor.dims, strict=True)
    ):
        raise unusable(f"{where} has dims {list(tensor.dims)}; the model takes {list(shape)}")


def _array(
    tensor: Tensor, rows: tuple[int, ...], directory: Path, where: str
) -> np.ndarray[Any, Any]:
    shape = (*rows, *tensor.dims)
    if tensor.source == FILE:
        row = _from_file(tensor, directory / tensor.file, where).reshape(tensor.dims)
        return np.array(np.broadcast_to(row, shape))
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    dtype = BY_NAME[tensor.datatype].dtype
    if tensor.source == ZERO:
        return np.zeros(shape, dtype=dtype)
    return _random(shape, tensor.datatype)


def _random(shape: tuple[int, ...], datatype: str) -> np.ndarray[Any, Any]:
    # The same numbers at each start, so that a failure comes again.
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    if datatype == "BF16":  # numpy holds its bits: the upper half of a float's
        return (values.view(np.uint32) >> 16).astype("<u2")
    # Numbers between 0 and 1 are 0 or 1 where there are no others.
    dtype = BY_NAME[datatype].dtype
    return (values if dtype.kind == "f" else values.round()).astype(dtype)


def _from_file(tensor: Tensor, path: Path, where: str) -> np.ndarray[Any, Any]:
    """One row's elements, flat."""
    count, dtype = prod(tensor.dims), BY_NAME[tensor.datatype].dtype
    needed = _MAX_BYTES if tensor.datatype == "BYTES" else count * dtype.itemsize
    try:
        with path.open("rb") as file:
            data = file.read(needed)
    except OSError as error:
        raise ModelUnusable(
            f"{path} of {where} cannot be read: {error.strerror}",
            told=f"config: {where} has a file that cannot be read",
        ) from error
    if tensor.datatype == "BYTES":
        texts = _texts(data, where)
        if len(texts) != count:
            raise unusable(f"{where} has a file of {len(texts)} texts; it needs {count}")
        return np.array(texts, dtype=np.object_)
    if len(data) < needed:
        raise unusable(f"{where} has a file of {len(data)} bytes; it needs {needed}")
    return np.frombuffer(data, dtype=dtype)


def _texts(data: bytes, where: str) -> list[bytes]:
    texts, at = [], 0
    while at < len(data):
        start = at + _LENGTH_BYTES
        end = start + int.from_bytes(data[at:start], "little")
        if start > len(data) or end > len(data):
            raise unusable(f"{where} has a file of texts that ends within one")
        texts.append(data[start:end])
        at = end
    return texts
