"""The service config that clients copy does in gRPC's own client what README promises of it."""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from service.health import SERVICE
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from tests import models
from tests.k8s.manifest import Manifest
from tests.k8s.rendering import BASE, K8S, unrendered
from tests.system.servers import serving

TEXT = (K8S / "client" / "service-config.json").read_text(encoding="utf-8")
CONFIG: dict[str, Any] = json.loads(TEXT)
REQUEST = pb.ModelInferRequest(
    model_name="double", raw_input_contents=[struct.pack("4f", 1, 1, 1, 1)]
)
REQUEST.inputs.add(name="x", datatype="FP32", shape=[1, 4])


@contextmanager
def calling(*ports: str, config: str = TEXT) -> Iterator[GRPCInferenceServiceStub]:
    """A client as README has it, of these servers instead of those that DNS knows."""
    with grpc.insecure_channel(
        "ipv4:" + ",".join(ports), options=[("grpc.service_config", config)]
    ) as channel:
        yield GRPCInferenceServiceStub(channel)


def repository(root: Path, factor: float) -> Path:
    """One whose model tells, by its answers, which server it is."""
    (root / "double" / "1").mkdir(parents=True)
    models.double(root / "double" / "1" / "model.onnx", factor=factor)
    return root


def test_calls_go_to_every_replica_and_leave_one_that_says_it_goes(tmp_path: Path) -> None:
    """Without one failure, and while it would still answer: health tells them."""
    with (
        serving(repository(tmp_path / "stays", 2.0)) as stays,
        serving(repository(tmp_path / "goes", 3.0), "--grace-s", "60") as goes,
        calling(stays.grpc, goes.grpc) as client,
    ):

        def answers(number: int) -> Counter[float]:
            got = (client.ModelInfer(REQUEST, wait_for_ready=True) for _ in range(number))
            return Counter(struct.unpack("f", one.raw_output_contents[0][:4])[0] for one in got)

        until = time.monotonic() + 30
        while set(answers(10)) != {2.0, 3.0}:
            assert time.monotonic() < until, "one of them gets no calls"
        assert min(answers(100).values()) > 40
        goes.process.terminate()
        while answers(10) != {2.0: 10}:
            assert time.monotonic() < until, "it still gets calls"
        assert goes.process.poll() is None
        goes.process.kill()
        assert answers(100) == {2.0: 100}


@pytest.mark.parametrize("with_channel", [True, False])
def test_a_token_belongs_to_the_channel_since_health_is_asked_with_it(
    tmp_path: Path, with_channel: bool
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    (tmp_path / "tokens").write_text("secret\n")
    secured = [f"--tls-cert={tmp_path}/tls.crt", f"--tls-key={tmp_path}/tls.key",
               f"--tokens={tmp_path}/tokens"]  # fmt: skip
    tls = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    both = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials("secret"))
    with (
        serving(repository(tmp_path / "models", 2.0), *secured) as server,
        grpc.secure_channel(
            server.grpc, both if with_channel else tls, [("grpc.service_config", TEXT)]
        ) as channel,
    ):
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        if with_channel:
            assert infer(REQUEST, timeout=20).model_name == "double"
        else:
            with pytest.raises(grpc.RpcError, match="health check call failed"):
                infer(REQUEST, timeout=20, metadata=(("authorization", "Bearer secret"),))


class Refusing(GRPCInferenceServiceServicer):
    """Ends the first calls with a status."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self.code, self.times, self.calls = code, times, 0

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.calls += 1
        if self.calls <= self.times:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "5"),))
            context.abort(self.code, "not now")
        return pb.ModelInferResponse(model_name="double")


@contextmanager
def refusing(code: grpc.StatusCode, times: int) -> Iterator[tuple[Refusing, str]]:
    servicer = Refusing(code, times)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("name", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_what_is_refused_is_tried_again(name: str) -> None:
    with refusing(grpc.StatusCode[name], 3) as (server, port), calling(port) as client:
        assert client.ModelInfer(REQUEST, timeout=10).model_name == "double"
        assert server.calls == 4


@pytest.mark.parametrize("name", ["INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "INTERNAL"])
def test_what_would_fail_again_is_not(name: str) -> None:
    with refusing(grpc.StatusCode[name], 1) as (server, port), calling(port) as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.ModelInfer(REQUEST, timeout=10)
        assert caught.value.code() is grpc.StatusCode[name]
        assert server.calls == 1


def test_servers_that_refuse_everything_are_not_called_four_times_as_often() -> None:
    with (
        refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, 10**9) as (server, port),
        calling(port) as client,
    ):
        for _ in range(40):
            with pytest.raises(grpc.RpcError):
                client.ModelInfer(REQUEST, timeout=10)
        assert 40 < server.calls < 60


def test_a_config_that_grpc_does_not_understand_would_fail_here() -> None:
    wrong = json.dumps(CONFIG | {"methodConfig": [{"name": [{}], "retryPolicy": {}}]})
    with (
        refusing(grpc.StatusCode.OK, 0) as (_, port),
        calling(port, config=wrong) as client,
        pytest.raises(grpc.RpcError),
    ):
        client.ModelInfer(REQUEST, timeout=10)


def test_it_names_what_the_server_has_and_waits_no_longer_than_a_drain() -> None:
    assert CONFIG["healthCheckConfig"]["serviceName"] == SERVICE
    (method,) = CONFIG["methodConfig"]
    assert method["name"] == [{"service": SERVICE, "method": "ModelInfer"}]
    (settings,) = Manifest(unrendered(BASE)).all("ConfigMap")
    assert float(method["timeout"].removesuffix("s")) < float(settings["data"]["FARTHING_DRAIN_S"])
