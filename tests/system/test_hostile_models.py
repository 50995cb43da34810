"""Models that are broken or reach for what is not theirs, by request and from the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import Served, serving
from tests.system.strangers import answers, good, is_clean, refusal

FOUR = np.float32(4).tobytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return strangers.repository(tmp_path_factory.mktemp("hostile") / "models")


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    options = ("--no-exit-on-error", "--control", "repository", "--poll-s", "0.05")
    with serving(root, *options, log=root.parent / "log") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc) as connected:
        yield connected


@pytest.fixture(scope="module")
def graph(root: Path) -> bytes:
    """The bytes of a good model."""
    return (root / "double" / "1" / "model.onnx").read_bytes()


def load(name: str, **files: bytes) -> pb.RepositoryModelLoadRequest:
    """With files of version 1 in place of those on disk, by their names without the dot."""
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for file, data in files.items():
        request.parameters[f"file:1/{file.replace('_', '.')}"].bytes_param = data
    return request


def load_refusal(channel: grpc.Channel, request: pb.RepositoryModelLoadRequest) -> str:
    stub = GRPCInferenceServiceStub(channel)
    return refusal(channel, stub.RepositoryModelLoad, request, "INVALID_ARGUMENT")


def reason(channel: grpc.Channel, name: str, wanted: Callable[[str, str], bool]) -> str:
    """What the index says of a model, once it is as wanted."""
    stub, ends = GRPCInferenceServiceStub(channel), time.monotonic() + 20
    while time.monotonic() < ends:
        for model in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=20).models:
            if model.name == name and wanted(model.state, model.reason):
                return str(model.reason)
    raise AssertionError(f"{name} does not become as wanted")


def put(root: Path, name: str, data: bytes) -> Path:
    """A model on disk, there in one step."""
    path = root / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root.parent / "half-written").write_bytes(data)
    (root.parent / "half-written").rename(path)
    return path


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "almost whole": lambda data: data[:-1],
    "overwritten": lambda data: data[:20] + b"\xff" * 40 + data[60:],
    "text": lambda data: b"<html>404</html>" * 9,
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_file_is_refused_and_the_old_model_goes_on(
    channel: grpc.Channel, root: Path, graph: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    told = load_refusal(channel, load("double", model_onnx=spoil(graph)))
    assert told.startswith("version 1 cannot be loaded: ")
    stub = GRPCInferenceServiceStub(channel)
    stub.RepositoryModelLoad(load("double"), timeout=20)
    # Found on the disk, it is refused in the index, and tried by hand too.
    put(root, "double", spoil(graph))
    is_clean(reason(channel, "double", lambda state, why: bool(why)))
    load_refusal(channel, load("double"))
    put(root, "double", graph)
    reason(channel, "double", lambda state, why: state == "READY" and not why)
    answers(channel)


@pytest.mark.parametrize("position", range(0, 150, 7))
def test_one_wrong_byte_never_ends_the_server(
    channel: grpc.Channel, graph: bytes, position: int
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    spoilt = bytearray(graph)
    spoilt[position % len(graph)] ^= 0xFF
    try:
        stub.RepositoryModelLoad(load("flipped", model_onnx=bytes(spoilt)), timeout=20)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        is_clean(error.details())
    answers(channel)


def outside(location: str, *, offset: int = 0, length: int = 4) -> TensorProto:
    """A number whose bytes lie in a file of that name."""
    tensor = TensorProto(name="factor", data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def as_weight(tensor: TensorProto, graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    model.graph.initializer[0].CopyFrom(tensor)
    return model.SerializeToString()


def as_constant(tensor: TensorProto, graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["factor"], value=tensor))
    return model.SerializeToString()


def in_a_branch(tensor: TensorProto, graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    del model.graph.initializer[:]
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, [])
    tensor.name = "inner"
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["out"])], "branch", [], [value], [tensor]
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [1])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["yes"], value=yes))
    choice = helper.make_node("If", ["yes"], ["factor"], then_branch=branch, else_branch=branch)
    model.graph.node.insert(1, choice)
    return model.SerializeToString()


@pytest.mark.parametrize("make", [as_weight, as_constant, in_a_branch])
@pytest.mark.parametrize("way", ["absolute", "up", "up and down", "proc", "missing", "directory"])
def test_weights_outside_of_a_models_directory(
    channel: grpc.Channel, root: Path, graph: bytes, make: Callable[..., bytes], way: str
) -> None:
    secret = root.parent / "secret.bin"
    secret.write_bytes(FOUR)
    # As deep as the directory for the files of a request is.
    (root / "lair" / "1").mkdir(parents=True, exist_ok=True)
    (root / "secret.bin").write_bytes(FOUR)
    location = {
        "absolute": str(secret), "up": "../../secret.bin", "up and down": "x/../../../secret.bin",
        "proc": "/proc/self/environ", "missing": "nosuch.bin", "directory": ".",
    }[way]  # fmt: skip
    evil = make(outside(location), graph)
    told = load_refusal(channel, load("lair", model_onnx=evil))
    assert "secret" not in told
    # On the disk, where the file that it reaches for really is there.
    put(root, "lair", evil)
    told = load_refusal(channel, load("lair"))
    assert "secret" not in told
    is_clean(reason(channel, "lair", lambda state, why: state == "UNAVAILABLE" and bool(why)))


def test_weights_beside_the_model_are_read_and_none_past_their_end(
    channel: grpc.Channel, graph: bytes
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    beside = as_weight(outside("weights.bin"), graph)
    stub.RepositoryModelLoad(load("apart", model_onnx=beside, weights_bin=FOUR), timeout=20)
    request = good(1.0)
    request.model_name = "apart"
    answer = stub.ModelInfer(request, timeout=20)
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [4.0] * 4
    for offset in (1, 4, 2**40, 2**62, -4):
        past = as_weight(outside("weights.bin", offset=offset), graph)
        load_refusal(channel, load("apart", model_onnx=past, weights_bin=FOUR))
    assert stub.ModelInfer(request, timeout=20).raw_output_contents == answer.raw_output_contents


def test_a_link_among_the_weights_does_not_lead_outside(
    channel: grpc.Channel, root: Path, graph: bytes
) -> None:
    secret = root.parent / "linked.bin"
    secret.write_bytes(FOUR)
    (root / "linked" / "1").mkdir(parents=True)
    (root / "linked" / "1" / "weights.bin").symlink_to(secret)
    put(root, "linked", as_weight(outside("weights.bin"), graph))
    load_refusal(channel, load("linked"))


@pytest.mark.parametrize(
    "key",
    [
        "file:../model.onnx", "file:1/../../x", "file:1/..", "file:1//etc/passwd", "file:/etc/x",
        "file:0/model.onnx", "file:01/model.onnx", "file:-1/model.onnx", "file:1", "file:",
        "file:1/", "file:1/a/b", "file:1/a\\b", "file:1/\0", "file:1/.hidden", "file:x/model.onnx",
        "file:" + "9" * 30 + "/model.onnx", "file:\u0661/model.onnx", "file:1/" + "x" * 5000,
        "nosuch", "", "config\0", "FILE:1/model.onnx",
    ],
)  # fmt: skip
def test_files_of_a_load_that_lead_elsewhere(
    channel: grpc.Channel, root: Path, graph: bytes, key: str
) -> None:
    before = sorted(path.name for path in root.parent.iterdir())
    request = load("double")
    request.parameters[key].bytes_param = graph
    load_refusal(channel, request)
    assert sorted(path.name for path in root.parent.iterdir()) == before


CONFIGS = {
    "deep list": "[" * 200_000 + "]" * 200_000,
    "deep object": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "deep and no more": '{"parameters":' * 900 + "1" + "}" * 900,
    "deep in a field": '{"parameters":' + "[" * 990 + "]" * 990 + "}",
    "not closed": "[" * 200_000,
    "too long": '{"name":"' + "d" * 2**21 + '"}',
    "no object": "null",
    "no JSON": "{name: double}",
    "another name": '{"name":"../../other"}',
    "another file": '{"default_model_filename":"../../../other"}',
    "a nul in a file": '{"default_model_filename":"model\\u0000.onnx"}',
    "half a letter": '{"name":"\\ud800"}',
    "a huge number": '{"max_batch_size":' + "9" * 5000 + "}",
    "infinity": '{"max_batch_size":1e999}',
    "not a number": '{"max_batch_size":NaN}',
    "out of range": '{"max_batch_size":-1}',
    "unknown": '{"nosuch":1}',
    "another backend": '{"backend":"python"}',
    "code": '{"model_operations":{"op_library_filename":["/tmp/evil.so"]}}',
    "labels elsewhere": '{"output":[{"name":"y","data_type":"TYPE_FP32","dims":[4],'
    '"label_filename":"../../../other"}],"max_batch_size":4}',
    "warm-up elsewhere": '{"model_warmup":[{"name":"w","inputs":{"x":{"data_type":"TYPE_FP32",'
    '"dims":[4],"input_data_file":"../../other"}}}]}',
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_none_or_reaches_elsewhere(channel: grpc.Channel, config: str) -> None:
    request = load("double")
    request.parameters["config"].string_param = config
    load_refusal(channel, request)


def test_a_config_with_thousands_of_unknown_parameters_writes_few_lines(
    channel: grpc.Channel, root: Path
) -> None:
    log = root.parent / "log"
    before = log.stat().st_size
    config = {"parameters": {f"k{n}": {"string_value": "x"} for n in range(10_000)}}
    request = load("double")
    request.parameters["config"].string_param = json.dumps(config)
    GRPCInferenceServiceStub(channel).RepositoryModelLoad(request, timeout=60)
    assert log.stat().st_size < before + 20_000
    answers(channel)
