"""Which inferences are followed, what their spans and those of their runs say, and what neither."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from service import following
from service.batcher import Batcher
from service.bill import GPU
from service.errors import InferenceFailed, InvalidSetting, ServingError
from service.interceptor import Interceptor
from service.ledger import Ledger
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from service.settings import Settings
from service.spans import Span
from service.statistics import Book
from tests import models
from tests.service import guarded
from tests.service.followed import CALLER, SAMPLED, TRACE, UNSAMPLED, Followed, row, serving, told
from tests.service.stage import Stage, feeds, until

pytestmark = pytest.mark.timeout(60)


async def status(call: object) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    return error.value.code().name


def too_small() -> pb.ModelInferRequest:
    """An image on which ``valid_convolution`` fails."""
    request = pb.ModelInferRequest(model_name="conv")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 1, 1])
    request.raw_input_contents.append(np.ones(1, np.float32).tobytes())
    return request


async def test_caller_that_is_traced_gets_its_child_and_one_that_is_not_gets_none(
    double_repository: Path,
) -> None:
    followed = Followed(share=1.0)
    async with serving(double_repository, followed) as stub:
        await stub.ModelInfer(row(rows=3), metadata=SAMPLED)
        await stub.ModelInfer(row(), metadata=UNSAMPLED)
    span = followed.only("ModelInfer")
    assert (format(span.context.trace_id, "032x"), format(span.parent.span_id, "016x")) == (
        TRACE, CALLER
    )  # fmt: skip
    assert span.context.trace_state.get("vendor") == "1"
    assert (span.name, span.kind) == (
        "inference.GRPCInferenceService/ModelInfer", SpanKind.SERVER
    )  # fmt: skip
    assert span.status.status_code is StatusCode.UNSET
    said = told(span)
    assert {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService",
            "rpc.method": "ModelInfer", "rpc.grpc.status_code": 0, "farthing.model": "double",
            "farthing.version": "1", "farthing.variant": "as-is", "farthing.rows": 3,
            "farthing.batch_rows": 3}.items() <= said.items()  # fmt: skip
    phases = [said[f"farthing.{phase}_s"] for phase in ("decode", "assembly", "run", "encode")]
    assert min(*phases, said["farthing.core_s"]) > 0 and "farthing.queue_s" in said


async def test_what_an_answer_took_is_named_by_what_is_paid_for(double_repository: Path) -> None:
    followed = Followed()
    book = Book(ledger=Ledger(cores=1.0, clock=time.monotonic, unit=GPU))
    async with serving(double_repository, followed, book) as stub:
        await stub.ModelInfer(row(), metadata=SAMPLED)
    said = told(followed.only("ModelInfer"))
    assert "farthing.gpu_s" in said and "farthing.core_s" not in said


@pytest.mark.parametrize(("share", "draw", "seen"), [(0, 0.0, 0), (1, 0.999, 1), (0.5, 0.6, 0)])
async def test_callers_that_say_nothing_are_followed_by_lot(
    double_repository: Path, share: float, draw: float, seen: int
) -> None:
    followed = Followed(share, draw)
    bad = (("traceparent", "00-0-nonsense-01"),)
    async with serving(double_repository, followed) as stub:
        await stub.ModelInfer(row())
        await stub.ModelInfer(row(), metadata=bad)  # who says nonsense says nothing
    spans = followed.seen("ModelInfer")
    assert len(spans) == 2 * seen and all(span.parent is None for span in spans)


async def test_requests_of_a_stream_each_have_a_span(double_repository: Path) -> None:
    followed = Followed()
    async with serving(double_repository, followed) as stub:
        sent = [row(), row("gone"), row()]
        answers = stub.ModelStreamInfer(iter(sent), metadata=SAMPLED)
        assert [bool(answer.error_message) async for answer in answers] == [False, True, False]
    spans = followed.seen("ModelStreamInfer")
    assert sorted(told(span)["rpc.grpc.status_code"] for span in spans) == [0, 0, 5]
    assert len({span.context.span_id for span in spans}) == 3
    assert {format(span.parent.span_id, "016x") for span in spans} == {CALLER}


async def test_refusals_say_which_and_why_and_blame_the_server_only_for_its_own(
    tmp_path: Path,
) -> None:
    models.double(tmp_path / "double" / "1" / "model.onnx")
    models.valid_convolution(tmp_path / "conv" / "1" / "model.onnx")
    followed = Followed(share=1.0)
    late, tiny, huge = row(), too_small(), row(rows=100_000)
    late.parameters["timeout"].int64_param = 1
    async with serving(tmp_path, followed, max_message_mib=1) as stub:
        seen = [await status(stub.ModelInfer(sent)) for sent in (row("secret"), late, tiny, huge)]
    assert seen == ["NOT_FOUND", "DEADLINE_EXCEEDED", "INTERNAL", "INVALID_ARGUMENT"]
    spans = followed.seen("ModelInfer")
    assert [told(span).get("error.type") for span in spans] == seen
    assert [told(span)["rpc.grpc.status_code"] for span in spans] == [5, 4, 13, 3]
    assert [told(span).get("farthing.reason") for span in spans] == [
        "model_not_found", "deadline_exceeded", "inference_failed", None
    ]  # fmt: skip
    blamed = [span.status.status_code is StatusCode.ERROR for span in spans]
    assert blamed == [False, True, True, False]
    assert [told(span).get("farthing.model") for span in spans] == [None, "double", "conv", None]
    assert "secret" not in "".join(span.to_json() for span in spans)  # a stranger's own text
    assert not any(span.events for span in spans)  # nor stack traces
    (batch,) = followed.seen("batch")
    assert batch.status.status_code is StatusCode.ERROR


async def test_call_without_a_good_token_leaves_no_span(
    double_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("a-token-that-is-long-enough-for-anyone\n")
    followed = Followed(share=1.0)
    async with serving(double_repository, followed, tokens=str(tmp_path / "tokens")) as stub:
        assert await status(stub.ModelInfer(row(), metadata=SAMPLED)) == "UNAUTHENTICATED"
    assert followed.seen() == []


async def test_caller_that_leaves_is_seen_to() -> None:
    followed, service = Followed(share=1.0), guarded.Service()
    service.door.clear()
    server = grpc.aio.server()
    interceptor = Interceptor(None, guarded.LIMIT)
    guarded.add_GRPCInferenceServiceServicer_to_server(service, interceptor)
    server.add_generic_rpc_handlers([following.calls(interceptor, followed.spans)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = GRPCInferenceServiceStub(channel).ModelInfer(guarded.request())
        async with asyncio.timeout(20):
            await service.entered.wait()
            call.cancel()
            await until(lambda: bool(followed.seen()))
    await server.stop(None)
    assert told(followed.only("ModelInfer"))["rpc.grpc.status_code"] == 1


def begin(followed: Followed) -> Span:
    span = followed.spans.begin(SAMPLED, "ModelInfer")
    assert span is not None
    return span


def submit(batcher: Batcher, span: Span | None, *values: float) -> asyncio.Task[object]:
    return asyncio.create_task(batcher.submit(feeds(*values), len(values), None, span=span))


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


async def test_a_run_is_linked_to_all_its_requests_that_are_followed_and_they_to_it(
    stage: Stage,
) -> None:
    followed, batcher = Followed(), stage.batcher()
    door = await stage.occupy(batcher)
    spans = [begin(followed), None, begin(followed)]
    callers = [submit(batcher, span, 1.0, 2.0) for span in spans]
    await until(lambda: batcher.waiting_rows == 6)
    stage.door.release()
    await asyncio.gather(door, *callers)
    for span in filter(None, spans):
        span.end("OK")
    batch, requests = followed.only("batch"), followed.seen("ModelInfer")
    assert batch.parent is None and batch.context.trace_id != requests[0].context.trace_id
    assert sorted(linked(batch)) == sorted(span.context.span_id for span in requests)
    assert [linked(span) for span in requests] == [[batch.context.span_id]] * 2
    assert {"farthing.requests": 3, "farthing.rows": 6, "farthing.model": "m"}.items() <= told(
        batch
    ).items()


async def test_a_request_in_parts_is_linked_to_each_of_its_runs(stage: Stage) -> None:
    followed, batcher = Followed(), stage.batcher(max_rows=2)
    span = begin(followed)
    await submit(batcher, span, 1, 2, 3)
    span.end("OK")
    assert sorted(linked(followed.only("ModelInfer"))) == sorted(
        batch.context.span_id for batch in followed.seen("batch")
    )
    assert [told(batch)["farthing.rows"] for batch in followed.seen("batch")] == [2, 1]


async def test_a_run_that_fails_for_one_is_seen_to_and_so_are_those_after_it(stage: Stage) -> None:
    followed, batcher = Followed(), stage.batcher()
    door = await stage.occupy(batcher)
    good, bad = begin(followed), begin(followed)
    callers = [submit(batcher, good, 1), submit(batcher, bad, -1)]
    await until(lambda: batcher.waiting_rows == 2)
    stage.door.release()
    _, _, failure = await asyncio.gather(door, *callers, return_exceptions=True)
    assert isinstance(failure, InferenceFailed)
    batches = followed.seen("batch")
    assert [told(batch)["farthing.requests"] for batch in batches] == [2, 1, 1]
    errors = [batch.status.status_code is StatusCode.ERROR for batch in batches]
    assert errors == [True, False, True]
    assert "secret" not in "".join(batch.to_json() for batch in batches)


@pytest.mark.parametrize("value", [1, -1])
async def test_a_run_in_place_is_a_run_too(stage: Stage, value: float) -> None:
    followed, batcher = Followed(), stage.batcher(in_place_rows=1)
    span = begin(followed)
    try:
        await submit(batcher, span, value)
    except ServingError:
        assert value < 0
    assert linked(followed.only("batch")) == [span.context.span_id]  # type: ignore[attr-defined]


async def test_a_run_whose_caller_left_is_linked_all_the_same(stage: Stage) -> None:
    followed, batcher = Followed(), stage.batcher()
    stage.run.hold()
    span = begin(followed)
    caller = submit(batcher, span, 1)
    await until(lambda: stage.run.batches == [1])
    caller.cancel()
    await asyncio.wait([caller])
    span.end(None)
    stage.run.release()
    await until(lambda: batcher.running == 0)
    assert linked(followed.only("batch")) == [followed.only("ModelInfer").context.span_id]


async def test_the_line_about_a_failure_carries_the_trace(
    tmp_path: Path, lines: io.StringIO
) -> None:
    models.valid_convolution(tmp_path / "conv" / "1" / "model.onnx")
    async with serving(tmp_path, Followed()) as stub:
        await status(stub.ModelInfer(too_small(), metadata=SAMPLED))
    (line,) = (one for one in map(json.loads, lines.getvalue().splitlines()) if "exception" in one)
    assert line["trace_id"] == TRACE and line["span_id"]


async def test_lines_of_a_request_carry_its_trace_also_where_only_the_caller_knows_it(
    double_repository: Path, lines: io.StringIO
) -> None:
    followed = Followed()
    async with serving(double_repository, followed) as stub:
        for metadata in (SAMPLED, UNSAMPLED, ()):
            await stub.ModelInfer(row(), metadata=metadata)
    ids = [
        (line.get("trace_id"), line.get("span_id"))
        for line in map(json.loads, lines.getvalue().splitlines())
        if line["message"] == "inference"
    ]
    own = format(followed.only("ModelInfer").context.span_id, "016x")
    assert ids == [(TRACE, own), (TRACE, None), (None, None)]


def test_packages_that_are_missing_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.otlp", None)
    monkeypatch.delattr("service.otlp", raising=False)
    following.check(Settings())
    with pytest.raises(InvalidSetting, match=r"pip install 'farthing\[tracing\]'"):
        following.check(Settings(otlp_endpoint="http://collector:4317"))


def test_nothing_is_there_where_nobody_follows() -> None:
    code = (
        "import sys, service.cli, service.following as f\n"
        "from service.settings import Settings\n"
        "f.check(Settings()); inner = object()\n"
        "assert f.start(Settings(), '1') is None and f.calls(inner, None) is inner\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
