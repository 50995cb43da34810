"""Streams whose requests are bad, whose clients do not read, or leave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import Served, serving
from tests.system.strangers import SERVICE, answers, block, good, is_clean, numbers

MIB = 2**20
STRICT = (("triton_grpc_error", "true"),)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("streams")
    root = strangers.repository(base / "models")
    with serving(root, "--no-exit-on-error", log=base / "log") as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    # So that it is our limits that are met.
    unlimited = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    with grpc.insecure_channel(served.grpc, options=unlimited) as connected:
        yield connected


def bad_requests() -> dict[str, pb.ModelInferRequest]:
    found = {name: good() for name in ("name", "shape", "dimensions", "id", "model", "reserved")}
    found["name"].inputs[0].name = "line\nbreak\0"
    found["shape"].inputs[0].shape[:] = [2**62, 2**62]
    # Their product has nineteen million bits; whoever works it out is busy for minutes.
    found["dimensions"].inputs[0].shape[:] = [2**62] * 300_000
    found["id"].id = "i" * 3 * MIB
    found["model"].model_name = "m" * 3 * MIB
    found["reserved"].parameters["triton_final_response"].bool_param = False
    found["fails"] = numbers("picky", 3)
    found["not ready"] = good()
    found["not ready"].model_name = "broken"
    return found


@pytest.mark.parametrize("bad", bad_requests().values(), ids=bad_requests())
def test_a_bad_request_is_answered_in_its_place_and_the_stream_goes_on(
    channel: grpc.Channel, bad: pb.ModelInferRequest
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    before, after = good(), good()
    before.id, after.id = "before", "after"
    first, told, last = stub.ModelStreamInfer(iter([before, bad, after]), timeout=20)
    assert [first.infer_response.id, last.infer_response.id] == ["before", "after"]
    assert not first.error_message
    assert not last.error_message
    is_clean(told.error_message)
    assert bad.id.startswith(told.infer_response.id)
    assert told.infer_response.parameters["triton_final_response"].bool_param
    assert told.ByteSize() < 2**18


@pytest.mark.parametrize("bad", bad_requests().values(), ids=bad_requests())
def test_a_bad_request_ends_the_stream_of_who_asked_for_that(
    channel: grpc.Channel, bad: pb.ModelInferRequest
) -> None:
    stub = GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer(iter([good(), bad, good()]), timeout=20, metadata=STRICT)
    assert not next(call).error_message
    with pytest.raises(grpc.RpcError) as error:
        next(call)
    assert error.value.code().name in {"INVALID_ARGUMENT", "INTERNAL", "UNAVAILABLE"}
    is_clean(error.value.details())
    answers(channel)


def test_garbage_and_too_much_in_a_stream(channel: grpc.Channel) -> None:
    call = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    right = good().SerializeToString()
    wrong = [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x2a\x00" * 30_000,
             block(64 * MIB).SerializeToString()]  # fmt: skip
    told = [answer.error_message for answer in call(iter([*wrong, right]), timeout=30)]
    assert told.pop() == ""
    assert len(told) == len(wrong)
    for sentence in told:
        is_clean(sentence)


def test_who_does_not_read_is_not_read_from(served: Served, channel: grpc.Channel) -> None:
    taken = 0

    def blocks() -> Iterator[pb.ModelInferRequest]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield block(MIB, str(number))

    stub = GRPCInferenceServiceStub(channel)
    answers(channel)
    before = strangers.resident_mb(served)
    with grpc.insecure_channel(served.grpc) as apart:
        call = GRPCInferenceServiceStub(apart).ModelStreamInfer(blocks(), timeout=120)
        quiet, last = 0, -1
        while quiet < 200:  # good answers of others, without one more of these being taken
            stub.ModelInfer(good(), timeout=20)
            quiet, last = (quiet + 1 if taken == last else 0), taken
        assert taken < 150
        assert strangers.resident_mb(served) < before + 300
        assert [answer.infer_response.id for answer in call] == [str(n) for n in range(200)]


def test_one_slow_reader_does_not_slow_another(served: Served, channel: grpc.Channel) -> None:
    with grpc.insecure_channel(served.grpc) as apart:
        unread = GRPCInferenceServiceStub(apart).ModelStreamInfer(
            (block(MIB) for _ in range(200)), timeout=120
        )
        stub = GRPCInferenceServiceStub(channel)
        told = [a.error_message for a in stub.ModelStreamInfer(good() for _ in range(300))]
        assert told == [""] * 300
        unread.cancel()


def waiting(served: Served) -> float:
    return strangers.metric(served, 'farthing_waiting_rows{model="slow"')


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_who_leaves_a_stream_takes_his_waiting_requests_along(
    served: Served, channel: grpc.Channel, leave: str
) -> None:
    hold = threading.Event()

    def many() -> Iterator[pb.ModelInferRequest]:
        yield from (numbers("slow", 2000) for _ in range(50))
        hold.wait(60)  # the stream stays open

    apart = grpc.insecure_channel(served.grpc)
    call: Any = GRPCInferenceServiceStub(apart).ModelStreamInfer(many(), timeout=60)
    next(call)
    while waiting(served) < 20:
        pass
    if leave == "cancel":
        call.cancel()
    apart.close()
    hold.set()
    for _ in range(20):  # far fewer than would be answered before theirs
        if waiting(served) == 0:
            break
        answers(channel)
    stub = GRPCInferenceServiceStub(channel)
    stub.ModelInfer(numbers("slow", 1), timeout=2)


def test_hundreds_of_streams_that_are_left_leave_nothing(
    served: Served, channel: grpc.Channel
) -> None:
    answers(channel)
    before = strangers.resident_mb(served)
    for _ in range(10):
        with grpc.insecure_channel(served.grpc) as apart:
            stub = GRPCInferenceServiceStub(apart)
            for _ in range(30):
                call = stub.ModelStreamInfer(iter([block(MIB // 4), good()]), timeout=60)
                next(call)
                call.cancel()
    answers(channel)
    assert strangers.resident_mb(served) < before + 100
