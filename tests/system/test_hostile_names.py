"""Names, versions, ids and parameters: none leaves the repository, and none is believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import Served, serving
from tests.system.strangers import SERVICE, answers, good, infer_refusal, refusal

STRAYS = [
    "..", ".", "../double", "double/../double", "double/1", "/etc/passwd", "..%2fdouble", "~",
    "double/", "./double", "double\\..", "DOUBLE", "double ", "double\0", "\0", "dou\u202eble",
    "\U0001f600", "file:double", "d" * 129, "$(id)", "{0.__class__}", "%s%n", "double\r\nx: y",
]  # fmt: skip
LONG = ["n" * 257, "n" * 100_000, "\U0001f600" * 4000]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = strangers.repository(tmp_path_factory.mktemp("models"))
    # What a name that leaves the repository would find.
    strangers.models.double(root.parent / "outside" / "1" / "model.onnx")
    with serving(root, "--no-exit-on-error", "--control", "all") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc) as connected:
        yield connected


def by_model(name: str, version: str = "") -> list[tuple[str, Any]]:
    """Each RPC that takes a model's name, with a request for this one."""
    named = good()
    named.model_name, named.model_version = name, version
    return [
        ("ModelInfer", named),
        ("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version)),
        ("ModelConfig", pb.ModelConfigRequest(name=name, version=version)),
        ("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version)),
    ]


@pytest.mark.parametrize("name", [*STRAYS, "../outside", "../outside/1"])
def test_a_models_name_that_leads_elsewhere(channel: grpc.Channel, name: str) -> None:
    stub = GRPCInferenceServiceStub(channel)
    for method, request in by_model(name):
        told = refusal(channel, getattr(stub, method), request, "NOT_FOUND")
        assert told == "this server has no model of that name; see RepositoryIndex"
    assert not stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=20).ready
    trace = pb.TraceSettingRequest(model_name=name)
    refusal(channel, stub.TraceSetting, trace, "NOT_FOUND")


@pytest.mark.parametrize("name", [*STRAYS, "../outside", ""])
def test_only_names_are_loaded_and_unloaded(channel: grpc.Channel, name: str) -> None:
    stub = GRPCInferenceServiceStub(channel)
    status = "NOT_FOUND" if name == "DOUBLE" else "INVALID_ARGUMENT"
    load = pb.RepositoryModelLoadRequest(model_name=name)
    refusal(channel, stub.RepositoryModelLoad, load, status)
    unload = pb.RepositoryModelUnloadRequest(model_name=name)
    refusal(channel, stub.RepositoryModelUnload, unload, status)
    known = {model.name for model in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    assert known == {"broken", "double", "kinds", "picky", "slow", "wide"}


@pytest.mark.parametrize(
    "version", ["0", "-1", "01", "1.0", "2", " 1", "1 ", "../1", "1/..", "\u0661", "9" * 200, "x\0"]
)
def test_a_version_that_is_none(channel: grpc.Channel, version: str) -> None:
    stub = GRPCInferenceServiceStub(channel)
    for method, request in by_model("double", version):
        told = refusal(channel, getattr(stub, method), request, "NOT_FOUND")
        assert told.endswith("it has 1")


@pytest.mark.parametrize("name", LONG)
def test_names_that_are_too_long_are_refused_unread(channel: grpc.Channel, name: str) -> None:
    stub = GRPCInferenceServiceStub(channel)
    calls = [*by_model(name), *by_model("double", name)]
    calls.append(("ModelReady", pb.ModelReadyRequest(name=name)))
    request = good()
    request.inputs[0].name = name
    calls.append(("ModelInfer", request))
    request = good()
    request.outputs.add(name=name)
    calls.append(("ModelInfer", request))
    request = good()
    request.id = name
    calls.append(("ModelInfer", request))
    request = good()
    request.parameters[name].bool_param = True
    calls.append(("ModelInfer", request))
    calls.append(("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name)))
    for method, call in calls:
        told = refusal(channel, getattr(stub, method), call, "INVALID_ARGUMENT")
        assert len(told) < 200


@pytest.mark.parametrize("name", ["line\nbreak", "a\0b", "\u202egnp", "\x1b[31mred", "\x7f"])
def test_what_is_quoted_is_printable(channel: grpc.Channel, name: str) -> None:
    request = good()
    request.inputs[0].name = name
    assert "the model has no input" in infer_refusal(channel, request)
    request = good()
    request.outputs.add(name=name)
    assert "the model has no output" in infer_refusal(channel, request)


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xfe", b"\xff\xff\xff", b"\x0a\xff"])
def test_bytes_that_are_no_message_or_no_utf8(channel: grpc.Channel, data: bytes) -> None:
    for method in ("ModelInfer", "RepositoryModelLoad", "TraceSetting", "ModelConfig"):
        told = refusal(channel, channel.unary_unary(SERVICE + method), data, "INVALID_ARGUMENT")
        assert "not a message" in told


@pytest.mark.parametrize(
    "name",
    ["triton_final_response", "triton_x", "triton_", "triton_enable_empty_final_response\0"],
)
def test_reserved_parameters_are_not_forged(channel: grpc.Channel, name: str) -> None:
    request = good()
    request.parameters[name].bool_param = True
    assert "reserved" in infer_refusal(channel, request)


def set_to(request: pb.ModelInferRequest, name: str, value: bool | int | float | str) -> None:
    parameter = request.parameters[name]
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    elif value >= 2**63:
        parameter.uint64_param = value
    else:
        parameter.int64_param = value


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, -(2**63), 1.5, float("nan"), float("inf"), "1", True])
def test_numbers_out_of_range_in_parameters(
    channel: grpc.Channel, name: str, value: bool | int | float | str
) -> None:
    request = good()
    set_to(request, name, value)
    assert f"'{name}'" in infer_refusal(channel, request)


@pytest.mark.parametrize("name", ["priority", "timeout", "sequence_id"])
@pytest.mark.parametrize("value", [2**63 - 1, 2**64 - 1])
def test_the_largest_numbers_are_taken(channel: grpc.Channel, name: str, value: int) -> None:
    request = good()
    set_to(request, name, value)
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert len(answer.raw_output_contents[0]) == 16
    assert dict(answer.parameters) == {}


@pytest.mark.parametrize("name", ["sequence_start", "sequence_end", "sequence_id"])
def test_parameters_of_another_type(channel: grpc.Channel, name: str) -> None:
    request = good()
    set_to(request, name, 0.5)
    assert f"'{name}'" in infer_refusal(channel, request)
    request.parameters[name].ClearField("double_param")
    request.parameters[name].SetInParent()  # there, but of no type
    assert f"'{name}'" in infer_refusal(channel, request)


@pytest.mark.parametrize("value", [-1, 0, 1.5, True, "3"])
def test_classes_that_cannot_be_counted(
    channel: grpc.Channel, value: bool | int | float | str
) -> None:
    request = good()
    set_to(request.outputs.add(name="y"), "classification", value)  # type: ignore[arg-type]
    assert "'classification'" in infer_refusal(channel, request)


def test_more_classes_than_there_are_is_all_of_them(channel: grpc.Channel) -> None:
    request = good()
    request.outputs.add(name="y").parameters["classification"].int64_param = 2**63 - 1
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert answer.outputs[0].shape == [1, 4]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trace_file", "/tmp/x"), ("trace_mode", "opentelemetry"), ("trace_level", "TENSORS"),
        ("trace_rate", "0"), ("trace_rate", "9" * 400), ("trace_rate", "1e3"), ("nosuch", "1"),
        ("trace_count", "-2"), ("__class__", "1"), ("trace_rate", "\u0661"),
    ],
)  # fmt: skip
def test_trace_settings_that_are_none_or_not_for_clients(
    channel: grpc.Channel, key: str, value: str
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    before = stub.TraceSetting(pb.TraceSettingRequest())
    request = pb.TraceSettingRequest()
    request.settings["trace_rate"].value.append("7")
    request.settings[key].value[:] = [value]
    refusal(channel, stub.TraceSetting, request, "INVALID_ARGUMENT")
    assert stub.TraceSetting(pb.TraceSettingRequest()) == before


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("log_file", "string_param", "/tmp/x"), ("log_info", "string_param", "yes"),
        ("log_verbose_level", "bool_param", True), ("log_format", "string_param", "ISO8601"),
        ("nosuch", "bool_param", True),
    ],
)  # fmt: skip
def test_log_settings_that_are_none_or_not_for_clients(
    channel: grpc.Channel, key: str, field: str, value: bool | str
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    request = pb.LogSettingsRequest()
    setattr(request.settings[key], field, value)
    refusal(channel, stub.LogSettings, request, "INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["../double", "x" * 100_000, "a\0b"])
def test_health_knows_only_names_that_it_was_told(channel: grpc.Channel, name: str) -> None:
    check = health_pb2_grpc.HealthStub(channel).Check
    refusal(channel, check, health_pb2.HealthCheckRequest(service=name), "NOT_FOUND")


def test_a_method_that_does_not_exist(channel: grpc.Channel) -> None:
    for method in ("/x/y", "/inference.GRPCInferenceService/../etc", SERVICE + "Nothing", "/"):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(method)(b"", timeout=20)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    answers(channel)
