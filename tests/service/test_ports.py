"""What a server that leaves can tell of its ports, also where it may open no more files."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import grpc
import pytest

from service.control import Control
from service.interceptor import Interceptor
from service.ports import Port

HOST = "127.0.0.1"


@contextmanager
def listening() -> Iterator[tuple[Port, socket.socket]]:
    """A port, and the socket that listens there; no gRPC server is asked for it."""
    with socket.create_server((HOST, 0)) as bound:
        yield _port(bound.getsockname()[1]), bound


def _port(number: int) -> Port:
    unused: tuple[grpc.aio.Server, Interceptor, Control] = (None, None, None)  # type: ignore[assignment]
    return Port(number, *unused)


@contextmanager
def connected(bound: socket.socket) -> Iterator[None]:
    with socket.create_connection(bound.getsockname(), timeout=20), bound.accept()[0]:
        yield


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # of which none is free
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_is_connected_for_as_long_as_somebody_is() -> None:
    with listening() as (port, bound):
        assert not port.connected()
        with connected(bound):
            assert port.connected()
        assert not port.connected()


def test_nobody_connects_to_a_port_that_has_stopped_and_who_is_connected_stays() -> None:
    with listening() as (port, bound), connected(bound):
        assert port.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port.number), timeout=20).close()
        assert port.connected()


def test_what_is_no_grpc_port_goes_on_though_it_has_the_same_number() -> None:
    with (
        listening() as (port, bound),
        socket.create_server(("127.0.0.2", port.number)) as other,
    ):
        assert port.stop_listening(but=other.getsockname())
        socket.create_connection(other.getsockname(), timeout=20).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(bound.getsockname(), timeout=20).close()


def test_without_free_files_there_may_be_connections_and_stopping_is_to_be_tried_again() -> None:
    with listening() as (port, _):
        with no_more_files():
            assert port.connected()
            assert not port.stop_listening()
        assert not port.connected()
        assert port.stop_listening()


def test_the_last_free_file_may_be_gone_when_a_socket_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(descriptor: int) -> NoReturn:
        raise OSError(errno.EMFILE, f"none to copy {descriptor} to")

    with listening() as (port, _):
        monkeypatch.setattr(os, "dup", short)
        assert port.connected()
        assert not port.stop_listening()


def test_a_file_that_is_closed_meanwhile_is_none_of_the_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening() as (port, _):
        gone = os.open(os.devnull, os.O_RDONLY)
        os.close(gone)
        listed = os.listdir

        def late(path: str) -> list[str]:
            return [*listed(path), str(gone)]

        monkeypatch.setattr(os, "listdir", late)
        assert not port.connected()
        assert port.stop_listening()
