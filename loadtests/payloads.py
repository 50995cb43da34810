"""Requests to send: rows from a file, or drawn for the model's inputs; never all zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtests import outside
from service.datatypes import BY_NAME, to_bf16
from service.manifest import TensorSpec
from service.proto import inference_pb2 as pb
from service.rows import BadRows, read
from service.tensors import to_raw

Arrays = dict[str, np.ndarray[Any, Any]]

DISTINCT = 64
_DRAWN_BYTES = 64 * 2**20
# Of one request; gRPC itself takes none of 2 GiB.
_MOST_BYTES = 2**30
_FREE_DIMENSION = 16
_MOST_AXES = 32


def requests_for(
    stub: Any, model: str, *, version: str = "", rows_file: Path | None = None, rows: int = 1
) -> list[pb.ModelInferRequest]:
    """Requests for a served model, built once so that building them is not measured.

    Args:
        stub: a GRPCInferenceService stub of the target.
        model: the model's name.
        version: its version; empty for the server's own pick.
        rows_file: .npz with one array for each input; see ``service.rows``.
        rows: rows in each request.

    Raises:
        BadRows: the file does not fit the model, or has fewer rows than one request; or the model
            tells of inputs that nothing can be drawn for.
        grpc.RpcError: the target does not answer, or does not know the model.
    """
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model, version=version), timeout=10)
    inputs = [TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in metadata.inputs]
    strange = next((spec for spec in inputs if spec.datatype not in BY_NAME), None)
    if strange:
        said = f"input '{strange.name}' is {strange.datatype}, which cannot be sent from here"
        raise BadRows(outside.plain(said))
    arrays = read(rows_file, inputs)[0] if rows_file else _draw(inputs, rows)
    if not all(spec.shape[:1] == (-1,) for spec in inputs):
        return [_request(model, version, inputs, arrays)]
    total = len(next(iter(arrays.values())))
    if total < rows:
        raise BadRows(f"{rows_file} has {total} rows, fewer than the {rows} of one request")
    return [
        _request(
            model,
            version,
            inputs,
            {name: array[start : start + rows] for name, array in arrays.items()},
        )
        for start in range(0, total - rows + 1, rows)
    ]


def _draw(inputs: Sequence[TensorSpec], rows: int) -> Arrays:
    """Drawn rows for some distinct requests, fewer where they are large."""
    random = np.random.default_rng(0)
    drawn: Arrays = {}
    request_bytes = 0
    for spec in inputs:
        count = rows if spec.shape[:1] == (-1,) else math.prod(spec.shape[:1])
        rest = (_FREE_DIMENSION if n == -1 else n for n in spec.shape[1:])
        request_bytes += 8 * count * math.prod(rest)
        strange = len(spec.shape) > _MOST_AXES or any(n < 1 and n != -1 for n in spec.shape)
        if strange or request_bytes > _MOST_BYTES:
            said = outside.plain(f"input '{spec.name}' is of shape {list(spec.shape)}")
            raise BadRows(
                f"{said}, for which nothing can be drawn; a request has at most "
                f"{_MOST_BYTES >> 20} MiB"
            )
    distinct = max(1, min(DISTINCT, _DRAWN_BYTES // max(1, request_bytes)))
    for spec in inputs:
        first = (distinct * rows,) if spec.shape[:1] == (-1,) else spec.shape[:1]
        shape = first + tuple(_FREE_DIMENSION if size == -1 else size for size in spec.shape[1:])
        dtype = BY_NAME[spec.datatype].dtype
        if spec.datatype == "BYTES":
            drawn[spec.name] = np.full(shape, "farthing", dtype=np.object_)
        elif spec.datatype == "BF16":
            drawn[spec.name] = to_bf16(random.random(shape, dtype=np.float32))
        elif dtype.kind == "f":
            drawn[spec.name] = random.random(shape, dtype=np.float32).astype(dtype)
        else:
            # 0 and 1 are valid for every vocabulary and for booleans; one 1 in each row at least.
            values = random.integers(0, 2, shape).astype(dtype)
            values.reshape(*shape[:1], -1)[..., 0] = 1
            drawn[spec.name] = values
    return drawn


def _request(
    model: str, version: str, inputs: Sequence[TensorSpec], arrays: Arrays
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for spec in inputs:
        array = arrays[spec.name]
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        request.raw_input_contents.append(to_raw(array, spec))
    return request
