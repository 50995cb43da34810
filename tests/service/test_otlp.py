"""How spans are sent to a collector, and what is lost where it does not take them."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import copy_context

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from service import otel, otlp
from service.cputime import FrontEnd
from service.errors import InvalidSetting

pytestmark = pytest.mark.timeout(60)
SPENT_S = 0.2


class Collector(SpanExporter):
    """Takes spans or does not, or never answers until it is closed."""

    def __init__(self) -> None:
        self.result, self.closed = SpanExportResult.FAILURE, 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        logging.getLogger("opentelemetry.exporter").error("Failed", exc_info=ValueError("secret"))
        return self.result

    def shutdown(self) -> None:
        self.closed += 1


def test_a_collector_that_fails_is_told_of_once_and_when_it_is_back(lines: io.StringIO) -> None:
    inner = Collector()
    telling = otlp.Telling(inner, "http://collector:4317")
    for _ in range(3):
        telling.export([None, None])  # type: ignore[list-item]
    inner.result = SpanExportResult.SUCCESS
    telling.export([])
    telling.shutdown()
    telling.shutdown()
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["message"] for line in told] == [
        "the collector does not take spans; they are lost until it does",
        "the collector takes spans again",
    ]
    assert told[1]["lost"] == 6 and inner.closed == 1


class Spender(SpanExporter):
    """Takes CPU to send."""

    def __init__(self) -> None:
        self.sent = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        begun = time.thread_time()
        while time.thread_time() - begun < SPENT_S:
            pass
        self.sent.set()
        return SpanExportResult.SUCCESS


def test_sending_is_done_beside_the_calls_and_is_the_front_ends_cpu() -> None:
    exporter, front = Spender(), FrontEnd()
    spans = otel.OpenTelemetry(exporter, Resource({}), share=1.0)
    before, begun = front(), time.thread_time()
    span = copy_context().run(spans.begin, (), "ModelInfer")
    assert span is not None
    span.end("OK")
    assert exporter.sent.wait(20)
    own_s = time.thread_time() - begun
    assert own_s < SPENT_S / 2
    assert front() - before >= SPENT_S
    spans.close()


class Stuck(SpanExporter):
    """Sends nothing before it is let go."""

    def __init__(self) -> None:
        self.entered, self.door = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.door.wait(20)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.door.set()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The SDK's logger as it was."""
    logger = logging.getLogger("opentelemetry")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before


@pytest.mark.usefixtures("quiet")
def test_more_spans_than_can_be_sent_are_lost_and_that_is_said(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Stuck()
    monkeypatch.setattr(otlp, "OTLPSpanExporter", lambda endpoint, timeout: exporter)
    spans = otlp.start("http://collector:4317", share=1.0, version="1")

    def one() -> None:
        span = spans.begin((), "ModelInfer")
        assert span is not None
        span.end("OK")

    copy_context().run(one)
    assert exporter.entered.wait(20)  # nothing is taken off the queue from here on
    for _ in range(5000):
        copy_context().run(one)
    exporter.door.set()
    spans.close()
    (line,) = map(json.loads, lines.getvalue().splitlines())
    assert line["message"].startswith("there are more spans than can be sent")


@pytest.mark.usefixtures("quiet")
def test_variables_of_the_sdk_that_cannot_be_used_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "nonsense")
    with pytest.raises(InvalidSetting, match=r"as the OTEL_ variables say: .*nonsense"):
        otlp.start("http://collector:4317", share=1.0, version="1")
