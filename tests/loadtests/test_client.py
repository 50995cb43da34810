"""What is said where a server does not answer as it must."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from loadtests import client
from loadtests.client import TargetFailed
from loadtests.pricing import measure
from loadtests.pricing.identity import Said
from loadtests.pricing.measure import Effort
from loadtests.pricing.questions import Questions
from loadtests.pricing.rig import Work
from loadtests.slo import Slo
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

EVIL = "é\n\x1b[2J" * 100


class Refusing(GRPCInferenceServiceServicer):
    """Tells of a model, and refuses its calls in words that a terminal would obey."""

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        if request.name == "gone":
            context.abort(grpc.StatusCode.NOT_FOUND, EVIL)
        x = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
        return pb.ModelMetadataResponse(name="net", inputs=[x])

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        if request.model_name == "slow":
            while context.is_active():
                time.sleep(0.01)
        context.abort(grpc.StatusCode.UNKNOWN, EVIL)
        raise AssertionError("abort raises")


@contextmanager
def serving() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_the_words_of_a_server_are_said_without_what_a_terminal_obeys() -> None:
    with serving() as target, client.connected(target) as caller:
        with pytest.raises(TargetFailed, match="does not serve model 'net'") as failed:
            caller.check("net")
        with grpc.insecure_channel(target) as channel:
            asking = Questions(channel, model="gone", version="")
            with pytest.raises(TargetFailed, match="any more: é") as gone:
                asking.messages(rows=1, rows_file=None)
    for error in (failed, gone):
        assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_the_first_answer_is_waited_for_no_longer_than_there_is_time() -> None:
    with serving() as target, client.connected(target) as caller:
        begun = time.perf_counter()
        with pytest.raises(TargetFailed, match="did not answer a call to 'slow' in the time"):
            caller.check("slow", most_s=0.2)
        assert time.perf_counter() - begun < 10


def test_a_search_waits_for_the_first_answer_within_its_budget_and_says_so() -> None:
    said = list[str]()
    with serving() as target:
        begun = time.perf_counter()
        with pytest.raises(TargetFailed, match="did not answer a call to 'slow' in the time"):
            measure.profile_of(
                Work((target,), "slow"), Said(), Slo(99, 0.1, 0.999), Effort(0.5), told=said.append
            )
        assert time.perf_counter() - begun < 10
    assert said == [f"waiting for the first answer of {target}"]
