"""Requests that are too large, or become so: what they cost is bounded, and goes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import Served, serving
from tests.system.strangers import SERVICE, answers, good, infer_refusal, is_clean

MIB = 2**20
PUSHBACK = "grpc-retry-pushback-ms"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("sizes")
    root = strangers.repository(base / "models")
    options = ("--no-exit-on-error", "--max-queue-rows", "100000")
    with serving(root, *options, log=base / "log") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    # So that it is the server's limits that are met.
    unlimited = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    with grpc.insecure_channel(served.grpc, options=unlimited) as connected:
        yield connected


def sized(size: int) -> pb.ModelInferRequest:
    request = good()
    request.raw_input_contents[0] = bytes(size)
    return request


@pytest.mark.parametrize(
    ("compression", "size", "status"),
    [  # between our limit and gRPC's, and beyond that: a hundredth of it on the wire
        (grpc.Compression.Gzip, 100, "INVALID_ARGUMENT"),
        (grpc.Compression.Gzip, 200, "RESOURCE_EXHAUSTED"),
        (grpc.Compression.Deflate, 200, "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_is_small_only_while_compressed(
    served: Served,
    channel: grpc.Channel,
    compression: grpc.Compression,
    size: int,
    status: str,
) -> None:
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    assert infer(good(), timeout=20, compression=compression).raw_output_contents
    before = strangers.resident_mb(served)
    with pytest.raises(grpc.RpcError) as error:
        infer(sized(size * MIB), timeout=60, compression=compression)
    assert error.value.code().name == status
    assert PUSHBACK not in dict(error.value.trailing_metadata() or ())
    is_clean(error.value.details())
    assert strangers.resident_mb(served) < before + 450
    answers(channel)


@pytest.mark.parametrize("size", [65, 127])
def test_a_request_over_the_limit(channel: grpc.Channel, size: int) -> None:
    assert str(64 * MIB) in infer_refusal(channel, sized(size * MIB))


def test_a_request_over_grpcs_own_limit_is_no_reason_to_try_again(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        GRPCInferenceServiceStub(channel).ModelInfer(sized(129 * MIB), timeout=60)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert PUSHBACK not in dict(error.value.trailing_metadata() or ())
    answers(channel)


@pytest.mark.parametrize("tag", [b"\x2a", b"\x32", b"\x3a", b"\x22"])
def test_millions_of_empty_tensors_contents_or_parameters(
    served: Served, channel: grpc.Channel, tag: bytes
) -> None:
    answers(channel)
    before = strangers.resident_mb(served)
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(SERVICE + "ModelInfer")((tag + b"\0") * 16 * MIB, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "fields" in error.value.details()
    assert strangers.resident_mb(served) < before + 150
    answers(channel)


def test_millions_of_parameters_within_one_input(served: Served, channel: grpc.Channel) -> None:
    answers(channel)
    before = strangers.resident_mb(served)
    entries = b"\x22\x00" * (16 * MIB)  # field 4 of an input: its parameters
    data = b"\x2a" + varint(len(entries)) + entries
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(SERVICE + "ModelInfer")(data, timeout=60)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "fields" in error.value.details()
    assert strangers.resident_mb(served) < before + 150
    answers(channel)


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def test_very_many_dimensions_inputs_outputs_and_parameters(channel: grpc.Channel) -> None:
    request = good()
    request.inputs[0].shape.extend([2**62] * 500_000)
    assert "shape" in infer_refusal(channel, request)
    request = good()
    for number in range(65):
        request.inputs.add(name=f"n{number}")
    assert "at most 64" in infer_refusal(channel, request)
    request = good()
    for _ in range(65):
        request.outputs.add(name="y")
    assert "at most 64" in infer_refusal(channel, request)
    request = good()
    for number in range(65):
        request.parameters[f"n{number}"].bool_param = True
    assert "at most 64" in infer_refusal(channel, request)
    request = good()
    request.raw_input_contents.extend([b""] * 10_000)
    assert "10001 raw contents" in infer_refusal(channel, request)


def test_very_many_parameters_of_one_tensor(channel: grpc.Channel) -> None:
    request = good()
    for number in range(100_000):
        request.inputs[0].parameters[f"n{number}"].bool_param = True
    assert "fields" in infer_refusal(channel, request)
    answers(channel)


def test_an_answer_over_the_limit(channel: grpc.Channel) -> None:
    request = strangers.block(64 * MIB - 1000)
    left = 64 * MIB - request.ByteSize()
    request = strangers.block(64 * MIB - 1000 + left)  # the answer also has the model's version
    assert request.ByteSize() == 64 * MIB
    told = infer_refusal(channel, request)
    assert "ask for fewer outputs or rows" in told


@pytest.mark.parametrize("size", [60 * MIB, MIB])
def test_classes_by_the_million_do_not_hold_up_others(channel: grpc.Channel, size: int) -> None:
    request = strangers.block(size)
    request.outputs.add(name="y").parameters["classification"].int64_param = 2**40
    assert "ask for fewer" in infer_refusal(channel, request)


def test_large_refused_requests_do_not_stay_in_memory(
    served: Served, channel: grpc.Channel
) -> None:
    request = sized(32 * MIB)
    infer_refusal(channel, request)
    before = strangers.resident_mb(served)
    for _ in range(24):
        infer_refusal(channel, request)
    # gRPC and the allocator keep a few of them, by chance; 768 MB were refused.
    assert strangers.resident_mb(served) < before + 200


def test_thousands_of_refused_requests_leave_nothing(served: Served, channel: grpc.Channel) -> None:
    infer = GRPCInferenceServiceStub(channel).ModelInfer

    def wave(number: int) -> Counter[str]:
        requests = []
        for position in range(500):
            unknown, misnamed, misshapen = good(), good(), good()
            unknown.model_name = f"model-{number}-{position}"
            misnamed.inputs[0].name = misnamed.id = f"input-{number}-{position}"
            misshapen.inputs[0].shape[:] = [number, position, 7]
            requests += [unknown, misnamed, misshapen]
        calls = [infer.future(request, timeout=60) for request in requests]
        return Counter(call.code().name for call in calls)

    expected = {"NOT_FOUND": 500, "INVALID_ARGUMENT": 1000}
    assert wave(0) == expected
    answers(channel)
    before = strangers.resident_mb(served)
    for number in range(1, 4):
        assert wave(number) == expected
    assert strangers.resident_mb(served) < before + 20
    # What strangers make up names no series of metrics.
    assert strangers.metric(served, 'farthing_requests_total{model="model-') == 0


def test_thousands_of_calls_at_once_are_answered_and_none_is_cancelled(
    channel: grpc.Channel,
) -> None:
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    calls = [infer.future(good(), timeout=60) for _ in range(4000)]
    assert Counter(call.code().name for call in calls) == {"OK": 4000}
