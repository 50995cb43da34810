"""A real server and a real collector: every span arrives, and one that fails holds up nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests import models
from tests.system.servers import farthing, serving

pytestmark = pytest.mark.timeout(120)

CALLS = 40
PARENT = bytes.fromhex("b7ad6b7169203331")


class Collector(collector_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Takes spans; or takes calls and never answers, until it is let go."""

    def __init__(self) -> None:
        self.requests: list[collector.ExportTraceServiceRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.called, self.door = threading.Event(), threading.Event()
        self.door.set()

    def Export(self, request: Any, context: Any) -> Any:
        self.called.set()
        self.door.wait(60)
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return collector.ExportTraceServiceResponse()

    def spans(self, name: str) -> list[Span]:
        return [
            span
            for request in self.requests
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
            if span.name.endswith(name)
        ]

    def resource(self) -> dict[str, str]:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {each.key: each.value.string_value for each in attributes}


@contextmanager
def collecting(authority: trustme.CA | None = None) -> Iterator[tuple[Collector, str]]:
    """A collector and its address; with TLS, if somebody vouches for it."""
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    collector_grpc.add_TraceServiceServicer_to_server(made, server)
    if authority:
        issued = authority.issue_cert("localhost")
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        pair = (issued.private_key_pem.bytes(), chain)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield made, f"https://localhost:{port}" if authority else f"http://127.0.0.1:{port}"
    finally:
        made.door.set()
        server.stop(None).wait()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.classifier(tmp_path / "models" / "slow" / "1" / "model.onnx")
    return tmp_path / "models"


def images(rows: int = 1) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="slow")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 3, 24, 24])
    request.raw_input_contents.append(bytes(4 * rows * 3 * 24 * 24))
    return request


def call(address: str, traces: list[str], flags: str = "01") -> None:
    """All at once, each with a trace of its own."""

    async def calls() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            await asyncio.gather(*(
                stub.ModelInfer(
                    images(), timeout=30,
                    metadata=(("traceparent", f"00-{trace}-{PARENT.hex()}-{flags}"),),
                )
                for trace in traces
            ))  # fmt: skip

    asyncio.run(calls())


def traces(first: int) -> list[str]:
    return [f"{first + number:032x}" for number in range(CALLS)]


def log_of(text: str, message: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == message]


def test_every_span_arrives_though_the_server_is_told_to_go_at_once(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=farthing-0")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")
    sampled, not_sampled = traces(1), traces(1000)
    with collecting() as (gathered, address):
        options = ("--otlp-endpoint", address, "--access-log", "1")
        with serving(repository, *options) as served:
            call(served.grpc, sampled)
            call(served.grpc, not_sampled, flags="00")
            code, text = served.end()
    assert code == 0
    requests, batches = gathered.spans("ModelInfer"), gathered.spans("batch")
    assert sorted(span.trace_id.hex() for span in requests) == sampled
    assert {span.parent_span_id for span in requests} == {PARENT}
    # Each request knows its run, and that knows all of its requests.
    shared = {batch.span_id: {link.span_id for link in batch.links} for batch in batches}
    assert max(map(len, shared.values())) > 1
    assert sum(map(len, shared.values())) == CALLS
    for span in requests:
        (link,) = span.links
        assert span.span_id in shared[link.span_id]
    logged = log_of(text, "inference")
    assert {(line["trace_id"], line.get("span_id")) for line in logged} == {
        *((span.trace_id.hex(), span.span_id.hex()) for span in requests),
        *((trace, None) for trace in not_sampled),
    }
    resource = gathered.resource()
    assert (resource["service.name"], resource["k8s.pod.name"]) == ("farthing", "farthing-0")
    assert {sent["x-tenant"] for sent in gathered.metadata} == {"ours"}


def test_a_collector_behind_tls_gets_them_by_the_authority_that_the_environment_names(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ca.pem"))
    with (
        collecting(authority) as (gathered, address),
        serving(repository, "--otlp-endpoint", address) as served,
    ):
        call(served.grpc, traces(1))
        code, text = served.end()
    assert (code, len(gathered.spans("ModelInfer"))) == (0, CALLS), text


def test_a_collector_that_is_not_there_costs_one_line_and_no_call(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with serving(repository, "--otlp-endpoint", address, "--trace-share", "1") as served:
        call(served.grpc, traces(1))
        begun = time.monotonic()
        code, text = served.end()
    assert code == 0 and time.monotonic() - begun < 10
    (line,) = log_of(text, "the collector does not take spans; the last ones are lost")
    assert line["endpoint"] == address
    assert "Traceback" not in text and all(one.startswith("{") for one in text.splitlines())


def test_a_collector_that_hangs_holds_up_neither_calls_nor_the_end(repository: Path) -> None:
    with collecting() as (gathered, address):
        gathered.door.clear()
        with serving(repository, "--otlp-endpoint", address) as served:
            call(served.grpc, traces(1))
            assert gathered.called.wait(30)
            call(served.grpc, traces(1000))
            begun = time.monotonic()
            code, text = served.end()
            assert code == 0 and time.monotonic() - begun < 10
    assert log_of(text, "stopped")[0]["finished"] is True


def test_an_address_that_is_none_is_refused_before_anything_is_loaded(repository: Path) -> None:
    done = farthing("serve", str(repository), "--otlp-endpoint", "collector")
    assert done.returncode == 2
    assert "it takes http://HOST:PORT or https://HOST:PORT" in done.stderr


@pytest.mark.parametrize(
    "variable",
    ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
     "OTEL_EXPORTER_OTLP_COMPRESSION"],
)  # fmt: skip
def test_variables_of_the_sdk_that_cannot_be_used_are_refused_before_anything_is_loaded(
    repository: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "-4")
    done = farthing("serve", str(repository), "--otlp-endpoint", "http://127.0.0.1:4317")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("farthing: spans cannot be sent as the OTEL_ variables say: ")
    assert variable in line
