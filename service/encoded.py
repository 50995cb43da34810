"""A protobuf message before it is parsed: how many fields it has, and what some of them hold.

An empty submessage takes two bytes on the wire and a hundred once parsed: a request of 64 MiB that
names nothing else became 3 GB here, and held the event loop for four seconds. So they are counted
first, which costs nothing for a message that is too short to hold many.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_LEAST = 2  # bytes of a field, with its tag
# Its elements are data, of which a tensor may have many; they have a limit of their own.
_DATA = "InferTensorContents"


def has_more_fields(data: bytes, most: int, message: Descriptor | None = None) -> bool:
    """Whether a message has more fields than this, each element of a repeated one counted.

    Numbers that are packed into one field count as one. Of bytes that are no message the part
    before the mistake is counted; the parser refuses them.

    Args:
        data: the message.
        most: how many it may have, those of its submessages included.
        message: its type, by which submessages are known; None counts its own fields alone.
    """
    return len(data) > most * _LEAST and _counted(memoryview(data), most, message) > most


def _counted(data: memoryview, most: int, message: Descriptor | None) -> int:
    """Fields of a message and those in it; counting ends beyond ``most``."""
    parts = message.fields_by_number if message else {}
    at, found = 0, 0
    try:
        while at < len(data) and found <= most:
            found += 1
            tag, at = number(data, at)
            kind = tag & 7
            if kind == _BYTES:
                length, at = number(data, at)
                field = parts.get(tag >> 3)
                within = field.message_type if field is not None else None
                if within is not None and within.name != _DATA:
                    found += _counted(data[at : at + length], most - found, within)
                at += length
            elif kind == _VARINT:
                _, at = number(data, at)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind not in (_START, _END):  # a group's fields are counted as the message's own
                break
    except IndexError:  # cut off; the parser says so
        pass
    return found


def parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The bytes of each field with this number, those of numbers left out.

    Raises:
        ValueError: what is there is no message.
        IndexError: it is cut off.
    """
    return (found for found in _fields(message, wanted) if isinstance(found, memoryview))


def numbers(message: memoryview, wanted: int) -> list[int]:
    """The values of each field with this number that is a varint; raises as ``parts`` does."""
    return [found for found in _fields(message, wanted) if isinstance(found, int)]


def texts(message: memoryview, wanted: int) -> list[str]:
    """The fields with this number as texts; raises as ``parts`` does."""
    return [str(part, "utf-8") for part in parts(message, wanted)]


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview | int]:
    at = 0
    while at < len(message):
        tag, at = number(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = number(message, at)
            if tag >> 3 == wanted:
                yield value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, at = number(message, at)
        if size is None or at + size > len(message):
            raise ValueError("it is no message")
        if tag >> 3 == wanted and kind == _BYTES:
            yield message[at : at + size]
        at += size


def number(data: memoryview, at: int) -> tuple[int, int]:
    """The varint at this place, and the place behind it; of its ten bytes the last are cut off."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError
