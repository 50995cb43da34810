"""Clients that vanish, flood, or speak something else: the next good call is answered."""

from __future__ import annotations

import random
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import http2, strangers
from tests.system.servers import Served, serving
from tests.system.strangers import SERVICE, answers, good, numbers

MIB = 2**20
INFER = SERVICE + "ModelInfer"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("clients")
    root = strangers.repository(base / "models")
    options = ("--no-exit-on-error", "--control", "repository")
    with serving(root, *options, log=base / "log") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc) as connected:
        yield connected
        answers(connected)
        live = served.metrics.replace("/metrics", "/v2/health/live")
        assert urllib.request.urlopen(live, timeout=20).status == 200


def states(stub: GRPCInferenceServiceStub) -> dict[str, str]:
    """Model -> state, of all that are known."""
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20)
    return {model.name: model.state for model in index.models}


def waiting(served: Served) -> float:
    return strangers.metric(served, 'farthing_waiting_rows{model="slow"')


def test_who_leaves_while_waiting_is_not_run(served: Served, channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    calls = [stub.ModelInfer.future(numbers("slow", 10_000), timeout=60) for _ in range(30)]
    while waiting(served) < 25:
        pass
    for call in calls:
        call.cancel()
    # Thirty of them would take half a minute.
    stub.ModelInfer(numbers("slow", 1), timeout=10)
    assert waiting(served) == 0


def test_a_load_goes_on_when_its_caller_left(
    served: Served, channel: grpc.Channel, tmp_path: Path
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    first = pb.RepositoryModelLoadRequest(model_name="first")
    # Its warm-up takes a while, and one load waits for another.
    path = strangers.slow(tmp_path / "slow.onnx", always=5000)
    first.parameters["file:1/model.onnx"].bytes_param = path.read_bytes()
    second = pb.RepositoryModelLoadRequest(model_name="second")
    path = strangers.wide(tmp_path / "wide.onnx")
    second.parameters["file:1/model.onnx"].bytes_param = path.read_bytes()
    loading = stub.RepositoryModelLoad.future(first, timeout=60)
    while "first" not in states(stub):
        pass
    left = stub.RepositoryModelLoad.future(second, timeout=60)
    answers(channel)
    left.cancel()
    loading.result()
    ends = time.monotonic() + 20
    while states(stub).get("second") != "READY":
        assert time.monotonic() < ends, states(stub)


@pytest.mark.parametrize("sent", [0, 1, 100_000])
def test_who_leaves_in_the_middle_of_a_request(
    served: Served, channel: grpc.Channel, sent: int
) -> None:
    before = strangers.resident_mb(served)
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(http2.Connection(served.grpc))
            assert connection.send(http2.call(1, INFER) + b"".join(http2.beginning(60 * MIB, sent)))
        answers(channel)
    answers(channel)
    assert strangers.resident_mb(served) < before + 50


def test_who_leaves_before_the_answer_is_read(served: Served, channel: grpc.Channel) -> None:
    before = strangers.resident_mb(served)
    with grpc.insecure_channel(served.grpc) as apart:
        infer = GRPCInferenceServiceStub(apart).ModelInfer
        for _ in range(100):
            infer.future(strangers.block(MIB), timeout=20).cancel()
    answers(channel)
    assert strangers.resident_mb(served) < before + 150


FLOODS = {
    "pings": http2.frame(http2.PING, 0, bytes(8)),
    "settings": http2.frame(http2.SETTINGS, 0),
    "windows": http2.frame(http2.WINDOW, 0, b"\0\0\0\1"),
    "priorities": http2.frame(http2.PRIORITY, 1, bytes(5)),
    "resets": http2.frame(http2.RESET, 1, bytes(4)),
    "data of no stream": http2.frame(http2.DATA, 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_floods_of_frames(served: Served, channel: grpc.Channel, flood: bytes) -> None:
    with http2.Connection(served.grpc) as connection:
        connection.send(flood * 20_000)
        answers(channel)


def test_calls_that_are_reset_at_once(served: Served, channel: grpc.Channel) -> None:
    before = strangers.resident_mb(served)
    with http2.Connection(served.grpc) as connection:
        for stream in range(1, 6000, 2):
            reset = http2.frame(http2.RESET, stream, b"\0\0\0\x08")
            if not connection.send(http2.call(stream, INFER) + reset):
                break
        answers(channel)
    answers(channel)
    assert strangers.resident_mb(served) < before + 100


def test_headers_without_end(served: Served, channel: grpc.Channel) -> None:
    before = strangers.resident_mb(served)
    with http2.Connection(served.grpc) as connection:
        connection.send(http2.frame(http2.HEADERS, 1, http2.header(b"x", b"v")))
        field = http2.header(b"x", b"v" * 10_000)
        for _ in range(2000):
            if not connection.send(http2.frame(http2.CONTINUATION, 1, field)):
                break
        answers(channel)
    assert strangers.resident_mb(served) < before + 50


# Between 8 and 16 KiB gRPC refuses at random.
@pytest.mark.parametrize("size", [17_000, 60_000, 1_000_000])
def test_metadata_that_is_too_large(channel: grpc.Channel, size: int) -> None:
    with pytest.raises(grpc.RpcError) as error:
        GRPCInferenceServiceStub(channel).ModelInfer(
            good(), timeout=20, metadata=(("x", "v" * size),)
        )
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_what_is_neither_http_nor_grpc(served: Served, channel: grpc.Channel, port: str) -> None:
    chance = random.Random(7)
    number = served.grpc.rpartition(":")[2] if port == "grpc" else served.metrics.split(":")[2]
    address = ("127.0.0.1", int(number.removesuffix("/metrics")))
    for _ in range(20):
        for sent in (
            chance.randbytes(2000),
            http2.PREFACE + chance.randbytes(2000),
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01" + chance.randbytes(300),  # as TLS begins
            b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"",
        ):
            with socket.create_connection(address, timeout=20) as stranger, suppress(OSError):
                stranger.sendall(sent)


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_hundreds_of_silent_connections(served: Served, channel: grpc.Channel, port: str) -> None:
    number = served.grpc.rpartition(":")[2] if port == "grpc" else served.metrics.split(":")[2]
    address = ("127.0.0.1", int(number.removesuffix("/metrics")))
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(address, timeout=20))
        answers(channel)
        assert strangers.metric(served, "farthing_instances") >= 1
