"""Requests to send: rows from a file, or drawn for the model's inputs; never all zeros."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.datatypes import BY_NAME
from service.errors import InvalidSetting
from service.proto import inference_pb2 as pb

DISTINCT = 64
_FREE_DIMENSION = 16


def requests_for(
    stub: Any, model: str, *, version: str = "", rows_file: Path | None = None, rows: int = 1
) -> list[pb.ModelInferRequest]:
    """Requests for a served model, built once so that building them is not measured.

    Args:
        stub: a GRPCInferenceService stub of the target.
        model: the model's name.
        version: its version; empty for the server's own pick.
        rows_file: .npz with one array for each input under its name, or under ``x``.
        rows: rows in each request.

    Raises:
        InvalidSetting: the file does not fit the model.
        grpc.RpcError: the target does not answer, or does not know the model.
    """
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model, version=version), timeout=10)
    arrays = _read(rows_file, metadata.inputs) if rows_file else _draw(metadata.inputs, rows)
    batched = all(list(tensor.shape[:1]) == [-1] for tensor in metadata.inputs)
    total = len(next(iter(arrays.values())))
    if not batched:
        return [_request(model, version, metadata.inputs, arrays, slice(None))]
    starts = range(0, max(1, total - rows + 1), rows)
    return [
        _request(model, version, metadata.inputs, arrays, slice(start, start + rows))
        for start in starts
    ]


def _read(path: Path, inputs: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{path} is not an .npz file of plain arrays") from error
    if len(inputs) == 1 and inputs[0].name not in arrays and "x" in arrays:
        arrays[inputs[0].name] = arrays["x"]
    missing = [tensor.name for tensor in inputs if tensor.name not in arrays]
    if missing:
        raise InvalidSetting(f"{path} has no array '{missing[0]}', which is an input of the model")
    return {
        tensor.name: arrays[tensor.name].astype(BY_NAME[tensor.datatype].dtype) for tensor in inputs
    }


def _draw(inputs: Sequence[Any], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    drawn: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in inputs:
        first = [DISTINCT * rows] if list(tensor.shape[:1]) == [-1] else list(tensor.shape[:1])
        shape = first + [_FREE_DIMENSION if n == -1 else n for n in tensor.shape[1:]]
        dtype = BY_NAME[tensor.datatype].dtype
        if tensor.datatype == "BYTES":
            drawn[tensor.name] = np.full(shape, b"farthing", dtype=np.object_)
        elif dtype.kind == "f":
            drawn[tensor.name] = random.random(shape).astype(dtype)
        else:
            drawn[tensor.name] = random.integers(0, 2, shape).astype(dtype)
    return drawn


def _request(
    model: str, version: str, inputs: Sequence[Any], arrays: dict[str, Any], rows: slice
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for tensor in inputs:
        array = arrays[tensor.name][rows]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(_raw(array))
    return request


def _raw(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(value).to_bytes(4, "little") + value for value in array.reshape(-1))
