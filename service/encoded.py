"""A protobuf message before it is parsed: how many fields it has.

An empty submessage takes two bytes on the wire and a hundred once parsed: a request of 64 MiB that
names nothing else became 3 GB here, and held the event loop for four seconds. So they are counted
first, which costs nothing for a message that is too short to hold many.
"""

from __future__ import annotations

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_LEAST = 2  # bytes of a field, with its tag


def has_more_fields(data: bytes, most: int) -> bool:
    """Whether a message has more fields than this, each element of a repeated one counted.

    Numbers that are packed into one field count as one. Of bytes that are no message the part
    before the mistake is counted; the parser refuses them.

    Args:
        data: the message.
        most: how many it may have.
    """
    if len(data) <= most * _LEAST:
        return False
    at, found = 0, 0
    try:
        while at < len(data):
            found += 1
            if found > most:
                return True
            tag, at = _number(data, at)
            kind = tag & 7
            if kind == _BYTES:
                length, at = _number(data, at)
                at += length
            elif kind == _VARINT:
                _, at = _number(data, at)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind not in (_START, _END):  # a group's fields are counted as the message's own
                return False
    except IndexError:
        return False
    return False


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The varint at this place, and the place behind it; of its ten bytes the last are cut off."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise IndexError
