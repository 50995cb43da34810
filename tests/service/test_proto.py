"""The wire is Triton's, fact by fact, and the stubs are what `make proto` makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from tritonclient.grpc import model_config_pb2, service_pb2

from service.proto import inference_pb2

ROOT = Path(__file__).parents[2]
STUB = ROOT / "service" / "proto" / "inference"
INFER = """
request = {stubs}.ModelInferRequest(model_name="m")
assert {stubs}.ModelInferRequest.FromString(request.SerializeToString()).model_name == "m"
"""
OURS = "from service.proto import inference_pb2, inference_pb2_grpc" + INFER.format(
    stubs="inference_pb2"
)
THEIRS = "import tritonclient.grpc as t" + INFER.format(stubs="t.service_pb2")

Facts = dict[str, Any]


def file_of(*modules: Any) -> list[FileDescriptorProto]:
    return [FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb) for module in modules]


def facts(*files: FileDescriptorProto) -> Facts:
    """Dotted name -> what must agree, for every message, field, oneof, enum value and RPC."""
    found: Facts = {}
    for file in files:
        for message in file.message_type:
            found.update(_message(f"{file.package}.{message.name}", message))
        for enum in file.enum_type:
            found.update(_enum(f"{file.package}.{enum.name}", enum))
        for service in file.service:
            for rpc in service.method:
                found[f"{file.package}.{service.name}/{rpc.name}"] = (
                    rpc.input_type,
                    rpc.output_type,
                    rpc.client_streaming,
                    rpc.server_streaming,
                )
    return found


def _message(path: str, message: DescriptorProto) -> Iterator[tuple[str, Any]]:
    yield path, ("message", message.options.map_entry)
    for field in message.field:
        yield f"{path}.{field.name}", _field(field, message)
    for nested in message.nested_type:
        yield from _message(f"{path}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _enum(f"{path}.{enum.name}", enum)


def _field(field: FieldDescriptorProto, message: DescriptorProto) -> tuple[Any, ...]:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    kind = FieldDescriptorProto.Type.Name(field.type)
    label = FieldDescriptorProto.Label.Name(field.label)
    return field.number, kind, label, field.type_name, oneof, field.proto3_optional


def _enum(path: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, Any]]:
    yield path, "enum"
    for value in enum.value:
        yield f"{path}.{value.name}", value.number


(OUR_FILE,) = file_of(inference_pb2)
SERVICE_FILE, CONFIG_FILE = file_of(service_pb2, model_config_pb2)
OUR_FACTS, THEIR_FACTS = facts(OUR_FILE), facts(SERVICE_FILE, CONFIG_FILE)
RPCS = sorted(name for name in THEIR_FACTS if "/" in name)


def differences(names: Facts) -> dict[str, tuple[Any, Any]]:
    """Name -> (ours, theirs), where they are not the same."""
    pairs = {name: (OUR_FACTS.get(name), THEIR_FACTS.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def test_everything_of_ours_is_tritons_with_the_same_facts() -> None:
    assert differences(OUR_FACTS) == {}


def test_everything_of_tritons_is_ours_the_whole_model_config_too() -> None:
    assert differences(THEIR_FACTS) == {}


def test_comparison_sees_every_kind_of_fact() -> None:
    message = "inference.ModelInferRequest"
    assert THEIR_FACTS[f"{message}.ParametersEntry"] == ("message", True)
    assert THEIR_FACTS[f"{message}.raw_input_contents"][:3] == (7, "TYPE_BYTES", "LABEL_REPEATED")
    assert THEIR_FACTS["inference.InferParameter.int64_param"][4] == "parameter_choice"
    assert THEIR_FACTS["inference.DataType.TYPE_FP32"] == 11
    assert len(RPCS) >= 20


@pytest.mark.parametrize("rpc", RPCS)
def test_stub_calls_the_method_that_triton_calls(rpc: str) -> None:
    from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

    channel = Recorder()
    GRPCInferenceServiceStub(channel)
    assert channel.kinds[f"/{rpc}"] == tuple(THEIR_FACTS[rpc][2:])


class Recorder:
    """A channel that notes each method's path, and which of its sides are streams."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[bool, bool]] = {}

    def unary_unary(self, path: str, **_: Any) -> None:
        self.kinds[path] = (False, False)

    def unary_stream(self, path: str, **_: Any) -> None:
        self.kinds[path] = (False, True)

    def stream_unary(self, path: str, **_: Any) -> None:
        self.kinds[path] = (True, False)

    def stream_stream(self, path: str, **_: Any) -> None:
        self.kinds[path] = (True, True)


@pytest.mark.parametrize("program", [OURS + THEIRS, THEIRS + OURS], ids=["ours", "theirs"])
def test_one_process_imports_ours_and_tritons_in_either_order(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_message_of_tritons_client_is_read_by_ours() -> None:
    sent = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"raw"])
    sent.parameters["timeout"].int64_param = 7
    sent.inputs.add(name="x", datatype="FP32", shape=[2, 3]).contents.fp32_contents.append(1.5)
    read = inference_pb2.ModelInferRequest.FromString(sent.SerializeToString())
    assert read.inputs[0].contents.fp32_contents == [1.5]
    assert read.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)


def test_committed_stubs_are_what_make_proto_makes(tmp_path: Path) -> None:
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    proto = "service/proto/inference.proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *out, proto], cwd=ROOT, check=True
    )
    fresh = tmp_path / "service" / "proto"
    messages = fresh / "inference_pb2.py"
    default, private = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"
    messages.write_text(messages.read_text().replace(default, private))
    for name in ("inference_pb2.py", "inference_pb2.pyi", "inference_pb2_grpc.py"):
        assert (fresh / name).read_bytes() == (STUB.parent / name).read_bytes(), "run `make proto`"
