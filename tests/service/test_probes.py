"""What load balancers and Prometheus get, also while others misbehave."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from service import probes
from service.probes import Probes


class Facts:
    """What the port tells, changed by the tests."""

    def __init__(self) -> None:
        self.ready = self.alive = True
        self.asked, self.door = threading.Semaphore(0), threading.Event()
        self.door.set()

    def metrics(self) -> bytes:
        self.asked.release()
        assert self.door.wait(20)
        return b"farthing_up 1\n"


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def port(facts: Facts) -> Iterator[Probes]:
    started = probes.start("127.0.0.1", 0, metrics=facts.metrics, ready=lambda: facts.ready,
                           alive=lambda: facts.alive)  # fmt: skip
    yield started
    facts.door.set()
    started.close()


def get(port: Probes, path: str, method: str = "GET") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port.port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Content-Type"]
    finally:
        connection.close()


def raw(port: Probes, sent: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port.port), timeout=20) as connected:
        connected.sendall(sent)
        found = b""
        while data := connected.recv(65536):
            found += data
        return found


def test_metrics_are_told_in_prometheus_text_format(port: Probes) -> None:
    status, body, kind = get(port, "/metrics?name=any")
    assert (status, body) == (200, b"farthing_up 1\n")
    assert kind == "text/plain; version=0.0.4; charset=utf-8"


def test_ready_follows_the_server_and_live_does_not(port: Probes, facts: Facts) -> None:
    assert get(port, "/v2/health/ready")[0] == 200
    facts.ready = False
    assert get(port, "/v2/health/ready")[0] == 503
    assert get(port, "/v2/health/live")[0] == 200


def test_live_is_no_more_where_only_a_restart_helps(port: Probes, facts: Facts) -> None:
    facts.alive = False
    assert get(port, "/v2/health/live")[:2] == (503, b"not live\n")


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/health/ready/", "/metrics/../etc"])
def test_all_other_paths_are_not_found(port: Probes, path: str) -> None:
    assert get(port, path)[0] == 404


def test_head_is_answered_without_a_body(port: Probes) -> None:
    assert get(port, "/v2/health/ready", "HEAD")[:2] == (200, b"")


def test_other_methods_are_refused_without_repeating_what_was_sent(port: Probes) -> None:
    answer = raw(port, b"POST /metrics HTTP/1.1\r\nHost: <script>\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 501") and b"script" not in answer


def test_the_server_does_not_tell_what_it_is_made_of(port: Probes) -> None:
    answer = raw(port, b"GET /v2/health/live HTTP/1.1\r\n\r\n").lower()
    assert b"server: farthing" in answer and b"python" not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"\x00\xff\x16\x03\x01\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
        b"GET / HTTP/9\r\n\r\n",
    ],
)
def test_what_is_no_http_request_ends_and_harms_nobody(
    port: Probes, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with suppress(ConnectionError):  # closed with bytes unread
        raw(port, sent)
    assert get(port, "/v2/health/live")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_clients_who_send_nothing_are_let_go(port: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_PATIENCE_S", 0.05)
    assert raw(port, b"GET /v2/health") == b""


def test_there_are_never_more_threads_than_places(port: Probes, facts: Facts) -> None:
    facts.door.clear()
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    busy = [socket.create_connection(("127.0.0.1", port.port), timeout=20) for _ in range(32)]
    for one in busy:
        one.sendall(request)
        assert facts.asked.acquire(timeout=20)
    with suppress(ConnectionError):  # closed with bytes unread
        assert raw(port, request) == b""
    facts.door.set()
    for one in busy:
        with one:
            assert one.recv(65536).startswith(b"HTTP/1.0 200")


def test_who_connects_and_says_nothing_keeps_no_probe_out(port: Probes) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(100):
                address = ("127.0.0.1", port.port)
                silent = stack.enter_context(socket.create_connection(address, timeout=20))
                silent.sendall(b"GET /metrics")
            begun = time.monotonic()
            assert get(port, "/v2/health/live")[0] == 200
            assert time.monotonic() - begun < 2  # and not after the patience with the silent


def test_a_scraper_who_leaves_is_no_event(
    port: Probes, facts: Facts, capfd: pytest.CaptureFixture[str]
) -> None:
    facts.door.clear()
    with socket.create_connection(("127.0.0.1", port.port), timeout=20) as leaver:
        leaver.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert facts.asked.acquire(timeout=20)
    facts.door.set()
    assert get(port, "/v2/health/live")[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_names_are_taken_and_a_taken_port_is_an_error(host: str, facts: Facts) -> None:
    started = probes.start(host, 0, metrics=facts.metrics, ready=lambda: True)
    try:
        with pytest.raises(OSError):
            probes.start(host, started.port, metrics=facts.metrics, ready=lambda: True)
    finally:
        started.close()
    probes.start(host, started.port, metrics=facts.metrics, ready=lambda: True).close()
