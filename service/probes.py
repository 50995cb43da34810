"""HTTP for machines that speak no gRPC: /metrics, and whether the server is alive and ready.

Few threads and little patience: nobody can hold the port by sending, or reading, slowly.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from service import cputime

LIVE, READY = "/v2/health/live", "/v2/health/ready"
# Of a whole request and a whole answer, not of each byte.
_PATIENCE_S = 5.0
_MOST_AT_ONCE = 32
_LONGEST_HEAD = 8192
_POLL_S = 0.1
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"


class Probes:
    """The port, answering on threads of its own until it is closed."""

    def __init__(self, server: _Server) -> None:
        """Answer on this server; ``start`` is the way in."""
        self._server = server
        self.address = server.socket.getsockname()
        self.port = int(self.address[1])
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="probes", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering, and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start(
    host: str,
    port: int,
    *,
    metrics: Callable[[], bytes],
    ready: Callable[[], bool],
    alive: Callable[[], bool] = lambda: True,
) -> Probes:
    """Answer /metrics, /v2/health/live and /v2/health/ready.

    Args:
        host: a name or address of this machine.
        port: 0 takes a free one.
        metrics: Prometheus' text; called on the threads of this port, as ``ready`` is.
        ready: whether the server takes calls: 200, else 503.
        alive: whether a restart would mend nothing; likewise.

    Raises:
        OSError: the address cannot be had.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = found[0]
    return Probes(_Server(family, address, metrics=metrics, ready=ready, alive=alive))


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        family: int,
        address: Any,
        *,
        metrics: Callable[[], bytes],
        ready: Callable[[], bool],
        alive: Callable[[], bool],
    ) -> None:
        self.address_family = family
        self.metrics, self.ready, self.alive = metrics, ready, alive
        self._slots = threading.Semaphore(_MOST_AT_ONCE)
        # Connections that have not asked for anything yet, the oldest first.
        self.silent: dict[socket.socket, None] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False) or self._hung_up_on_the_oldest():
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            cputime.ends()
            self._slots.release()

    def _hung_up_on_the_oldest(self) -> bool:
        """Whether a slot was had by closing the connection that has been silent the longest.

        Those who open connections and send nothing crowd out each other, and no probe.
        """
        for silent in list(self.silent)[:1]:
            with suppress(OSError):
                silent.shutdown(socket.SHUT_RDWR)
            return self._slots.acquire(timeout=_POLL_S)
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a scraper that left is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        # The head is read here, since the base class waits anew for each of its lines.
        self.server.silent[self.connection] = None
        try:
            self.rfile = BytesIO(_head(self.connection))
        finally:
            del self.server.silent[self.connection]
        self.connection.settimeout(_PATIENCE_S)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._say(200, self.server.metrics(), _PROMETHEUS)
        elif path == LIVE:
            alive = self.server.alive()
            self._say(200 if alive else 503, b"live\n" if alive else b"not live\n")
        elif path == READY:
            ready = self.server.ready()
            self._say(200 if ready else 503, b"ready\n" if ready else b"not ready\n")
        else:
            self._say(404, b"here are /metrics, /v2/health/live and /v2/health/ready\n")

    do_HEAD = do_GET

    def _say(self, status: int, body: bytes, kind: str = _PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "farthing"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: probes come every few seconds."""


def _head(connection: socket.socket) -> bytes:
    """What a client sends up to its blank line; what is there, if it is slow or sends too much."""
    found, until = b"", time.monotonic() + _PATIENCE_S
    while b"\r\n\r\n" not in found and len(found) < _LONGEST_HEAD:
        left = until - time.monotonic()
        if left <= 0:
            return b""
        connection.settimeout(left)
        try:
            data = connection.recv(_LONGEST_HEAD)
        except OSError:
            return b""
        if not data:
            break
        found += data
    return found
