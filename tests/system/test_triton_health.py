"""grpc.health.v1 for the server and each model as models come and go; reflection."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import service_pb2

from tests import models
from tests.system.servers import Served, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for name in ("double", "leaving", "liveness"):
        models.double(root / name / "1" / "model.onnx")
    with serving(root, "--control", "repository") as server:
        models.double(root / "coming" / "1" / "model.onnx")
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc) as connected:
        yield connected


@pytest.mark.parametrize("name", ["", "liveness", SERVICE, "double"])
def test_what_serves_says_so(channel: grpc.Channel, name: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    assert health.Check(request, timeout=20).status == SERVING
    watch = health.Watch(request, timeout=20)
    assert next(watch).status == SERVING
    watch.cancel()


def test_a_name_that_nobody_has_is_not_found(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="nobody")
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(request, timeout=20)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(request, timeout=20)
    assert next(watch).status == UNKNOWN
    watch.cancel()


def test_watch_follows_a_model_that_comes_and_goes(served: Served, channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watches = {
        name: health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=60)
        for name in ("", "coming", "leaving")
    }
    told = {name: next(watch).status for name, watch in watches.items()}
    assert told == {"": SERVING, "coming": UNKNOWN, "leaving": SERVING}
    with triton.InferenceServerClient(served.grpc) as client:
        client.load_model("coming")
        assert next(watches["coming"]).status == SERVING
        for _ in range(3):
            client.unload_model("leaving")
            assert next(watches["leaving"]).status == NOT_SERVING
            check = health.Check(health_pb2.HealthCheckRequest(service="leaving"), timeout=20)
            assert check.status == NOT_SERVING
            client.load_model("leaving")
            assert next(watches["leaving"]).status == SERVING
        client.load_model("leaving")  # without a change nothing is told
        client.unload_model("leaving")
        assert next(watches["leaving"]).status == NOT_SERVING
        client.load_model("leaving")
    for watch in watches.values():
        watch.cancel()


def test_reflection_describes_tritons_service_to_the_field(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol(SERVICE)
    (service,) = file.service
    tritons = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {(m.name, m.client_streaming, m.server_streaming) for m in service.method} == {
        (m.name, m.client_streaming, m.server_streaming) for m in tritons.methods
    }
    messages = {message.name: message for message in file.message_type}
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents"):
        ours = {field.name: field.number for field in messages[name].field}
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name].fields
        assert ours == {field.name: field.number for field in theirs}
