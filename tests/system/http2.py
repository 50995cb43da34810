"""HTTP/2 by hand, as far as a hostile client needs it (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket
from types import TracebackType

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_HEADERS = 4


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def header(name: bytes, value: bytes) -> bytes:
    """One field, neither indexed nor compressed."""
    return b"\x00" + _length(name) + name + _length(value) + value


def call(stream: int, method: str) -> bytes:
    """The head of a gRPC call."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()),
        (b":authority", b"x"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
    )  # fmt: skip
    return frame(HEADERS, stream, b"".join(header(*pair) for pair in fields), END_HEADERS)


def beginning(size: int, sent: int) -> list[bytes]:
    """The first bytes of a gRPC message that claims to have ``size``."""
    data = b"\0" + size.to_bytes(4, "big") + bytes(sent)
    return [frame(DATA, 1, data[at : at + 16_000]) for at in range(0, len(data), 16_000)]


class Connection:
    """A socket that has said hello."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self.send(PREFACE + frame(SETTINGS, 0))

    def send(self, data: bytes) -> bool:
        """Whether the other side still listened."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._socket.close()


def _length(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)])
    rest, found = len(text) - 127, b"\x7f"
    while rest >= 128:
        found += bytes([rest % 128 + 128])
        rest //= 128
    return found + bytes([rest])
