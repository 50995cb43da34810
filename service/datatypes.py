"""The tensor datatypes of the wire, and their names in numpy and in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Datatype:
    """One row of the table below.

    Attributes:
        name: the v2 protocol's name, e.g. ``FP32``.
        config_name: the name in Triton's ModelConfig, e.g. ``TYPE_FP32``.
        dtype: numpy's dtype; ``object`` for BYTES, whose elements are ``bytes``; that of the bits
            for BF16.
        ort_name: ONNX Runtime's name, e.g. ``tensor(float)``.
        contents: the typed field of ``InferTensorContents``; empty where the protocol allows
            only raw contents.
    """

    name: str
    config_name: str
    dtype: np.dtype[Any]
    ort_name: str
    contents: str


def _row(name: str, config: str, dtype: Any, ort: str, contents: str) -> Datatype:
    return Datatype(name, config, np.dtype(dtype), f"tensor({ort})", contents)


# Little-endian by the protocol.
DATATYPES: tuple[Datatype, ...] = (
    _row("BOOL", "TYPE_BOOL", np.bool_, "bool", "bool_contents"),
    _row("UINT8", "TYPE_UINT8", "<u1", "uint8", "uint_contents"),
    _row("UINT16", "TYPE_UINT16", "<u2", "uint16", "uint_contents"),
    _row("UINT32", "TYPE_UINT32", "<u4", "uint32", "uint_contents"),
    _row("UINT64", "TYPE_UINT64", "<u8", "uint64", "uint64_contents"),
    _row("INT8", "TYPE_INT8", "<i1", "int8", "int_contents"),
    _row("INT16", "TYPE_INT16", "<i2", "int16", "int_contents"),
    _row("INT32", "TYPE_INT32", "<i4", "int32", "int_contents"),
    _row("INT64", "TYPE_INT64", "<i8", "int64", "int64_contents"),
    _row("FP16", "TYPE_FP16", "<f2", "float16", ""),
    _row("FP32", "TYPE_FP32", "<f4", "float", "fp32_contents"),
    _row("FP64", "TYPE_FP64", "<f8", "double", "fp64_contents"),
    # numpy has no such dtype: its arrays hold the bits.
    _row("BF16", "TYPE_BF16", "<u2", "bfloat16", ""),
    _row("BYTES", "TYPE_STRING", np.object_, "string", "bytes_contents"),
)

BY_NAME: dict[str, Datatype] = {row.name: row for row in DATATYPES}
BY_ORT_NAME: dict[str, Datatype] = {row.ort_name: row for row in DATATYPES}


def to_bf16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of the nearest BF16 numbers; ties go to the even one, NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").reshape(values.shape)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")


def from_bf16(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers of BF16 bits, exactly, as float32."""
    return (bits.astype("<u4") << 16).view("<f4")
