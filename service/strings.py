"""BYTES on the wire: each element is a 4-byte little-endian length and its data."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from service.errors import InvalidInput

_LENGTH = struct.Struct("<I")


def split(data: bytes, elements: int, name: str) -> list[bytes]:
    """The elements of an input.

    Args:
        data: raw contents.
        elements: as many as its shape has.
        name: of the input, for messages.

    Raises:
        InvalidInput: there are more or fewer, or they end within one.
    """
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


def packed(array: np.ndarray[Any, Any]) -> bytes:
    """Strings and bytes as raw contents."""
    elements = (v if isinstance(v, bytes) else str(v).encode() for v in array.reshape(-1))
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)
